"""Module tree: a module as plain data and tensors, and the module of such data."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from allot import part
from allot.errors import PlanError

# only classes from here are written, and only these are imported on a file's word
TRUSTED = ("allot.", "torch.nn.modules.")
_BASE = set(vars(nn.Module()))
_HOOKS = tuple(
    k for k in _BASE if k.endswith(("_hooks", "_hooks_with_kwargs", "_hooks_always_called"))
)


class Untold(Exception):
    """A module that plain data cannot say; not an error."""


def told(
    module: nn.Module, *, name: Callable[[Tensor], str], known: Mapping[int, dict[str, Any]]
) -> dict[str, Any]:
    """A module as JSON data.  name: of a tensor in the file.  known: id -> what stands for a
    module that is written elsewhere.  Raises Untold."""
    if id(module) in known:
        return known[id(module)]
    kind = type(module)
    if not kind.__module__.startswith(TRUSTED) or not kind.__qualname__.isidentifier():
        raise Untold
    own = vars(module)
    if any(own.get(k) for k in _HOOKS):
        raise Untold
    # lists of pairs, since their order is the order of the module
    children = [
        [k, None if m is None else told(m, name=name, known=known)]
        for k, m in module._modules.items()
    ]
    kept = [[k, _tensor(x, name)] for k, x in module._parameters.items()]
    buffers = [
        [k, _tensor(x, name), k not in module._non_persistent_buffers_set]
        for k, x in module._buffers.items()
    ]
    return {
        "is": f"{kind.__module__}:{kind.__qualname__}",
        "training": module.training,
        "settings": {k: _plain(v) for k, v in own.items() if k not in _BASE},
        "parameters": kept,
        "buffers": buffers,
        "children": children,
    }


def _tensor(x: Tensor | None, name: Callable[[Tensor], str]) -> list[Any] | None:
    if x is None:
        return None
    if not x.is_contiguous():
        raise Untold  # kernels may add up in another order for another layout
    return [name(x), x.requires_grad]


def _plain(value: Any) -> Any:
    """A setting as JSON data; raises Untold for what is none."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, part.Part):
        return {"part": value.dump()}
    if type(value) in (tuple, list):
        return {type(value).__name__: [_plain(v) for v in value]}
    raise Untold


def built(
    data: dict[str, Any],
    *,
    tensors: Mapping[str, Tensor],
    originals: Mapping[str, nn.Module],
    encodings: Sequence[nn.Module],
) -> nn.Module:
    """The module of the data; tensors are taken as they are.

    Raises PlanError for a class that is not trusted, before anything is imported.
    """
    if "original" in data:
        return originals[data["original"]]
    if "encoding" in data:
        return encodings[data["encoding"]]
    kind = _class(data["is"])
    module = kind.__new__(kind)
    nn.Module.__init__(module)
    module.training = data["training"]
    for k, v in data["settings"].items():
        vars(module)[k] = _setting(v)
    for k, v in data["parameters"]:
        value = None if v is None else nn.Parameter(tensors[v[0]], requires_grad=v[1])
        module.register_parameter(k, value)
    for k, v, lasting in data["buffers"]:
        module.register_buffer(k, None if v is None else tensors[v[0]], persistent=lasting)
    for k, child in data["children"]:
        inner = None
        if child is not None:
            inner = built(child, tensors=tensors, originals=originals, encodings=encodings)
        module.add_module(k, inner)
    return module


def _class(name: str) -> type[nn.Module]:
    module, _, qualname = str(name).partition(":")
    if not module.startswith(TRUSTED) or not qualname.isidentifier():
        raise PlanError(f"{name!r} is no module of allot or torch; this file is not to be trusted")
    kind = getattr(importlib.import_module(module), qualname, None)
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise PlanError(f"{name!r} is no module in this version")
    return kind


def _setting(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if "part" in value:
        return part.load(value["part"])
    if "tuple" in value:
        return tuple(_setting(v) for v in value["tuple"])
    return [_setting(v) for v in value["list"]]
