"""Layer correction: a layer's output corrected per channel at every step, in closed form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from allot.errors import PlanError
from allot.options.standins import inner_attribute
from allot.samplers.graph import PREFIX
from allot.sampling.channel_fits import AFFINE, Sums, fitted, sums
from allot.sampling.features import Seeds, features
from allot.sampling.moment import Moment, Request, told
from allot.sampling.sampler import Sampler, State, Step


class CorrectedLayer(nn.Module):
    """`inner` with gain * y + shift per channel, of the moment's step; as it is outside of one.

    gain, shift: [steps, ...], which spread over [n, ...].
    """

    gain: Tensor
    shift: Tensor

    def __init__(self, *, inner: nn.Module, gain: Tensor, shift: Tensor) -> None:
        nn.Module.__init__(self)
        self.inner = inner
        self.register_buffer("gain", gain.float())
        self.register_buffer("shift", shift.float())
        self.step: int | None = None

    def __getattr__(self, name: str) -> Any:
        return inner_attribute(self, name)

    def at(self, moment: Moment | None) -> None:
        """Raises PlanError for a step that it has no correction of."""
        self.step = None if moment is None else moment.step
        if self.step is not None and self.step >= len(self.gain):
            raise PlanError(
                f"a layer is corrected at {len(self.gain)} steps and asked for step {self.step}; "
                "fit the corrections for this number of steps"
            )

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        y: Tensor = self.inner(*inputs, **named)
        if self.step is None:
            return y
        gain, shift = self.gain[self.step].to(y.dtype), self.shift[self.step].to(y.dtype)
        return gain * y + shift


def layers_corrected(
    original: Sampler, plan: Sampler, seeds: Seeds, *, layers: Sequence[str], batch: int = 64
) -> dict[str, CorrectedLayer]:
    """ "denoiser.LAYER" -> the plan's layer corrected, for layers named as in the denoiser.

    Both samplers are led over the original's run, so that a step's correction is of that step's
    error alone: quantized weights and tensors, and results taken again (the second correction of
    CacheQuant, Liu et al. 2025: W f ~ a W' q(f') + b).  Layers are corrected in the order given,
    each with those before it corrected; fitted at every taken step, both conditions of guidance
    together.  Samplers keep their layers as they are.
    """
    found: dict[str, CorrectedLayer] = {}
    for name in layers:
        total: dict[int, Sums] = {}
        for some in seeds.batches(batch):
            inputs = features(original, some).inputs
            with _in_place(plan.denoiser, found):
                truth, given = (_outputs(s, some, inputs, name) for s in (_whole(original), plan))
            for key, y in given.items():
                new = sums(y, truth[key])
                total[key[0]] = total[key[0]] + new if key[0] in total else new
        found[name] = _corrected(plan.denoiser.get_submodule(name), total, len(plan.grid))
    return {PREFIX + name: layer for name, layer in found.items()}


def _corrected(inner: nn.Module, total: dict[int, Sums], steps: int) -> CorrectedLayer:
    fits = {step: fitted(s, AFFINE) for step, s in total.items()}
    one, none = torch.ones_like(next(iter(fits.values()))[0]), torch.zeros(())
    pairs = [fits.get(i, (one, none.to(one).expand_as(one))) for i in range(steps)]
    gain, shift = (torch.stack([pair[k] for pair in pairs]) for k in (0, 1))
    return CorrectedLayer(inner=inner, gain=gain, shift=shift)


def _whole(sampler: Sampler) -> Sampler:
    return Sampler(denoiser=sampler.denoiser, grid=sampler.grid, guidance=sampler.guidance)


def _outputs(
    sampler: Sampler, seeds: Seeds, inputs: Sequence[Tensor], layer: str
) -> dict[tuple[int, str], Tensor]:
    """(step, condition) -> what a layer gives at the taken steps when the network gets inputs."""
    found: dict[tuple[int, str], Tensor] = {}
    request, network = Request(), sampler.denoiser
    now: list[tuple[int, str]] = []

    def note(m: nn.Module, args: Any, out: Tensor) -> None:
        found[now[-1]] = out.detach()

    handle = network.get_submodule(layer).register_forward_hook(note)
    try:
        for step in (s for s in sampler.steps if isinstance(s, Step)):
            x, way = inputs[step.index], step.way
            state = State(x=x, conditions=seeds.conditions, request=request)
            for name, conditions in sampler.conditions(state).items():
                now.append((step.index, name))
                moment = Moment(
                    step=step.index, level=sampler.grid.level(step.index), request=request,
                    condition=name, bits=way.bits,
                )  # fmt: skip
                with torch.no_grad(), told(network, moment), sampler.spanned(way, moment):
                    sampler.evaluate(x, moment, conditions)
    finally:
        handle.remove()
    return found


@contextmanager
def _in_place(network: nn.Module, layers: dict[str, CorrectedLayer]) -> Iterator[None]:
    """The network with corrected layers; restored by identity at the end."""
    done: list[tuple[nn.Module, str, nn.Module]] = []
    try:
        for name, layer in layers.items():
            parent_name, _, child = name.rpartition(".")
            parent = network.get_submodule(parent_name)
            done.append((parent, child, layer.inner))
            parent._modules[child] = layer
        yield
    finally:
        for parent, child, module in reversed(done):
            parent._modules[child] = module
