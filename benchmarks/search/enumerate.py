"""Enumerate: measure every point of every space once and keep it; `python -m` this to remake all.

What is stored already for the same space, network and samples is left as it is, so that an
interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from allot.bank import Bank
from allot.calibrate import calibrate, needed
from allot.errors import ArtefactError, MissingError
from allot.options.width import Keep, removals
from allot.plan import weights_digest
from allot.recover import Recovery
from allot.site import Graph
from allot.space import Point, Space
from allot.stream import Stream
from allot.task import Data, Task
from allot.trace import trace
from allot.trie import enumeration_cost, trie
from benchmarks.search import networks, store
from benchmarks.search.spaces import FAMILIES, VARIANTS, Family, Variant
from benchmarks.search.store import Enumeration, Measured
from benchmarks.search.weights import cache

# points whose corrections are held at a time
_CHUNK = 729


@dataclass(frozen=True, kw_only=True)
class Case:
    """One space of one network under one variant."""

    family: Family
    network: str
    variant: Variant

    @property
    def name(self) -> str:
        return f"{self.family.name}_{self.network}_{self.variant.name}"

    @property
    def recovery(self) -> Recovery:
        return self.family.recovery(self.variant)

    def path(self, folder: Path) -> Path:
        return folder / f"{self.name}.npz"


def cases(quick: bool) -> list[Case]:
    """All cases; quick: the recovered ones of the first network of every digits space."""
    kinds = dict.fromkeys(f.networks for f in FAMILIES)
    every = [
        Case(family=f, network=n, variant=v)
        for names in kinds
        for v in VARIANTS
        for f in FAMILIES
        if f.networks == names
        for n in names
    ]
    if not quick:
        return every
    digits = [c for c in every if c.network == networks.DIGITS[0]]
    return [c for c in digits if c.variant == VARIANTS[0]]


def enumerated(
    case: Case, task: Task, graph: Graph, *, say: Callable[[str], None] = lambda text: None
) -> Enumeration:
    """Every point of a case measured, beginnings shared."""
    space = case.family.build(graph, case.variant.rounding)
    stats = calibrate(task, task.model, needed(space))
    if any(c.options[0].kind == Keep.kind for c in space.choices):
        stats |= removals(task.model, graph, stats)
    bank = Bank(task.model, graph=graph, stats=stats)
    stream = Stream(space, task, bank, recovery=case.recovery)
    sheets = [Sheet(space, task, data) for data in (task.search, task.certify)]
    # both sets in one batch: what runs besides the multiplications is paid once
    base = stream.base(torch.cat([t.inputs for t in sheets]))
    points = sorted(np.ndindex(*space.counts), key=stream.tree.path)
    start = time.perf_counter()
    for done, chunk in chunks(points):
        corrections = stream.corrections(chunk)
        stream.outputs(chunk, base, corrections, taker(sheets, chunk))
        say(f"  {done} of {len(points)} points, {time.perf_counter() - start:.0f} s")
    cost = case.family.cost(space)
    return Enumeration(
        family=case.family.name,
        network=case.network,
        variant=case.variant.name,
        weights=weights_digest(task.model),
        recovery=case.recovery.name,
        bill=case.family.bill,
        space=space,
        costs=np.array([cost.of(p) for p in np.ndindex(*space.counts)]),
        search=sheets[0].measured,
        held_out=sheets[1].measured,
        calibration=stream.calibration,
    )


class Sheet:
    """Losses of all points on one set, filled in as they come."""

    def __init__(self, space: Space, task: Task, data: Data) -> None:
        assert isinstance(data.inputs, Tensor)
        self.space, self.task, self.inputs, self.labels = space, task, data.inputs, data.labels
        with torch.no_grad():
            self.original = task.forward(task.model, data.inputs)
        size = (int(np.prod(space.counts)), len(data))
        units = networks.predictions(task)
        self.measured = Measured(
            codes=np.zeros(size, dtype=np.uint16),
            hits=np.zeros(size, dtype=np.uint8),
            original=self._hits(self.original, units),
            units=units,
        )

    def _hits(self, output: Tensor, units: int) -> np.ndarray:
        assert self.labels is not None
        scores = self.task.score(output, self.labels)
        return (scores * units).round().to(torch.uint8).numpy()

    def take(self, point: Point, output: Tensor) -> None:
        """Writes down what a point puts out for the set."""
        at = np.ravel_multi_index(point, self.space.counts)
        divergences = self.task.divergence(self.original, output)
        self.measured.codes[at] = store.encoded(divergences.double().numpy())
        self.measured.hits[at] = self._hits(output, self.measured.units)


def taker(sheets: Sequence[Sheet], points: Sequence[Point]) -> Callable[[int, Tensor], None]:
    """What writes down the output of the i-th of some points, for all sets one after another."""
    sizes = [len(t.inputs) for t in sheets]

    def take(i: int, output: Tensor) -> None:
        for sheet, part in zip(sheets, output.split(sizes), strict=True):
            sheet.take(points[i], part)

    return take


def chunks(points: Sequence[Point]) -> Iterator[tuple[int, Sequence[Point]]]:
    """Pieces of the points, each with how many are done after it."""
    for i in range(0, len(points), _CHUNK):
        chunk = points[i : i + _CHUNK]
        yield i + len(chunk), chunk


def current(path: Path, case: Case, task: Task, graph: Graph) -> bool:
    """Whether a case is stored as it would be made now: its choices, network, samples, repair."""
    try:
        e = store.read(path)
    except ArtefactError:
        return False
    space = case.family.build(graph, case.variant.rounding)
    stored = (e.space.choices, e.space.graph.layers, e.weights, e.recovery)
    samples = (e.search.codes.shape[1], e.held_out.codes.shape[1])
    now = (space.choices, graph.layers, weights_digest(task.model), case.recovery.name)
    return stored == now and samples == (len(task.search), len(task.certify))


def make(wanted: Sequence[Case], folder: Path, *, say: Callable[[str], None]) -> None:
    """Every case stored, those of one network after each other; what lacks its data is said."""
    for case in wanted:
        try:
            task = networks.task(case.network, folder)
        except MissingError as e:
            say(f"{case.name}: skipped, {e}")
            continue
        graph = trace(task.model, task.forward, task.example())
        if current(case.path(folder), case, task, graph):
            say(f"{case.name}: stored before")
            continue
        start = time.process_time()
        found = enumerated(case, task, graph, say=say)
        store.write(found, case.path(folder))
        passes = enumeration_cost(trie(found.space), found.space.counts)
        say(
            f"{case.name}: {len(found.costs)} points, {passes:.0f} F, "
            f"{time.process_time() - start:.0f} s of processor time"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="digits alone, one network")
    parser.add_argument("--only", default="", help="cases whose name holds this text")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    wanted = [c for c in cases(arguments.quick) if arguments.only in c.name]
    make(wanted, cache(), say=lambda text: print(text, flush=True))


if __name__ == "__main__":
    main()
