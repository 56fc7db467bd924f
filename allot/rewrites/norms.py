"""Norms: which modules normalize each token and then scale its channels, told by what they do."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

# of the largest value; inputs are large, so that what a norm adds to a variance is lost in it
_TOLERANCE = 1e-4
_SPREAD = 30.0


def norm_kind(module: nn.Module) -> str:
    """What a norm over the last dim computes: "layer" (mean removed), "rms", "" for anything else.

    A module counts whose only parameters are a `weight` [d] and perhaps a `bias` [d], or one of
    torch's norms over one dim without any; what it computes is looked at, not what it is called.
    """
    size = norm_size(module)
    if not size:
        return ""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 4, size, generator=generator, dtype=torch.float64) * _SPREAD + _SPREAD / 3
    tried = copy.deepcopy(module).cpu().double()
    with torch.no_grad():
        try:
            y, z = tried(x), plain_(tried)(x)
        except (RuntimeError, TypeError, ValueError):
            return ""
    if not isinstance(y, Tensor) or y.shape != x.shape:
        return ""
    gain, bias = affine(module)
    if not _close(y, z * gain.double() + bias.double()):
        return ""
    if _close(z, functional.layer_norm(x, (size,))):
        return "layer"
    return "rms" if _close(z, functional.rms_norm(x, (size,))) else ""


def norm_size(module: nn.Module) -> int:
    """Channels of what may be a norm by its parameters, 0 for what cannot be one."""
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        return module.normalized_shape[0] if len(module.normalized_shape) == 1 else 0
    names = {n for n, _ in module.named_parameters()}
    if names not in ({"weight"}, {"weight", "bias"}) or list(module.buffers()):
        return 0
    weight = module.weight
    alike = all(p.shape == weight.shape for p in module.parameters())
    return len(weight) if isinstance(weight, Tensor) and weight.dim() == 1 and alike else 0


def affine(module: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias [d] of a norm on the CPU, ones and zeros where it has none."""
    weight, bias = module._parameters.get("weight"), module._parameters.get("bias")
    like = torch.ones(norm_size(module)) if weight is None else weight.detach().cpu()
    return like, torch.zeros_like(like) if bias is None else bias.detach().cpu()


def plain_(module: nn.Module) -> nn.Module:
    """The norm with weight one and bias zero, in place."""
    with torch.no_grad():
        for name, value in (("weight", 1.0), ("bias", 0.0)):
            p = module._parameters.get(name)
            if p is not None:
                p.fill_(value)
    return module


def _close(a: Tensor, b: Tensor) -> bool:
    return float((a.double() - b).abs().max()) <= _TOLERANCE * float(b.abs().max())
