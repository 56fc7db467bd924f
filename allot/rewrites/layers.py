"""Layers: a copy of a network, its modules replaced, and layers scaled channel by channel."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from allot.errors import ModelError
from allot.record import is_unit
from allot.sweep import Observer, observed
from allot.task import Task

# how many calibration inputs run at a time
BATCH = 64


def copied(task: Task) -> nn.Module:
    """A copy of the task's network in eval mode, without gradients, that shares no storage."""
    return copy.deepcopy(task.model).eval().requires_grad_(False)


def put(model: nn.Module, name: str, new: nn.Module) -> None:
    """Replaces a module (in place) under every name by which the network holds it, in eval mode."""
    old = model.get_submodule(name)
    new.eval()
    for parent in list(model.modules()):
        for child, module in list(parent._modules.items()):
            if module is old:
                parent._modules[child] = new


def layer(model: nn.Module, name: str) -> nn.Conv2d | nn.Linear:
    """The convolution or linear of a name; raises ModelError for anything else."""
    module = model.get_submodule(name)
    if not is_unit(module) or not isinstance(module, nn.Conv2d | nn.Linear):
        kind = type(module).__name__
        raise ModelError(f"{name} is a {kind}; a rewrite needs a Conv2d or Linear there")
    return module


def is_depthwise(module: nn.Module) -> bool:
    """Whether every output channel of a convolution reads the one input channel of its number."""
    if not isinstance(module, nn.Conv2d) or module.groups == 1:
        return False
    return module.groups == module.in_channels == module.out_channels


def input_channels(module: nn.Conv2d | nn.Linear, values: Tensor) -> Tensor:
    """values [in] as they multiply a weight's input channels; grouped ones read their share.

    Returns [1, in, 1, 1], [1, in] or, in groups, [out, in/groups, 1, 1].
    """
    w = module.weight
    if isinstance(module, nn.Conv2d) and module.groups > 1:
        rows = values.view(module.groups, -1).repeat_interleave(len(w) // module.groups, 0)
        return rows[:, :, None, None]
    return values.view(1, -1, *[1] * (w.dim() - 2))


def scale_inputs(module: nn.Conv2d | nn.Linear, factors: Tensor) -> None:
    """Multiplies a weight (in place of the old one) by a factor [in] per input channel.

    The layer gets a parameter of its own: one that it shared with another module would change
    there too.
    """
    w = module.weight.detach()
    module.weight = _own(w * input_channels(module, factors.to(w)))


def scale_outputs(module: nn.Conv2d | nn.Linear, factors: Tensor) -> None:
    """Multiplies weight and bias, as `scale_inputs`, by a factor [out] per output channel."""
    w = module.weight.detach()
    module.weight = _own(w * factors.to(w).view(-1, *[1] * (w.dim() - 1)))
    if module.bias is not None:
        module.bias = _own(module.bias.detach() * factors.to(w))


def _own(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values, requires_grad=False)


def input_sizes(module: nn.Conv2d | nn.Linear) -> Tensor:
    """Largest magnitude of a weight per input channel: [in]."""
    w = module.weight.detach().abs()
    if isinstance(module, nn.Conv2d) and module.groups > 1:
        return w.view(module.groups, -1, *w.shape[1:]).amax((1, 3, 4)).flatten()
    return w.transpose(0, 1).flatten(1).amax(1)


def output_sizes(module: nn.Conv2d | nn.Linear) -> Tensor:
    """Largest magnitude of a weight per output channel: [out]."""
    return module.weight.detach().abs().flatten(1).amax(1)


def extremes(
    task: Task, model: nn.Module, names: Sequence[str]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Least and largest input of some layers per channel, over the calibration inputs.

    A layer that never ran is missing.  {module: (lo [in], hi [in])}.
    """
    found: dict[str, tuple[Tensor, Tensor]] = {}

    def observer(name: str, dim: int) -> Observer:
        def observe(x: Tensor) -> None:
            if not x.numel():
                return
            lo, hi = x.detach().movedim(dim, 0).flatten(1).aminmax(dim=1)
            if name in found:
                lo, hi = lo.minimum(found[name][0]), hi.maximum(found[name][1])
            found[name] = (lo, hi)

        return observe

    dims = {n: -3 if isinstance(layer(model, n), nn.Conv2d) else -1 for n in names}
    hooks = {(n, "in"): [observer(n, d)] for n, d in dims.items()}
    with torch.no_grad(), observed(model, hooks):
        for batch in task.calibrate.batches(BATCH):
            task.forward(model, batch)
    return found


def magnitudes(task: Task, model: nn.Module, names: Sequence[str]) -> dict[str, Tensor]:
    """Largest magnitude of the input of some layers per channel: {module: [in]}; see `extremes`."""
    found = extremes(task, model, names)
    return {n: torch.maximum(-lo, hi) for n, (lo, hi) in found.items()}


def units(model: nn.Module) -> Iterator[tuple[str, nn.Conv2d | nn.Linear]]:
    """Every convolution and linear that is exactly one, with its first name."""
    for name, module in model.named_modules():
        if is_unit(module) and isinstance(module, nn.Conv2d | nn.Linear):
            yield name, module
