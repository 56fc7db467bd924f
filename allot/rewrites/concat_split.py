"""Concat split: a layer that reads joined tensors becomes a sum of layers that read one each."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from allot.errors import ModelError
from allot.moves import Channels
from allot.provenance import tensors
from allot.rewrites.carry import carried
from allot.rewrites.layers import copied, layer, put, units
from allot.rewrites.regroup import channels_dim, resized
from allot.rewrites.rewrite import Rewrite
from allot.task import Task


class PartSum(nn.Module):
    """The sum of layers, each of which reads a run of the input's channels; the first has the
    bias.  starts: where the runs begin, and where the last one ends."""

    def __init__(self, module: nn.Conv2d | nn.Linear, starts: Sequence[int]) -> None:
        super().__init__()
        self.starts, self.dim = tuple(starts), channels_dim(module)
        parts = [resized(module, module.weight.detach()[:, a:b]) for a, b in pairwise(starts)]
        for part in parts[1:]:
            part.bias = None
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        runs = zip(self.parts, pairwise(self.starts), strict=True)
        made = [part(x.narrow(self.dim, a, b - a)) for part, (a, b) in runs]
        return functools.reduce(torch.add, made)


@dataclass(frozen=True, kw_only=True)
class SplitConcats(Rewrite):
    """Every convolution or linear behind a concatenation along channels, in parts.

    Each part has an activation and a weight of its own, so that tensors of different range that
    meet at a shortcut get a grid each (Li et al. 2023, Q-Diffusion).  layers: by name, () for all
    that read a concatenation.  Activations and norms may lie between: a layer may be split along
    its inputs anywhere, what lies before only tells where.  Convolutions in groups stay whole.
    """

    layers: tuple[str, ...] = ()

    def apply(self, task: Task) -> nn.Module:
        model = copied(task)
        found = joins(task)
        names = self.layers or tuple(found)
        missing = [n for n in names if n not in found]
        if missing or not names:
            raise ModelError(
                "nothing is to be split: this looks for a Linear or a Conv2d with groups=1 that "
                "reads tensors joined along channels (torch.cat)"
                + (f"; {', '.join(missing)} reads none" if missing else "")
            )
        for name in names:
            put(model, name, PartSum(layer(model, name), found[name]))
        return model


def joins(task: Task) -> dict[str, tuple[int, ...]]:
    """Where the parts begin (and the last one ends) of what each layer behind a join reads."""
    model, watch, handles = copied(task), _Joins(), []
    try:
        for name, module in units(model):
            if isinstance(module, nn.Linear) or module.groups == 1:
                handles += watch.watched(name, module)
        with torch.no_grad(), watch:
            task.forward(model, task.example())
    finally:
        for handle in handles:
            handle.remove()
    return {n: s[0] for n, s in watch.starts.items() if len(set(s)) == 1 and len(s[0]) > 2}


class _Joins(TorchDispatchMode):
    """Numbers the parts of every concatenation and follows them to the layers."""

    def __init__(self) -> None:
        TorchDispatchMode.__init__(self)
        self.inside, self.count = 0, 0
        self.starts: dict[str, list[tuple[int, ...]]] = {}
        self.channels: dict[int, Channels] = {}
        self.alive: list[Tensor] = []  # an id is only a name while the tensor lives

    def known(self, t: Tensor) -> Channels | None:
        return self.channels.get(id(t))

    def watched(self, name: str, module: nn.Module) -> list[Any]:
        def before(module: nn.Module, args: tuple[Any, ...]) -> None:
            c = self.known(args[0]) if args else None
            fits = c is not None and c.dim == args[0].dim() + channels_dim(module)
            self.starts.setdefault(name, []).append(_runs(c) if c is not None and fits else ())
            self.inside += 1

        def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            self.inside -= 1
            self.set(output, None)

        return [module.register_forward_pre_hook(before), module.register_forward_hook(after)]

    def set(self, t: Tensor, channels: Channels | None) -> None:
        self.alive.append(t)
        self.channels.pop(id(t), None)
        if channels is not None:
            self.channels[id(t)] = channels

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if self.inside:
            return out
        name, outs = func.overloadpacket.__name__, tensors(out)
        if name == "cat":
            self.set(out, self._joined(args, out))
            return out
        followed = [t for t in tensors(args) if self.known(t) is not None]
        if not followed:
            return out
        result = carried(name, args, outs, self.known, rectified=True)
        if result is None and (torch.Tag.pointwise in func.tags or "norm" in name):
            # what keeps every element in its place
            alike = [t for t in followed if t.shape == outs[0].shape]
            result = [c for t in alike[:1] if (c := self.known(t)) is not None]
        for t in outs:
            self.set(t, None)
        for t, channels in zip(outs, result or (), strict=False):
            self.set(t, channels)
        return out

    def _joined(self, args: tuple[Any, ...], out: Tensor) -> Channels:
        along = (args[1] if len(args) > 1 else 0) % out.dim()
        ids = []
        for t in (t for t in args[0] if t.numel()):
            c = self.known(t)
            ids.append(c.ids if c is not None and c.dim == along else np.full(t.shape[along], -1))
            ids[-1] = np.where(ids[-1] < 0, self.count, ids[-1])
            self.count += 1
        return Channels(dim=along, ids=np.concatenate(ids))


def _runs(c: Channels) -> tuple[int, ...]:
    """Starts of the runs of one part, and the end; a part in pieces is not told from others."""
    changes = np.flatnonzero(np.diff(c.ids)) + 1
    return (0, *changes.tolist(), len(c.ids))
