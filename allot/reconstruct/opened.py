"""Opened: stand-ins with what is to be learned as variables, and closed again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from allot.options.standins import OnGrid, QuantizedInput, QuantizedOutput, shallow
from allot.reconstruct.loose import Loose, around
from allot.reconstruct.setting import Reconstruction
from allot.reconstruct.soft import Soft
from allot.sweep import unwrapped

# float modules whose bias can be learned beside the codes
_BIASED = (nn.Conv2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)


def opened(
    module: nn.Module, w: Tensor | None, *, setting: Reconstruction, generator: torch.Generator
) -> nn.Module:
    """A stand-in, wrappers and all, whose codes, steps and biases are variables.

    w: the weight before rounding, like the layer's, where there is one.  The stand-in itself and
    what it is made of stay as they are.
    """
    if isinstance(module, QuantizedInput | QuantizedOutput):
        inner = opened(module.inner, w, setting=setting, generator=generator)
        return Loose(
            module, inner, drop=setting.drop, learned=setting.learn_steps, generator=generator
        )
    if getattr(module, "is_wrapper", False):
        inner = opened(module.inner, w, setting=setting, generator=generator)  # type: ignore
        return around(module, inner)
    if isinstance(module, OnGrid):
        assert w is not None
        soft = setting.rounding.soft(module, w)
        if setting.learn_biases:
            _free_bias(soft.inner)
        return soft
    if setting.learn_biases and isinstance(module, _BIASED):
        module = shallow(module)
        _free_bias(module)
    return module


def _free_bias(module: nn.Module) -> None:
    """The bias of a module, if any, becomes a variable of its own (in place)."""
    bias = module._parameters.get("bias")
    if bias is not None:
        module._parameters["bias"] = nn.Parameter(bias.detach().clone())


def hardened(module: nn.Module) -> nn.Module:
    """What was opened, closed: on its grid, with steps and biases as found."""
    if isinstance(module, Loose):
        return module.hard(hardened(module.inner))
    if isinstance(module, Soft):
        return module.hard()
    if getattr(module, "is_wrapper", False):
        return around(module, hardened(module.inner))  # type: ignore
    if isinstance(module, _BIASED):
        module = shallow(module)
        for name, p in module._parameters.items():
            if p is not None and p.requires_grad:
                module._parameters[name] = nn.Parameter(p.detach(), requires_grad=False)
    return module


def variables(modules: Iterable[nn.Module], setting: Reconstruction) -> list[dict[str, Any]]:
    """Groups for an optimizer of what is to be learned, each with its rate and whether it falls;
    empty ones left out."""
    codes, steps, biases = list[Tensor](), list[Tensor](), list[Tensor]()
    for module in modules:
        inner = module
        while inner is not unwrapped(inner):
            steps += [inner.stretch] if isinstance(inner, Loose) and inner.learned else []
            inner = inner.inner  # type: ignore
        codes += [inner.variable] if isinstance(inner, Soft) else []
        bearer = inner.inner if isinstance(inner, Soft) else inner
        bias = bearer._parameters.get("bias")
        biases += [bias] if setting.learn_biases and bias is not None else []
    rounding = setting.rounding
    groups = (
        {"params": codes, "rate": rounding.rate, "falling": rounding.falling},
        {"params": steps, "rate": setting.step_rate, "falling": True},
        {"params": biases, "rate": setting.bias_rate, "falling": True},
    )
    return [g for g in groups if g["params"]]
