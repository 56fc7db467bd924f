"""Accelerator file: a machine's description in YAML, checked field by field."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allot.errors import InputError, MissingError
from allot.runtimes.accelerator import Accelerator, Kernel

_WEIGHTS, _INPUTS = (2, 3, 4, 5, 6, 7, 8, 16, 32), (4, 6, 8, 16, 32)
SUFFIXES = (".yaml", ".yml")


def load(path: str) -> Accelerator:
    """The accelerator that a file describes.

    Raises InputError that names the file, the line and the field, MissingError without PyYAML.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"there is no file {path}; it would describe an accelerator")
    data = file.read_bytes()
    fields = _fields(_parsed(path, data), path, _MACHINE)
    fields["title"] = fields.pop("name")
    found = Accelerator(name=path, digest=hashlib.sha256(data).hexdigest(), **fields)
    if min(found.widest.weight, found.widest.input) < 16:
        raise InputError(
            f"{path}: no format computes in floats, which whatever is not quantized needs; give "
            "one with weight and input of 16 or 32 bits"
        )
    return found


@dataclass(frozen=True, kw_only=True)
class _Place:
    """A node of the file: what errors say of it.  node: of PyYAML."""

    path: str
    field: str
    node: Any

    def wrong(self, wanted: str) -> InputError:
        line = self.node.start_mark.line + 1
        given = (
            f"is {self.node.value!r}" if isinstance(self.node.value, str) else "is no such thing"
        )
        return InputError(f"{self.path}, line {line}: {self.field} {given}; {wanted}")


def _parsed(path: str, data: bytes) -> Any:
    try:
        import yaml
    except ModuleNotFoundError as e:
        raise MissingError(f"reading {path} needs PyYAML: pip install pyyaml") from e
    try:
        root = yaml.compose(data, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as e:
        line = "" if e.problem_mark is None else f", line {e.problem_mark.line + 1}"
        raise InputError(f"{path}{line}: not YAML: {e.problem}") from e
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise InputError(f"{path}: not YAML: {e}") from e
    if root is None:
        raise InputError(f"{path} is empty; it has the fields {', '.join(_MACHINE)}")
    return root


def _fields(
    node: Any, path: str, readers: Mapping[str, Callable[[_Place], Any]], where: str = ""
) -> dict[str, Any]:
    """The fields of a mapping, each by its reader; all of them are needed, and no other."""
    line = node.start_mark.line + 1
    if not isinstance(node.value, list) or not all(isinstance(v, tuple) for v in node.value):
        raise InputError(f"{path}, line {line}: {where or 'the file'} is no mapping of fields")
    found: dict[str, Any] = {}
    for key, value in node.value:
        name, at = str(key.value), key.start_mark.line + 1
        if name not in readers:
            have = ", ".join(readers)
            raise InputError(f"{path}, line {at}: unknown field {where}{name}; there are {have}")
        if name in found:
            raise InputError(f"{path}, line {at}: the field {where}{name} is given twice")
        found[name] = readers[name](_Place(path=path, field=where + name, node=value))
    lacking = [n for n in readers if n not in found]
    if lacking:
        raise InputError(f"{path}, line {line}: the field {where}{lacking[0]} is missing")
    return found


def _number(place: _Place, *, zero: bool = False) -> float:
    wanted = "give a number of 0 or more" if zero else "give a number above 0"
    try:
        found = float(place.node.value)
    except (TypeError, ValueError):
        raise place.wrong(wanted) from None
    if not (0 < found < float("inf") or (zero and found == 0)):
        raise place.wrong(wanted)
    return found


def _cost(place: _Place) -> float:
    return _number(place, zero=True)


def _whole(place: _Place) -> int:
    found = _number(place)
    if found != int(found):
        raise place.wrong("give a whole number above 0")
    return int(found)


def _text(place: _Place) -> str:
    if not isinstance(place.node.value, str) or not place.node.value.strip():
        raise place.wrong("give a name")
    return place.node.value.strip()


def _bits(known: tuple[int, ...]) -> Callable[[_Place], int]:
    def read(place: _Place) -> int:
        found = _whole(place)
        if found not in known:
            raise place.wrong(f"allot has formats of {', '.join(map(str, known))} bits")
        return found

    return read


def _formats(place: _Place) -> tuple[Kernel, ...]:
    rows = place.node.value
    if not isinstance(rows, list) or not rows or any(isinstance(r, tuple) for r in rows):
        raise place.wrong("give a list of formats")
    found = [Kernel(**_fields(row, place.path, _KERNEL, "formats.")) for row in rows]
    for i, (row, f) in enumerate(zip(rows, found, strict=True)):
        if any((f.weight, f.input) == (g.weight, g.input) for g in found[:i]):
            line = row.start_mark.line + 1
            raise InputError(
                f"{place.path}, line {line}: weight {f.weight} with input {f.input} is given twice"
            )
    return tuple(found)


_KERNEL: Mapping[str, Callable[[_Place], Any]] = {
    "weight": _bits(_WEIGHTS),
    "input": _bits(_INPUTS),
    "macs_per_cycle": _number,
    "pj_per_mac": _cost,
}
_MACHINE: Mapping[str, Callable[[_Place], Any]] = {
    "name": _text,
    "clock_hz": _number,
    "bytes_per_second": _number,
    "pj_per_byte": _cost,
    "channels": _whole,
    "formats": _formats,
}
