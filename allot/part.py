"""A Part is frozen data with a verb; it nests in files as {"is": "module:Class", ...}."""

from __future__ import annotations

import dataclasses
import importlib
from dataclasses import dataclass
from typing import Any

from allot.errors import PlanError

# only these rooms may be named in a file: nothing else is ever imported on a file's word
TRUSTED = (
    "allot.num.", "allot.options.", "allot.rewrites.", "allot.reconstruct.", "allot.recover",
    "allot.runtimes.", "allot.recipes.", "allot.sampling.", "allot.samplers.",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Part:
    """Base of formats, roundings, options, statistics; compared and hashed by value."""

    def dump(self) -> dict[str, Any]:
        """The part as JSON data; `load(part.dump()) == part`."""
        kind = type(self)
        values = {f.name: _dump(getattr(self, f.name)) for f in dataclasses.fields(self)}
        return {"is": f"{kind.__module__}:{kind.__qualname__}", **values}


def _dump(value: Any) -> Any:
    if isinstance(value, Part):
        return value.dump()
    if isinstance(value, tuple):
        return [_dump(v) for v in value]
    return value


def load(data: Any) -> Any:
    """The part that `dump` wrote.

    Raises PlanError for a name outside allot, an unknown class or unknown fields; the name is
    checked before anything is imported.
    """
    if isinstance(data, list):
        return tuple(load(v) for v in data)
    if not isinstance(data, dict):
        return data
    name = data.get("is", "")
    module, _, qualname = str(name).partition(":")
    if not module.startswith(TRUSTED) or not qualname.isidentifier():
        raise PlanError(f"{name!r} does not name a part of allot; this file is not to be trusted")
    try:
        kind = getattr(importlib.import_module(module), qualname)
    except (ImportError, AttributeError) as e:
        raise PlanError(f"no part {name!r} in this version of allot") from e
    if not (isinstance(kind, type) and issubclass(kind, Part)):
        raise PlanError(f"{name!r} is not a part")
    fields = {k: load(v) for k, v in data.items() if k != "is"}
    known = {f.name for f in dataclasses.fields(kind)}
    if set(fields) != known:
        raise PlanError(f"{name} has the fields {sorted(known)}, the file gives {sorted(fields)}")
    return kind(**fields)
