"""Trajectory: what a sampler's network is evaluated on along its own runs, as a task of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from allot.errors import DataError, InputError
from allot.judging.fidelity import squared_error
from allot.sampling.allocation import Allocation, Strided, counts
from allot.sampling.features import Seeds
from allot.sampling.moment import Moment
from allot.sampling.nested import tensors
from allot.sampling.sampler import Sampler
from allot.task import Data, Task


@dataclass(frozen=True, kw_only=True, eq=False)
class Visited:
    """Evaluations of a network, one a row.

    x: [rows, ...].  time, step, run: [rows]; which noise the run began with.  conditions: [rows,
    ...] each; of both evaluations under guidance.
    """

    x: Tensor
    time: Tensor
    step: Tensor
    run: Tensor
    conditions: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(self.x)

    @property
    def inputs(self) -> dict[str, Tensor]:
        """As the network takes them."""
        return {"x": self.x, "time": self.time, **self.conditions}

    def rows(self, index: Tensor) -> Visited:
        """Some of them: index [m], or a mask [rows]."""
        told = {k: v[index] for k, v in self.conditions.items()}
        return Visited(
            x=self.x[index], time=self.time[index], step=self.step[index], run=self.run[index],
            conditions=told,
        )  # fmt: skip


class _Noting(Sampler):
    """A sampler whose evaluations are noted; shares network and steps with the one it is of."""

    def __init__(self, of: Sampler) -> None:
        super().__init__(denoiser=of.denoiser, grid=of.grid, guidance=of.guidance, spans=of.spans)
        self.steps = of.steps
        self.noted: list[tuple[Tensor, Moment, Mapping[str, Tensor]]] = []

    def evaluate(self, x: Tensor, moment: Moment, conditions: Mapping[str, Tensor]) -> Tensor:
        self.noted.append((x, moment, conditions))
        return super().evaluate(x, moment, conditions)


def visited(
    sampler: Sampler, seeds: Seeds, *, steps: Sequence[int] | None = None, batch: int = 64
) -> Visited:
    """All evaluations at some steps, None for all that are taken, of runs from fixed noise.

    The sampler is run as it is planned: of a compressed one these are the inputs that its network
    will really meet (Q&C, Ding et al. 2025, calibrate on such replays).
    """
    found: list[Visited] = []
    first = 0
    for some in seeds.batches(batch):
        run = _Noting(sampler)
        with torch.no_grad():
            run(some.noise, **some.conditions)
        for x, moment, told in run.noted:
            if steps is None or moment.step in steps:
                found.append(_noted(x, moment, told, first))
        first += len(some)
    if not found:
        raise InputError(f"no step of {list(steps or ())} is taken by the sampler")
    names = found[0].conditions
    return Visited(
        x=torch.cat([v.x for v in found]),
        time=torch.cat([v.time for v in found]),
        step=torch.cat([v.step for v in found]),
        run=torch.cat([v.run for v in found]),
        conditions={k: torch.cat([v.conditions[k] for v in found]) for k in names},
    )


def _noted(x: Tensor, moment: Moment, told: Mapping[str, Tensor], first: int) -> Visited:
    n = len(x)
    return Visited(
        x=x,
        time=torch.full((n,), moment.level.time, device=x.device),
        step=torch.full((n,), moment.step, dtype=torch.long),
        run=torch.arange(first, first + n),
        conditions=dict(told),
    )


ALL_STEPS = Strided()


def along(
    sampler: Sampler,
    seeds: Seeds,
    *,
    total: int,
    allocation: Allocation = ALL_STEPS,
    policy: Sampler | None = None,
    seed: int = 0,
    name: str = "denoiser",
) -> Task:
    """The sampler's network as a task whose inputs are those of its own runs, mixed by seed.

    total: calibration inputs, from all runs but the last two eighths, of which one each is for
    search and certificate, so no noise is shared.  policy: the sampler whose runs are followed,
    None for the original.  Modules that follow the moment are told of none in such a task: they
    compute as outside a run.  The divergence is the squared error per value.  Raises DataError for
    fewer than 3 noises or inputs.
    """
    if len(seeds) < 3:
        raise DataError(f"{len(seeds)} noises do not part into three sets; draw 3 or more")
    seen = visited(policy or sampler, seeds)
    generator = torch.Generator().manual_seed(seed)
    held = max(1, len(seeds) // 8)
    ends = (len(seeds) - 2 * held, len(seeds) - held)
    first = seen.rows(seen.run < ends[0])
    chosen = first.rows(_drawn(sampler, first, allocation, total, generator))
    rest = [seen.rows((seen.run >= a) & (seen.run < b)) for a, b in (ends, (ends[1], len(seeds)))]
    return Task(
        name=name,
        model=sampler.denoiser,
        calibrate=Data(inputs=chosen.inputs),
        search=Data(inputs=rest[0].inputs),
        certify=Data(inputs=rest[1].inputs),
        divergence=squared_error,
        preprocess="latents of the sampler's own runs",
    )


def _drawn(
    sampler: Sampler, seen: Visited, allocation: Allocation, total: int, generator: torch.Generator
) -> Tensor:
    """Rows of the inputs that are taken, in mixed order."""
    steps = [int(i) for i in seen.step.unique()]
    groups = [(seen.step == i).nonzero()[:, 0] for i in steps]
    features = _features(sampler, seen, groups, allocation.reads)
    found = counts(allocation.shares(features), total, most=min(len(g) for g in groups))
    taken = torch.cat([
        g[torch.randperm(len(g), generator=generator)[:n]]
        for g, n in zip(groups, found, strict=True)
    ])  # fmt: skip
    return taken[torch.randperm(len(taken), generator=generator)]


def _features(
    sampler: Sampler, seen: Visited, groups: Sequence[Tensor], module: str | None
) -> Tensor:
    """What a module gives at every step, of the same runs in the same order: [steps, d]."""
    if module is None:
        return torch.zeros(len(groups), 0)
    rows = []
    for group in groups:
        some = seen.rows(group[seen.run[group].argsort(stable=True)])
        with torch.no_grad(), _output(sampler.denoiser, module) as noted:
            sampler.denoiser(**some.inputs)
        rows.append(noted[0].flatten().float())
    return torch.stack(rows)


@contextmanager
def _output(network: nn.Module, module: str) -> Iterator[list[Tensor]]:
    """The first tensor that a module gives, for a while."""
    noted: list[Tensor] = []
    handle = network.get_submodule(module).register_forward_hook(
        lambda m, args, out: noted.append(tensors(out)[0].detach())
    )
    try:
        yield noted
    finally:
        handle.remove()
