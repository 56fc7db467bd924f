"""Time block: what depends on time alone, learned as one unit over the finite set of steps.

TFMQ-DM (Huang et al. 2024): no image enters these modules, so all that they will ever be asked is
known, and a rounding can be learned for exactly that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from allot.errors import InputError
from allot.judging.fidelity import squared_error
from allot.option import Option
from allot.reconstruct.losses import FinalKL
from allot.reconstruct.setting import Reconstruction
from allot.reconstruct.units import Named
from allot.recover import Recovery
from allot.samplers.folded_time import CLASS, time_only_values
from allot.sampling.features import Seeds
from allot.sampling.nested import tensors
from allot.sampling.sampler import Sampler
from allot.scheme import Quantized, Rule, Scheme, quantized
from allot.site import Graph, Site
from allot.sweep import find
from allot.task import Data, Task

USUAL = Reconstruction(samples=4096)


@dataclass(frozen=True, kw_only=True, eq=False)
class Embeddings:
    """A forward of the denoiser that returns what some of its modules give: [n, values].

    read: names.  Each output is divided by its root mean square in the original, so that no block
    is heard above others.
    """

    read: tuple[str, ...]
    sizes: Mapping[str, float]

    def __call__(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        seen: dict[str, Tensor] = {}
        with ExitStack() as stack:
            for name in self.read:

                def note(m: nn.Module, args: Any, out: Any, name: str = name) -> None:
                    parts = [x.flatten(1) for x in tensors(out)]
                    seen[name] = torch.cat(parts, 1) / self.sizes[name]

                handle = find(model, name).register_forward_hook(note)
                stack.callback(handle.remove)
            model(**batch)
        return torch.cat([seen[n] for n in self.read], dim=1)


def time_task(sampler: Sampler, names: Sequence[str], seeds: Seeds, *, by: str = CLASS) -> Task:
    """The denoiser as a task from time and class to what its time-only modules give the others.

    All steps and classes are calibration data, and search and certification data too: there are no
    others.  Latents are the seeds' and do not matter.  Raises what `time_only_values` raises.
    """
    found = time_only_values(sampler, names, seeds, by=by)
    table = found.tables[found.read[0]]
    keys = table._buffers["keys"]
    count = 1 if keys is None else len(keys)
    steps = len(sampler.grid)
    inputs = {
        "x": seeds.noise[:1].expand(steps * count, *seeds.noise.shape[1:]).contiguous(),
        "time": torch.tensor(sampler.grid.times).repeat_interleave(count),
        **{
            k: (keys if k == by and keys is not None else v[:1].expand(count, *v.shape[1:])).repeat(
                steps, *[1] * (v.dim() - 1)
            )
            for k, v in seeds.conditions.items()
        },
    }
    order = torch.randperm(steps * count, generator=torch.Generator().manual_seed(0))
    data = Data(inputs={k: v[order] for k, v in inputs.items()})
    sizes = {n: _size(found.tables[n].get_buffer("values_0")) for n in found.read}
    return Task(
        name="time",
        model=sampler.denoiser,
        calibrate=data,
        search=data,
        certify=data,
        forward=Embeddings(read=found.read, sizes=sizes),
        divergence=squared_error,
    )


def _size(x: Tensor) -> float:
    return max(float(x.float().square().mean().sqrt()), 1e-12)


@dataclass(frozen=True, kw_only=True, eq=False)
class Inside:
    """An option for sites whose modules all lie in named ones (or, `outside`, for all others)."""

    option: Option | Rule | None
    names: tuple[str, ...]
    outside: bool = False

    def __call__(self, site: Site, graph: Graph) -> Option | None:
        here = all(any(m == n or m.startswith(f"{n}.") for n in self.names) for m in site.reach)
        if here == self.outside:
            return None
        if self.option is None or isinstance(self.option, Option):
            return self.option
        return self.option(site, graph)


def time_quantized(
    sampler: Sampler,
    names: Sequence[str],
    seeds: Seeds,
    *,
    weight: Option | Rule | None,
    activation: Option | Rule | None,
    learned: Reconstruction | None = USUAL,
    by: str = CLASS,
    seed: int = 0,
) -> Quantized:
    """Time-only modules quantized, their codes learned as one unit where `learned` is given.

    The loss is the summed squared error of what the other modules read.  Stand-ins are of the
    denoiser's modules.  Raises InputError where no layer lies in the named modules.
    """
    task, inside = time_task(sampler, names, seeds, by=by), tuple(names)
    layers = tuple(
        n
        for n, m in sampler.denoiser.named_modules()
        if isinstance(m, nn.Linear | nn.Conv2d) and any(_within(n, outer) for outer in inside)
    )
    if not layers:
        raise InputError(f"no layer lies in {', '.join(inside)}")
    recovery = Recovery(samples=len(task.calibrate), matched=False)
    if learned is not None:
        setting = replace(learned, unit=Named(units=(layers,)), loss=FinalKL())
        recovery = replace(recovery, learning=setting)
    scheme = Scheme(
        weight=Inside(option=weight, names=inside),
        activation=Inside(option=activation, names=inside),
        recovery=recovery,
    )
    return quantized(task, scheme, seed=seed)


def _within(name: str, outer: str) -> bool:
    return name == outer or name.startswith(f"{outer}.")
