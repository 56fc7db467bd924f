"""Signals on the benchmark's spaces, by name: computed once on the real network and kept.

What a signal cost [F] is kept with it. Signals that only measure whole plans are not kept: a
replay computes them in milliseconds, and what they measured is known to the search after them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np

from allot import table as tables
from allot.bank import Bank
from allot.calibrate import calibrate, needed
from allot.harm import modelopt
from allot.harm.adaquant import adaquant
from allot.harm.augmented import augmented
from allot.harm.autoround import delta_loss
from allot.harm.clado import clado
from allot.harm.fisher import fisher, fisher_diagonal
from allot.harm.hawq import hawq
from allot.harm.higgs import higgs
from allot.harm.lrp import lrp
from allot.harm.single import single
from allot.harm.zeroq import zeroq
from allot.options.width import removals
from allot.scene import Scene
from allot.table import Table, Vectors
from allot.trace import trace
from benchmarks.search import networks
from benchmarks.search.enumerate import Case
from benchmarks.search.replay import Replay

Signal = Callable[..., Table]


def clado_psd(scene: Scene) -> Table:
    """CLADO's matrix, projected to a positive semidefinite one."""
    return clado(scene, psd=True)


def fisher_open(scene: Scene) -> Table:
    """Fisher as one would run it where nothing corrects it: more draws, all samples."""
    return fisher(scene, draws=4, samples=len(scene.data))


MEASURED: Mapping[str, Signal] = MappingProxyType(
    {
        "one_at_a_time": single,
        "modelopt_kl": modelopt.kl,
        "clado": clado,
        "clado_psd": clado_psd,
        "adaquant": adaquant,
    }
)
KEPT: Mapping[str, Signal] = MappingProxyType(
    {
        "fisher": fisher,
        "fisher_open": fisher_open,
        "fisher_diagonal": fisher_diagonal,
        "hawq": hawq,
        "zeroq": zeroq,
        "augmented": augmented,
        "modelopt": modelopt.squared_gradient,
        "autoround": delta_loss,
        "lrp": lrp,
        "higgs": higgs,
    }
)


class Scenes:
    """The real network behind each case, built when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._built: dict[str, Scene] = {}

    def of(self, case: Case, evaluator: Replay, seed: int) -> Scene:
        if case.name not in self._built:
            self._built = {case.name: self._build(case, evaluator)}  # one at a time in memory
        return replace(self._built[case.name], evaluator=evaluator, seed=seed)

    def _build(self, case: Case, evaluator: Replay) -> Scene:
        task = networks.task(case.network, self.folder)
        graph = trace(task.model, task.forward, task.example())
        space = case.family.build(graph, case.variant.rounding)
        stats = calibrate(task, task.model, needed(space))
        bank = Bank(task.model, graph=graph, stats=stats | removals(task.model, graph, stats))
        return Scene(space=space, task=task, bank=bank, data=task.search, evaluator=evaluator)

    def table(self, case: Case, name: str, evaluator: Replay, seed: int) -> Table:
        """What a signal says; its F are charged to the evaluator."""
        if name in MEASURED:
            return MEASURED[name](self.of(case, evaluator, seed))
        path = self.folder / "signals" / f"{case.name}_{name}_{seed}.npz"
        if not path.exists():
            before = evaluator.spent
            found = KEPT[name](self.of(case, evaluator, seed))
            _write(path, found, evaluator.spent - before)
            return found
        found, spent = _read(path)
        evaluator.charge(spent)
        return found


def _write(path: Path, table: Table, spent: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"table": table.dump(), "spent": spent})
    arrays = {} if table.vectors is None else {"vectors": table.vectors.values}
    counts = () if table.vectors is None else table.vectors.counts
    part = path.with_suffix(".part.npz")
    np.savez(part, text=np.array(text), counts=np.array(counts, dtype=np.int64), **arrays)  # type: ignore[arg-type]
    part.replace(path)


def _read(path: Path) -> tuple[Table, float]:
    with np.load(path) as found:
        data = json.loads(str(found["text"]))
        table = tables.load(data["table"])
        if "vectors" in found:
            counts = tuple(int(c) for c in found["counts"])
            table = replace(table, vectors=Vectors(values=found["vectors"], counts=counts))
    return table, float(data["spent"])
