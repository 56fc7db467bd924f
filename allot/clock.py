"""Clock: seconds of whole plans in the real runtime, beside the float original, taking turns."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from allot.bank import Bank
from allot.deploy import deploy
from allot.latency import LatencyTable
from allot.latency_fit import Fit, fit
from allot.latency_model import floats, probes, samples, table
from allot.layer_times import measure, needed
from allot.memo import Memo
from allot.onnx_graph import to_onnx
from allot.site import Graph
from allot.space import Point, Space
from allot.table import Table
from allot.target import Arrays, Target, Workload
from allot.task import Inputs, Task, take
from allot.template import Files
from allot.timing import compare, paired

_PROBES, _PROBED, _ROUNDS = 20, 20, 30
# bytes of files that are timed in turn
_HELD = 2**29


@dataclass(frozen=True, kw_only=True)
class Timed:
    """Median seconds per call, and the ratio to the float original with its 95 % interval."""

    median_s: float
    original_s: float
    ratio: float
    low: float
    high: float
    n: int


class Clock:
    """Times plans of one space in one target; nothing is timed twice in one job."""

    def __init__(
        self,
        task: Task,
        bank: Bank,
        *,
        target: Target,
        workload: Workload,
        memo: Memo,
        reference: tuple[Task, Graph] | None = None,
    ) -> None:
        """reference: the network before any rewrite and its trace, where it is not the bank's."""
        self.task, self.bank, self.target, self.workload = task, bank, target, workload
        self.memo, self._reference = memo, reference
        # layers that were timed before, in this place
        self.known: LatencyTable | None = None
        self._originals: list[float] = []
        self._original_s = 0.0
        self._original_file = b""
        self._files = Files(bank.graph, self._export)

    def exported(self, standins: Mapping[str, nn.Module]) -> bytes:
        """The ONNX file of the network with stand-ins in place."""
        return self._files.of(deploy(self.bank.copy(standins), self.bank.graph))

    def _export(self, deployed: nn.Module) -> bytes:
        return to_onnx(deployed, self.task.example(), free=self.task.free)

    def original(self) -> bytes:
        """The ONNX file of the float original, as it was before any rewrite."""
        if not self._original_file:
            self._original_file = self.exported({}) if self._reference is None else self._before()
        return self._original_file

    def _before(self) -> bytes:
        assert self._reference is not None
        task, graph = self._reference
        model = copy.deepcopy(task.model).eval().requires_grad_(False)
        return to_onnx(deploy(model, graph), task.example(), free=task.free)

    def times(
        self, plans: Mapping[str, Mapping[str, nn.Module]], *, rounds: int = _ROUNDS
    ) -> dict[str, Timed]:
        """Name -> times of several plans (given as stand-ins), all in turn with the original."""
        new = [k for k in plans if f"time/{k}" not in self.memo]
        files: dict[str, bytes] = {}
        for k in new:
            files[k] = self.exported(plans[k])
            # networks that run in turn are held at the same time
            if k == new[-1] or sum(map(len, files.values())) > _HELD:
                self._time(files, rounds)
                files = {}
        known = {k: Timed(**self.memo.get(f"time/{k}", dict)) for k in plans}
        self._originals += [t.original_s for t in known.values()]
        return known

    def _time(self, files: Mapping[str, bytes], rounds: int) -> None:
        """Times files in turn with the original, into the memo."""
        every = {**files, "": self.original()}
        sessions = {k: self.target.open(f, workload=self.workload) for k, f in every.items()}
        inputs = repeated(self.task.calibrate.inputs, self.workload.batch)
        found = compare(sessions, inputs, rounds=rounds, threads=self.workload.threads)
        for k in files:
            r = paired(found[k], found[""])
            taken = Timed(
                median_s=found[k].median_s,
                original_s=found[""].median_s,
                ratio=r.value,
                low=r.low,
                high=r.high,
                n=r.n,
            )
            self.memo.put(f"time/{k}", asdict(taken))

    def original_s(self) -> float:
        """Median seconds per call of the float original: what ratios are turned into seconds by.

        Over the turns of the table where there is one, so that a budget stays what it was.
        """
        return self._original_s or float(np.median(self._originals))

    def table(
        self,
        space: Space,
        *,
        seed: int,
        progress: Callable[[float], None] = lambda share: None,
    ) -> tuple[Table, Fit, dict[str, Any]]:
        """Seconds of every plan [s], how well the model fits, and the frozen measurements.

        Every layer alone, then a few whole networks to find the scale; see `latency_model`.
        """
        wanted = needed(space, self.target)
        alone = measure(
            wanted,
            target=self.target,
            workload=self.workload,
            memo=self.memo,
            known=self.known,
            progress=lambda done, total: progress(0.6 * done / total),
        )
        generator = torch.Generator().manual_seed(seed)
        points = probes(space, count=_PROBES, generator=generator)
        plans = {key(p): self.bank.standins(space.options(p)) for p in points}
        timed = self.times(plans, rounds=_PROBED)
        original = self._original_s = float(np.median([t.original_s for t in timed.values()]))
        # ratios to the original of the same turn, so that a busy spell does not tilt the fit
        seconds = [(p, timed[key(p)].ratio * original) for p in points]
        kinds = floats(space, self.target, alone, points)
        model = fit(samples(space, self.target, alone, seconds), kinds)
        progress(1.0)
        return table(space, self.target, alone, model), model, alone.dump()


def key(point: Point) -> str:
    """A point as a short name."""
    return "-".join(map(str, point))


def repeated(inputs: Inputs, n: int) -> Arrays:
    """n samples of the inputs as arrays, repeated where there are fewer; a tensor is "input"."""
    first = inputs if isinstance(inputs, Tensor) else next(iter(inputs.values()))
    index = torch.arange(n) % len(first)
    return arrays(take(inputs, index))


def arrays(inputs: Inputs) -> Arrays:
    """Inputs as the exported file takes them: name -> array."""
    if isinstance(inputs, Tensor):
        return {"input": inputs.numpy()}
    return {k: v.numpy() for k, v in inputs.items()}


def predictions(
    session: Any, inputs: Inputs, *, batch: int, names: Sequence[str] = ("output",)
) -> Tensor:
    """Outputs of a runtime session for all inputs: [n, ...]."""
    first = inputs if isinstance(inputs, Tensor) else next(iter(inputs.values()))
    parts = []
    for i in range(0, len(first), batch):
        outputs = session.run(arrays(take(inputs, slice(i, i + batch))))
        parts.append(torch.from_numpy(np.array(outputs[names[0]])))
    return torch.cat(parts)
