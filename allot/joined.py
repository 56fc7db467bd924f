"""Joined: which tensors between layers are several ones joined along their channels, and where.

What `options.sharing.PerPart` is to be given (split quantizers: Li et al. 2023, Q-Diffusion).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from allot.options.tensors import channel_dim
from allot.provenance import tensors
from allot.site import Graph, Site
from allot.sweep import Observer, observed

# ops besides those element by element that leave every channel in its place
_IN_PLACE = {
    "native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm",
    "native_group_norm", "native_layer_norm", "max_pool2d_with_indices", "max_pool2d",
    "avg_pool2d", "_adaptive_avg_pool2d", "upsample_nearest2d", "upsample_bilinear2d",
    "constant_pad_nd", "clone", "detach", "alias", "contiguous", "_to_copy",
}  # fmt: skip

# dim, and the first position along it of every part but the first
Seams = tuple[int, tuple[int, ...]]


def joined(
    model: nn.Module, graph: Graph, forward: Callable[[nn.Module, Any], Any], example: Any
) -> dict[str, tuple[int, ...]]:
    """Activation site -> first channel of every part but the first, where there are parts.

    Seams pass through ops element by element, norms, pooling and padding of places; parts of
    parts are parts.  Runs `forward(model, example)` once.
    """
    watch, found = _Watch(), {}

    def observer(site: Site) -> Observer:
        def observe(x: Tensor) -> None:
            dim, starts = watch.seams.get(id(x), (0, ()))
            if starts and dim == channel_dim(site, graph) % x.dim():
                found[site.name] = starts

        return observe

    observers: dict[tuple[str, str], list[Observer]] = {}
    for site in graph.sites:
        if site.kind == "activation":
            touch = site.touches[0]
            observers.setdefault((touch.module, touch.role), []).append(observer(site))
    with torch.no_grad(), observed(model, observers), watch:
        forward(model, example)
    return found


class _Watch(TorchDispatchMode):
    """Follows seams from op to op."""

    def __init__(self) -> None:
        TorchDispatchMode.__init__(self)
        self.seams: dict[int, Seams] = {}
        self.alive: list[Tensor] = []  # an id is only a name while the tensor lives

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        made = tensors(out)
        if made:
            seams = self._seams(func, args, made[0])
            self.alive.append(made[0])
            self.seams.pop(id(made[0]), None)
            if seams is not None:
                self.seams[id(made[0])] = seams
        return out

    def _seams(self, func: Any, args: tuple[Any, ...], out: Tensor) -> Seams | None:
        name = func.overloadpacket.__name__
        if name == "cat":
            return self._joined([t for t in args[0] if t.numel()], args, out)
        given = tensors(args)
        if torch.Tag.pointwise in func.tags:
            given = [t for t in given if t.shape == out.shape]
        elif name in _IN_PLACE:
            given = given[:1]
        else:
            return None
        known = {self.seams.get(id(t)) for t in given}
        seams = known.pop() if len(known) == 1 else None
        if seams is None or given[0].dim() != out.dim():
            return None
        dim, _ = seams
        return seams if given[0].shape[dim] == out.shape[dim] else None

    def _joined(self, parts: list[Tensor], args: tuple[Any, ...], out: Tensor) -> Seams | None:
        dim = (args[1] if len(args) > 1 else 0) % out.dim()
        starts = list(itertools.accumulate([t.shape[dim] for t in parts], initial=0))[:-1]
        found = set(starts[1:])
        for start, t in zip(starts, parts, strict=True):
            inner_dim, inner = self.seams.get(id(t), (dim, ()))
            found |= {start + s for s in inner} if inner_dim == dim else set()
        return (dim, tuple(sorted(found))) if found else None
