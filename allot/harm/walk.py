"""Walk: one pass over data that shows every local change beside what the outputs feel of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from allot.bank import Bank
from allot.errors import ModelError
from allot.harm.changes import Change, changes
from allot.harm.tape import Tape, taped
from allot.option import Option
from allot.scene import Scene
from allot.task import Data, Task, take

# column of an option, all options of all choices side by side -> the tensors it changes
Columns = Mapping[int, Sequence[Change]]
# directions(outputs [n, ...], rows of the data) -> [m, n, ...], whose gradients are wanted
Directions = Callable[[Tensor, slice], Tensor]
# each(rows, column, gradients [m, n, ...], change [n, ...]): one tensor that an option changes
Each = Callable[[slice, int, Tensor, Tensor], None]
Look = Callable[[slice, Tape], None]


def columns(scene: Scene) -> tuple[Columns, dict[int, dict[str, Option]]]:
    """Changes by the column of their option, and (site -> option) of those seen as a whole.

    Those are dropped blocks, whose change is too large to be told from one tensor, and options
    that leave a tensor of another shape (tried out on two calibration inputs).
    """
    found: dict[int, tuple[Change, ...]] = {}
    whole: dict[int, dict[str, Option]] = {}
    every = [(c, o) for c in scene.space.choices for o in c.options]
    for column, (choice, option) in enumerate(every):
        if not option.is_original:
            whole[column] = dict.fromkeys((choice.site, *choice.tied), option)
            found[column] = changes(scene.bank, whole[column])
    example = Data(inputs=scene.task.example(2))
    tried = [c for group in found.values() for c in group]
    tape = next(_tapes(scene.task, scene.bank, example, tried, batch=2))[1]
    local = {
        k: group
        for k, group in found.items()
        if every[k][1].kind != "block" and all(_alike(c, tape) for c in group)
    }
    return local, {k: o for k, o in whole.items() if k not in local}


def _alike(change: Change, tape: Tape) -> bool:
    calls = len(tape.values(change.at))
    if not calls or calls != len(tape.values(change.source)):
        return False
    with torch.no_grad():
        made, want = change.made(tape, 0), change.original(tape, 0)
    return made.shape == want.shape and made.is_floating_point()


def _tapes(
    task: Task, bank: Bank, data: Data, every: Iterable[Change], *, batch: int
) -> Iterator[tuple[slice, Tape]]:
    """What the original's tensors are, batch by batch; rows of the data with each."""
    watched = {p for c in every for p in (c.at, c.source)}
    for start in range(0, len(data), batch):
        rows = slice(start, min(start + batch, len(data)))
        with taped(bank, watched=watched) as tape, torch.no_grad():
            task.forward(bank.skeleton, take(data.inputs, rows))
        yield rows, tape


def walk(
    scene: Scene,
    table: Columns,
    *,
    data: Data,
    directions: Directions,
    each: Each,
    batch: int,
    also: Collection[str] = (),
    look: Look = lambda rows, tape: None,
    progress: Callable[[float], None] = lambda share: None,
) -> None:
    """Shows every change of every option on all data, with the gradients of <direction, output>.

    also, look: modules whose outputs are recorded with their gradients too, and who is shown the
    tape of every batch.

    All are taken at the original network, each change alone.  A direction that sums over samples
    gives every sample its own gradient, since none reads another's.
    """
    every = [c for group in table.values() for c in group]
    marked = {c.at for c in every} | {(name, "out") for name in also}
    watched = marked | {c.source for c in every}
    for start in range(0, len(data), batch):
        rows = slice(start, min(start + batch, len(data)))
        with taped(scene.bank, watched=watched, marked=marked) as tape, torch.enable_grad():
            output = scene.task.forward(scene.bank.skeleton, take(data.inputs, rows))
        tape.differentiate(output, directions(output.detach(), rows))
        with torch.no_grad():
            _show(table, tape, rows, each)
            look(rows, tape)
        progress(rows.stop / len(data))


def _show(table: Columns, tape: Tape, rows: slice, each: Each) -> None:
    for column, group in table.items():
        for change in group:
            for call, found in enumerate(tape.gradients[change.at]):
                if not found:
                    continue  # nothing that was put out depends on it
                gradients = torch.stack(found)
                if gradients.shape[1] != rows.stop - rows.start:
                    raise ModelError(
                        f"{change.at[0]} has {gradients.shape[1]} rows for "
                        f"{rows.stop - rows.start} samples, so its gradients are no sample's own; "
                        "take a signal that measures plans, such as allot.harm.single"
                    )
                if change.gives is not None:
                    dim, at = change.gives
                    gradients = gradients.index_select(dim if dim < 0 else dim + 1, at)
                each(rows, column, gradients, change.difference(tape, call))


def replays(scene: Scene, table: Columns) -> float:
    """F that making every change once per sample takes."""
    whole = sum(x.macs for x in scene.space.graph.layers)
    return sum(c.macs for group in table.values() for c in group) / max(1, whole)
