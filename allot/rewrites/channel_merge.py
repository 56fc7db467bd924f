"""Channel merge: the most similar input channels of a layer become one; its error is measured."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from allot.errors import InputError
from allot.rewrites.regroup import Regroup, Regrouped, channels_dim, columns, resized


@dataclass(frozen=True, kw_only=True, eq=False)
class Merged:
    """module: a Regrouped that stands in.  error: summed squared change of its output on the
    inputs it was made from.  pairs: channels that were merged."""

    module: nn.Module
    error: float
    pairs: tuple[tuple[int, int], ...]


def merged(module: nn.Module, inputs: Tensor, *, count: int) -> Merged:
    """A layer that reads `count` channels less (Liu et al. 2024, QLLM): no rewrite, it loses.

    module: a convolution in one group, a linear, or what a channel split made of one; it is left
    as it is.  inputs: what it reads.  Channels i and j become (x_i + x_j) / 2 with the column
    w_i + w_j; the output changes by (x_i - x_j) (w_i - w_j) / 2, whose square is the distance by
    which pairs are chosen, nearest first, between the even and the odd channels.  Deviation: no
    channel is in two pairs, so that distances stay true.  Raises InputError for more than half.
    """
    regroup, layer = _opened(module)
    width = layer.weight.shape[1]
    if not 0 <= count <= width // 2:
        raise InputError(f"at most half of {width} channels can be merged away, got {count}")
    x = inputs if regroup is None else regroup(inputs)
    distance = distances(layer, x)
    pairs = _nearest(distance, count)
    new = _joined(regroup, layer, pairs)
    with torch.no_grad():
        error = float((new(inputs) - module(inputs)).double().square().sum())
    return Merged(module=new, error=error, pairs=tuple(pairs))


def distances(layer: nn.Conv2d | nn.Linear, x: Tensor) -> Tensor:
    """|(x_i - x_j) (w_i - w_j) / 2|^2 of all channels, as if alone: float64 [in, in].

    For a convolution, places of the kernel are taken as independent.
    """
    rows = x.detach().movedim(channels_dim(layer), 0).flatten(1).double()
    w = columns(layer.weight).double()
    return _apart(rows) * _apart(w) / 4


def _apart(rows: Tensor) -> Tensor:
    """Squared distances of rows: [n, k] -> [n, n]."""
    inner = rows @ rows.T
    size = inner.diagonal()
    return (size[:, None] + size[None, :] - 2 * inner).clamp(min=0)


def _nearest(distance: Tensor, count: int) -> list[tuple[int, int]]:
    between = distance[::2, 1::2]
    order = between.flatten().argsort(stable=True).tolist()
    pairs: list[tuple[int, int]] = []
    used: set[int] = set()
    for k in order:
        i, j = 2 * (k // between.shape[1]), 2 * (k % between.shape[1]) + 1
        if len(pairs) < count and not used & {i, j}:
            pairs.append((i, j))
            used |= {i, j}
    return pairs


def _opened(module: nn.Module) -> tuple[Regroup | None, nn.Conv2d | nn.Linear]:
    regroup = None
    if isinstance(module, Regrouped):
        regroup, module = module.regroup, module.layer
    if not isinstance(module, nn.Conv2d | nn.Linear) or getattr(module, "groups", 1) != 1:
        raise InputError(
            f"a {type(module).__name__} has no channels to merge; a Linear or a "
            "Conv2d with groups=1 has"
        )
    if regroup is not None and regroup.other is not None:
        raise InputError("the channels of this layer are merged already; merge them all at once")
    return regroup, module


def _joined(
    regroup: Regroup | None, layer: nn.Conv2d | nn.Linear, pairs: list[tuple[int, int]]
) -> Regrouped:
    w = layer.weight.detach()
    first = torch.arange(w.shape[1], device=w.device)
    gain = w.new_ones(w.shape[1])
    if regroup is not None:
        first, gain = regroup.get_buffer("first"), regroup.get_buffer("gain")
    shift = (
        torch.zeros_like(gain)
        if regroup is None or regroup.shift is None
        else (regroup.get_buffer("shift").clone())
    )
    other, other_gain, weight = first.clone(), torch.zeros_like(gain), w.clone()
    mean = gain.clone()
    for i, j in pairs:
        mean[i], other[i], other_gain[i] = gain[i] / 2, first[j], gain[j] / 2
        shift[i] = (shift[i] + shift[j]) / 2
        weight[:, i] += w[:, j]
    gone = {j for _, j in pairs}
    kept = torch.tensor([k for k in range(w.shape[1]) if k not in gone], device=w.device)
    new = Regroup(
        first[kept], mean[kept], dim=channels_dim(layer), other=other[kept],
        other_gain=other_gain[kept], shift=shift[kept],
    )  # fmt: skip
    return Regrouped(new, resized(layer, weight[:, kept]))
