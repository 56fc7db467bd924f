"""Moving: ONNX operators that move, pick, repeat, sort and sum elements."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Ints = Sequence[int]


def reshape(x: Tensor, size: Ints, *, allowzero: int = 0) -> Tensor:
    """A size of 0 keeps that of the input, unless `allowzero`."""
    if not allowzero:
        size = [x.shape[i] if isinstance(s, int) and s == 0 else s for i, s in enumerate(size)]
    return torch.reshape(x, tuple(size))


def transpose(x: Tensor, *, perm: Ints | None = None) -> Tensor:
    return x.permute(tuple(perm) if perm is not None else tuple(range(x.dim()))[::-1])


def expand(x: Tensor, size: Ints) -> Tensor:
    return torch.broadcast_to(x, torch.broadcast_shapes(tuple(x.shape), tuple(size)))


def concat(*x: Tensor, axis: int) -> Tensor:
    return torch.cat(x, axis)


def split(
    x: Tensor, sizes: Ints | None = None, *, axis: int = 0, num_outputs: int = 0
) -> tuple[Tensor, ...]:
    """Into given sizes, or into equal parts of which the last may be smaller."""
    if sizes is not None:
        return torch.split(x, list(sizes), axis)
    return torch.split(x, -(-x.shape[axis] // num_outputs), axis)


def cut(
    x: Tensor, starts: Ints, ends: Ints, axes: Ints | None = None, steps: Ints | None = None
) -> Tensor:
    """Slices; of a negative step the elements are picked in that order."""
    dims = range(len(starts)) if axes is None else axes
    for i, dim in enumerate(dims):
        step = 1 if steps is None else steps[i]
        if step > 0:
            index = [slice(None)] * x.dim()
            index[dim] = slice(starts[i], ends[i], step)
            x = x[tuple(index)]
        else:
            picked = range(x.shape[dim])[starts[i] : ends[i] : step]
            x = x.index_select(dim, torch.tensor(picked, device=x.device))
    return x


def gather(x: Tensor, index: Any, *, axis: int = 0) -> Tensor:
    """Of one index, or of indices [...]; negative ones count from the end of the axis."""
    if not isinstance(index, Tensor):
        return x.select(axis, index)
    axis = axis % x.dim()
    rows = torch.where(index < 0, index + x.shape[axis], index)
    found = x.index_select(axis, rows.reshape(-1))
    return found.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


def gather_elements(x: Tensor, index: Tensor, *, axis: int = 0) -> Tensor:
    return torch.gather(x, axis, torch.where(index < 0, index + x.shape[axis], index))


def gather_nd(x: Tensor, index: Tensor, *, batch_dims: int = 0) -> Tensor:
    """Of indices [..., k] into the first k dims."""
    return x[tuple(index.unbind(-1))]


def squeeze(x: Tensor, axes: Ints | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(tuple(axes))


def unsqueeze(x: Tensor, axes: Ints) -> Tensor:
    rank = x.dim() + len(axes)
    for dim in sorted(a % rank for a in axes):
        x = x.unsqueeze(dim)
    return x


def flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    return x.reshape(1, -1) if axis == 0 else x.flatten(axis).flatten(0, axis - 1)


def pad(
    x: Tensor, pads: Ints, value: Any = None, axes: Ints | None = None, *, mode: str = "constant"
) -> Tensor:
    """pads: all beginnings, then all ends."""
    dims = list(range(x.dim())) if axes is None else [a % x.dim() for a in axes]
    before = dict(zip(dims, pads[: len(dims)], strict=True))
    after = dict(zip(dims, pads[len(dims) :], strict=True))
    last = max((d for d in dims if before[d] or after[d]), default=None)
    if last is None:
        return x
    first = min(d for d in dims if before[d] or after[d])
    pairs = [(before.get(d, 0), after.get(d, 0)) for d in range(x.dim() - 1, first - 1, -1)]
    if mode == "constant":
        return F.pad(x, [v for p in pairs for v in p], value=0.0 if value is None else value)
    kept = [p for p in pairs if p != (0, 0)] if last < x.dim() - 1 else pairs
    return F.pad(x, [v for p in kept for v in p], mode={"edge": "replicate"}.get(mode, mode))


def tile(x: Tensor, repeats: Ints) -> Tensor:
    return x.repeat(*repeats)


def trilu(x: Tensor, k: Any = 0, *, upper: int = 1) -> Tensor:
    return torch.triu(x, k or 0) if upper else torch.tril(x, k or 0)


def steps(start: Any, limit: Any, delta: Any, *, device: str) -> Tensor:
    return torch.arange(start, limit, delta, device=device)


def filled(
    size: Ints, *, device: str, value: float = 0.0, dtype: torch.dtype = torch.float32
) -> Tensor:
    return torch.full(tuple(size), value, dtype=dtype, device=device)


def top(
    x: Tensor, k: Any, *, axis: int = -1, largest: int = 1, sorted: int = 1
) -> tuple[Tensor, Tensor]:
    """Of equal elements the first ones, as ONNX has it."""
    values, index = torch.sort(x, dim=axis, descending=bool(largest), stable=True)
    return values.narrow(axis, 0, k), index.narrow(axis, 0, k)


def arg_max(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    return torch.argmax(x, axis, keepdim=bool(keepdims))


def arg_min(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    return torch.argmin(x, axis, keepdim=bool(keepdims))


def running_sum(x: Tensor, axis: int, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    found = torch.cumsum(x, axis).to(x.dtype)
    return found - x if exclusive else found


def depth_to_space(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    n, c, h, w = x.shape
    b = blocksize
    if mode == "CRD":
        return F.pixel_shuffle(x, b)
    x = x.reshape(n, b, b, c // b**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return x.reshape(n, c // b**2, h * b, w * b)


def _reduce(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def run(
        x: Tensor, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
    ) -> Tensor:
        if not axes and noop_with_empty_axes:
            return x
        dims = tuple(axes) if axes else tuple(range(x.dim()))
        return function(x, dim=dims, keepdim=bool(keepdims))

    run.__name__ = f"reduce_{function.__name__}"
    return run


def _square(x: Tensor, *, dim: Ints, keepdim: bool) -> Tensor:
    return (x * x).sum(dim=tuple(dim), keepdim=keepdim)


def _norm(x: Tensor, *, dim: Ints, keepdim: bool) -> Tensor:
    return torch.linalg.vector_norm(x, dim=tuple(dim), keepdim=keepdim)


OPERATORS: Mapping[str, Callable[..., Any]] = {
    "ArgMax": arg_max,
    "ArgMin": arg_min,
    "Concat": concat,
    "ConstantOfShape": filled,
    "CumSum": running_sum,
    "DepthToSpace": depth_to_space,
    "Expand": expand,
    "Flatten": flatten,
    "Gather": gather,
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "Pad": pad,
    "Range": steps,
    "ReduceL2": _reduce(_norm),
    "ReduceMax": _reduce(torch.amax),
    "ReduceMean": _reduce(torch.mean),
    "ReduceMin": _reduce(torch.amin),
    "ReduceSum": _reduce(torch.sum),
    "ReduceSumSquare": _reduce(_square),
    "Reshape": reshape,
    "Slice": cut,
    "Split": split,
    "Squeeze": squeeze,
    "Tile": tile,
    "TopK": top,
    "Transpose": transpose,
    "Trilu": trilu,
    "Unsqueeze": unsqueeze,
}
