"""Repaired: what recovery corrects all over the network when one option alone is switched on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from allot.harm.changes import Change
from allot.harm.tape import Tape
from allot.harm.walk import Columns
from allot.option import Option
from allot.options.width import kept_positions
from allot.prefix import Prefix
from allot.recover import channel_dim, matchable, matched, moments
from allot.scene import Scene
from allot.sweep import observed
from allot.task import Data, take

# module -> gain less 1 and shift of its output, both [channels], 0 for channels that have left
Corrections = Mapping[str, tuple[Tensor, Tensor]]


def corrections(
    scene: Scene, wanted: Mapping[int, Mapping[str, Option]], *, samples: int
) -> dict[int, Corrections]:
    """Column -> what matching on the first calibration inputs corrects, for options given as
    site -> option, each alone in the original network.

    The same as `allot.recover` finds, in the same order.  What comes before the option is
    replayed; the F of the rest are charged.
    """
    task, bank = scene.task, scene.bank
    samples = min(samples, len(task.calibrate))
    inputs = take(task.calibrate.inputs, slice(0, samples))
    goals = moments(task, bank.skeleton, bank.graph, samples=samples)
    prefix = Prefix(task, bank, Data(inputs=inputs), batch=samples)
    found: dict[int, Corrections] = {}
    passes = 2.0  # the moments, and what is replayed
    for column, options in wanted.items():
        own: dict[str, tuple[Tensor, Tensor]] = {}
        standins = bank.standins(options)
        if not standins:
            continue
        replays = prefix.replays(standins)
        hooks = {
            (name, "out"): [_corrector(scene, name, goals[name], options, own)]
            for name in matchable(bank.graph)
            if not _inside(name, replays)
        }
        with bank.trial({**standins, **replays}) as model, observed(model, hooks), torch.no_grad():
            task.forward(model, inputs)
        found[column] = own
        passes += _rest(scene, replays)
    scene.evaluator.charge(passes * samples / len(scene.data))
    return found


def _corrector(
    scene: Scene,
    name: str,
    goal: tuple[Tensor, Tensor],
    options: Mapping[str, Option],
    found: dict[str, tuple[Tensor, Tensor]],
) -> Callable[[Tensor], Tensor]:
    """Corrects a module's output for all that comes after it, and writes down how."""
    graph = scene.bank.graph
    kept = kept_positions(name, options, graph=graph, stats=scene.bank.stats)
    dim = channel_dim(graph, name)

    def observe(x: Tensor) -> Tensor:
        (gain, shift), y = matched(x, (goal[0][kept], goal[1][kept]), dim)
        whole = [goal[0].new_zeros(len(goal[0])) for _ in range(2)]
        whole[0][kept], whole[1][kept] = gain.double() - 1, shift.double()
        found[name] = (whole[0], whole[1])
        return y

    return observe


def _inside(module: str, names: Iterable[str]) -> bool:
    return any(f"{module}.".startswith(f"{n}.") for n in names)


def _rest(scene: Scene, replayed: Iterable[str]) -> float:
    """Share of the network's MACs that is run when some stages are replayed."""
    layers, names = scene.bank.graph.layers, tuple(replayed)
    done = sum(x.macs for x in layers if _inside(x.module, names))
    return 1 - done / max(1, sum(x.macs for x in layers))


def merged(
    table: Columns, found: Mapping[int, Corrections]
) -> tuple[Columns, Mapping[int, Corrections]]:
    """The changes with the correction of their own tensor, and the corrections of all others."""
    changed: dict[int, Sequence[Change]] = {}
    rest = {k: dict(c) for k, c in found.items()}
    for k, group in table.items():
        own = rest.get(k, {})
        changed[k] = tuple(_with(c, own) for c in group)
        for c in changed[k]:
            if c.gain is not None:
                del own[c.at[0]]
    return changed, rest


def _with(change: Change, own: Mapping[str, tuple[Tensor, Tensor]]) -> Change:
    name, role = change.at
    if role != "out" or change.at_boundary or name not in own:
        return change  # what a wrapper changes is not corrected, only what comes after it
    gain, shift = own[name]
    if change.gives is not None:
        gain, shift = gain[change.gives[1]], shift[change.gives[1]]
    return replace(change, gain=gain + 1, shift=shift)


class Felt:
    """What outputs feel of a gain and of a shift of every channel of some modules, per sample.

    A correction far from the change is small, so its own effect is taken to first order, on the
    original's tensor: gain times <gradient, tensor> plus shift times <gradient, 1>.
    """

    def __init__(self, scene: Scene, found: Mapping[int, Corrections]) -> None:
        self.found = found
        self.dims = {
            name: channel_dim(scene.bank.graph, name) for own in found.values() for name in own
        }

    def of(self, tape: Tape) -> dict[int, Tensor]:
        """Column -> what the outputs of a batch feel of its corrections: [m, n]."""
        sums = {name: self._sums(tape, name, dim) for name, dim in self.dims.items()}
        return {
            k: torch.stack([_product(sums[n], c) for n, c in own.items()]).sum(0)
            for k, own in self.found.items()
            if own
        }

    def _sums(self, tape: Tape, name: str, dim: int) -> Tensor:
        """<gradient, tensor> and <gradient, 1> of every channel: [2, m, n, channels]."""
        (y,), (gradients,) = tape.values((name, "out")), tape.gradients[name, "out"]
        if not gradients:
            return y.new_zeros(2, 1, 1, 1)
        g = torch.stack(gradients)
        parts = torch.stack([g * y, g])
        last = parts.transpose(-1, dim if dim < 0 else dim + 2)
        return last.flatten(3, -2).sum(3) if last.dim() > 4 else last


def _product(sums: Tensor, correction: tuple[Tensor, Tensor]) -> Tensor:
    gain, shift = (x.to(sums) for x in correction)
    found: Tensor = (sums[0] * gain + sums[1] * shift).sum(-1)
    return found
