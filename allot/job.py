"""Job: what was asked for, as data that can be written down and compared when a job resumes."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch

from allot.errors import InputError
from allot.part import Part
from allot.target import Workload
from allot.task import Task

BILLS = ("size", "bitops", "latency", "memory", "energy", "disk")
_BYTES = {"": 1, "B": 1, "KB": 1e3, "KiB": 2**10, "MB": 1e6, "MiB": 2**20, "GB": 1e9}
_UNITS = {
    "size": _BYTES,
    "memory": _BYTES,
    "disk": _BYTES,
    "bitops": {"": 1, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12},
    "latency": {"s": 1, "ms": 1e-3, "us": 1e-6},
    "energy": {"J": 1, "mJ": 1e-3, "uJ": 1e-6, "nJ": 1e-9},
}


@dataclass(frozen=True, kw_only=True)
class Budget:
    """An upper bound on a bill: a share of the original's, or an absolute number in base units."""

    bill: str
    value: float
    relative: bool
    text: str

    def limit(self, original: float) -> float:
        return self.value * original if self.relative else self.value


def budget(text: str) -> Budget:
    """The budget of a text like "size=12%", "size=40KB", "latency=4ms", "bitops=1.2G".

    Raises InputError for an unknown bill or unit, a negative number or more than 100 %.
    """
    bill, _, amount = text.partition("=")
    if bill not in BILLS:
        raise InputError(f"--budget {text}: {bill!r} is no bill; there are {', '.join(BILLS)}")
    found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)\s*(%|[A-Za-z]*)\s*", amount)
    if not found:
        raise InputError(f"--budget {text}: {amount!r} is no amount; give one like {bill}=12%")
    value, unit = float(found[1]), found[2]
    if unit == "%":
        if value > 100:
            raise InputError(f"--budget {text}: more than the original itself; give at most 100%")
        return Budget(bill=bill, value=value / 100, relative=True, text=amount)
    if unit not in _UNITS[bill]:
        units = ", ".join(u for u in _UNITS[bill] if u)
        raise InputError(f"--budget {text}: {unit!r} is no unit of {bill}; use % or {units}")
    return Budget(bill=bill, value=value * _UNITS[bill][unit], relative=False, text=amount)


def budgets(texts: Sequence[str]) -> tuple[Budget, ...]:
    """All budgets; of two for the same bill the job would have to drop one, so that is refused."""
    found = tuple(budget(t) for t in texts)
    names = [b.bill for b in found]
    twice = [n for n in names if names.count(n) > 1]
    if twice:
        raise InputError(f"two budgets for {twice[0]}; give one")
    return found


@dataclass(frozen=True, kw_only=True)
class Taken:
    """Calibration samples that were chosen: by which way, and their places in the task's data."""

    by: str
    index: tuple[int, ...]

    def dump(self) -> dict[str, Any]:
        return {"by": self.by, "index": list(self.index)}

    def of(self, task: Task) -> Task:
        """The task with these calibration samples only; raises InputError where one is lacking."""
        if max(self.index) >= len(task.calibrate):
            raise InputError(
                f"calibration sample {max(self.index)} was chosen before, the task now has "
                f"{len(task.calibrate)}; give it the data that it had"
            )
        return replace(task, calibrate=task.calibrate.subset(torch.tensor(self.index)))


def taken(data: Mapping[str, Any] | None) -> Taken | None:
    """What `dump` wrote, None for nothing."""
    return None if data is None else Taken(by=data["by"], index=tuple(data["index"]))


# site, label of an option, why it is struck out
Struck = tuple[str, str, str]


@dataclass(frozen=True, kw_only=True)
class Job:
    """The settings that a result depends on.

    method: names of what prepares the data, says the harm and searches (see `method`).  rewrites:
    what the network went through before it was traced, in order; graph and weights are those of
    the rewritten one.  originals: (name, rewrites) of the rewritten networks that those were chosen
    among.  strong: the recovery of finalists, None for the usual one.  calibration: which samples
    it took, None for all.  struck: options that never pay in the target.  prepare: name of what
    then made its data, "" for nothing.
    """

    task: str
    graph: str
    weights: str
    budgets: tuple[str, ...]
    max_drop: float
    axes: tuple[str, ...]
    target: str
    workload: Workload
    seed: int
    pins: tuple[tuple[str, str], ...] = ()
    excludes: tuple[str, ...] = ()
    method: tuple[str, ...] = ()
    rewrites: tuple[Part, ...] = ()
    originals: tuple[tuple[str, tuple[Part, ...]], ...] = ()
    strong: Part | None = None
    calibration: Taken | None = None
    struck: tuple[Struck, ...] = ()
    prepare: str = ""

    def dump(self) -> dict[str, Any]:
        return {
            **{f.name: getattr(self, f.name) for f in fields(self)},
            "workload": asdict(self.workload),
            "rewrites": [r.dump() for r in self.rewrites],
            "originals": [[name, [r.dump() for r in rs]] for name, rs in self.originals],
            "strong": None if self.strong is None else self.strong.dump(),
            "calibration": None if self.calibration is None else self.calibration.dump(),
            "budgets": list(self.budgets),
            "axes": list(self.axes),
            "pins": [list(p) for p in self.pins],
            "excludes": list(self.excludes),
            "struck": [list(s) for s in self.struck],
            "method": list(self.method),
        }

    def differs(self, other: Mapping[str, Any]) -> list[str]:
        """Names of the settings in which a job written down differs from this one."""
        mine = self.dump()
        return [k for k in mine if mine[k] != other.get(k)]


def method(*parts: object) -> tuple[str, ...]:
    """Names of functions as they are imported from allot, those that are None left out."""
    return tuple(part_name(p) for p in parts if p is not None)


def part_name(part: object) -> str:
    """The name of a function: "harm.hawq"; with what is set of its arguments, where some are."""
    if isinstance(part, functools.partial):
        given = [*map(_value, part.args), *(f"{k}={_value(v)}" for k, v in part.keywords.items())]
        return f"{part_name(part.func)}({', '.join(given)})"
    function: Any = part
    name = function.__name__
    module = function.__module__.removeprefix("allot.")
    return module if module.endswith(f".{name}") else f"{module}.{name}"


def _value(value: object) -> str:
    return part_name(value).rpartition(".")[2] if callable(value) else str(value)


def say(bill: str, value: float) -> str:
    """A bill for people: "129.4 KB", "4.10 ms", "1.30 G BitOPs"."""
    if bill == "latency":
        return f"{1e3 * value:.3g} ms"
    if bill == "energy":
        return f"{1e3 * value:.3g} mJ"
    if bill in ("size", "memory", "disk"):
        return f"{value / 1e3:.4g} KB" if value < 1e6 else f"{value / 1e6:.4g} MB"
    return f"{value / 1e9:.4g} G BitOPs"
