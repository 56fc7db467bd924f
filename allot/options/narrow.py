"""Narrow: convolutions, linears and batch norms with some of their channels left out."""

from __future__ import annotations

import copy
from collections.abc import Collection

import torch
from torch import Tensor, nn

from allot.errors import PlanError
from allot.num.channels import refit
from allot.site import Touch

# names under which a stand-in keeps the original positions that it still has
_KEPT = {"in": "kept_in", "out": "kept_out"}


def positions(module: nn.Module, side: str) -> tuple[int, ...]:
    """Original positions of the channels that a module still has; side: "in" or "out"."""
    found = vars(module).get(_KEPT[side])
    if found is not None:
        return tuple(found)
    if isinstance(module, nn.Conv2d):
        return tuple(range(module.in_channels if side == "in" else module.out_channels))
    if isinstance(module, nn.Linear):
        return tuple(range(module.in_features if side == "in" else module.out_features))
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        return tuple(range(module.num_features))
    raise PlanError(f"{type(module).__name__} cannot be narrowed; only conv, linear, batch norm")


def kept_gram(module: nn.Module, gram: Tensor) -> Tensor:
    """The second moment of a narrowed layer's input: gram [groups, k, k] of the original, cut.

    Groups (of a depthwise convolution) follow its output, columns its input.  A gram that
    already has the layer's size is returned as it is.
    """
    if not isinstance(module, nn.Conv2d | nn.Linear):
        raise PlanError(f"{type(module).__name__} has no second moment of its input")
    k = module.weight[0].numel()
    if isinstance(module, nn.Conv2d) and module.groups > 1:
        groups = torch.tensor(positions(module, "out"), device=gram.device)
        return gram if len(gram) == module.groups else gram[groups]
    if gram.shape[-1] == k:
        return gram
    columns = _columns(module, torch.tensor(positions(module, "in"), device=gram.device))
    return gram[:, columns][:, :, columns]


def narrowed(
    module: nn.Module, touch: Touch, keep: Collection[int], *, gram: Tensor | None = None
) -> nn.Module:
    """A copy of `module` whose channels at `touch` are those of the classes in `keep`.

    Positions that belong to no class of the site stay.  Without a gram the rest is left as it is,
    so that the network computes what it does with the removed channels' contribution zeroed; with
    the gram [1, k, k] of the original's input the kept columns are refitted to make up for the
    removed ones.  Narrowing by several sites composes in any order.
    """
    side = "in" if touch.role == "in" else "out"
    had = positions(module, side)
    wanted = set(keep)
    local = [i for i, p in enumerate(had) if touch.index[p] < 0 or touch.index[p] in wanted]
    if not local:
        raise PlanError(f"{touch.module} would be left without channels at its {side}")
    index = torch.tensor(local)
    new = copy.deepcopy(module)
    if isinstance(new, nn.BatchNorm1d | nn.BatchNorm2d):
        _cut_norm_(new, index)
    elif isinstance(new, nn.Conv2d | nn.Linear):
        if side == "out":
            _cut_rows_(new, index)
        else:
            _cut_columns_(new, index, None if gram is None else kept_gram(module, gram)[0])
    object.__setattr__(new, _KEPT[side], tuple(had[i] for i in local))
    if isinstance(new, nn.Conv2d) and new.groups > 1:
        object.__setattr__(new, _KEPT["in"], tuple(had[i] for i in local))
    return new


def _columns(module: nn.Conv2d | nn.Linear, channels: Tensor) -> Tensor:
    """Columns of weight.reshape(out, -1) that belong to the input channels."""
    size = module.weight[0, 0].numel()
    places = torch.arange(size, device=channels.device)
    return (channels[:, None] * size + places[None]).reshape(-1)


def _cut_norm_(norm: nn.BatchNorm1d | nn.BatchNorm2d, index: Tensor) -> None:
    """In place."""
    norm.num_features = len(index)
    if norm.affine:
        norm.weight, norm.bias = _like(norm.weight, index), _like(norm.bias, index)
    for name in ("running_mean", "running_var"):
        value = getattr(norm, name)
        setattr(norm, name, None if value is None else value[index.to(value.device)].clone())


def _cut_rows_(layer: nn.Conv2d | nn.Linear, index: Tensor) -> None:
    """In place; a depthwise convolution loses the groups of the rows."""
    layer.weight = _like(layer.weight, index)
    if layer.bias is not None:
        layer.bias = _like(layer.bias, index)
    if isinstance(layer, nn.Linear):
        layer.out_features = len(index)
        return
    layer.out_channels = len(index)
    if layer.groups > 1:
        layer.groups = layer.in_channels = len(index)


def _cut_columns_(layer: nn.Conv2d | nn.Linear, index: Tensor, gram: Tensor | None) -> None:
    """In place; gram [k, k] of the input that the layer still reads, or None."""
    w = layer.weight
    columns = _columns(layer, index.to(w.device))
    rows = w.detach().reshape(w.shape[0], -1)
    new = rows[:, columns] if gram is None else refit(rows, gram.to(w.device), columns)
    layer.weight = nn.Parameter(
        new.reshape(w.shape[0], len(index), *w.shape[2:]).clone(), requires_grad=w.requires_grad
    )
    if isinstance(layer, nn.Linear):
        layer.in_features = len(index)
    else:
        layer.in_channels = len(index)


def _like(old: Tensor, index: Tensor) -> nn.Parameter:
    """Some rows of a parameter, as a parameter of its own."""
    rows = old.detach()[index.to(old.device)].clone()
    return nn.Parameter(rows, requires_grad=old.requires_grad)
