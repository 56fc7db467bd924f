"""Laws of parts: they survive a file, and a file's word imports nothing but rooms of allot.

Faults these laws must catch: a name checked after its import; a nested part left unchecked; a
class that is no part; fields that are missing or unknown.
"""

from __future__ import annotations

import builtins
import importlib
import json
from collections.abc import Iterator

import pytest

from allot import part
from allot.errors import PlanError
from allot.num.formats import Int, UInt
from allot.num.rounding import Gptq, Nearest
from allot.options.precision import Activation, Values, Weight
from allot.options.statistics import Gram
from allot.options.width import Keep
from allot.part import Part
from allot.runtimes.ideal import Ideal

PARTS: tuple[Part, ...] = (
    Int(bits=3),
    UInt(bits=8),
    Nearest(),
    Gptq(damp=0.3),
    Weight(bits=4),
    Weight(bits=2, rounding=Nearest()),
    Activation(bits=8),
    Keep(ratio=1 / 3),
    Values(module="a.b", role="in"),
    Gram(module="conv", kernel=(3, 3), stride=(2, 1), padding=(1, 1), dilation=(1, 1), groups=4),
    Ideal(),
)
FOREIGN = (
    "os:system",
    "subprocess:Popen",
    "allot:Bank",
    "allot.bank:Bank",
    "allot.files:write_bytes",
    "allotx.options.precision:Weight",
    "allot.options:precision",
    "allot.optionsx:Weight",
    ".allot.num.formats:Int",
    "allot.num.formats:Int.lo",
    "allot.num.formats:__import__('os')",
    "allot.num.formats",
    "",
)


@pytest.fixture
def imports(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of all modules that anything asked to import."""
    asked: list[str] = []
    by_name, by_statement = importlib.import_module, builtins.__import__

    def watch(name: str, package: str | None = None):  # type: ignore[no-untyped-def]
        asked.append(name)
        return by_name(name, package)

    def watch_statement(name: str, *rest: object):  # type: ignore[no-untyped-def]
        if not name.startswith("hypothesis"):  # the test tools load parts of themselves late
            asked.append(name)
        return by_statement(name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(importlib, "import_module", watch)
    monkeypatch.setattr(builtins, "__import__", watch_statement)
    yield asked


@pytest.mark.parametrize("p", PARTS, ids=repr)
def test_a_part_survives_a_file(p: Part) -> None:
    back = part.load(json.loads(json.dumps(p.dump())))
    assert back == p and hash(back) == hash(p) and type(back) is type(p)


def test_equal_values_are_equal_parts_and_unequal_ones_are_not() -> None:
    assert len(set(PARTS)) == len(PARTS)
    assert Weight(bits=4) == Weight(bits=4) and hash(Weight(bits=4)) == hash(Weight(bits=4))


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_name_is_refused_before_anything_is_imported(
    name: str, imports: list[str]
) -> None:
    with pytest.raises(PlanError, match="not to be trusted"):
        part.load({"is": name, "bits": 3})
    assert imports == []


def test_a_foreign_part_inside_a_trusted_one_is_refused_before_it_is_imported(
    imports: list[str],
) -> None:
    data = Weight(bits=4).dump()
    data["rounding"] = {"is": "antigravity:fly"}
    with pytest.raises(PlanError, match="antigravity"):
        part.load(data)
    assert "antigravity" not in imports


def test_the_watch_on_imports_sees_them(imports: list[str]) -> None:
    part.load(Int(bits=3).dump())
    assert "allot.num.grids" in imports


@pytest.mark.parametrize(
    "name",
    (
        "allot.num.formats:Nothing",
        "allot.num.nothing:Int",
        "allot.num.formats:encode",
        "allot.options.standins:QuantizedLayer",
        "allot.num..formats:Int",
    ),
)
def test_a_name_that_is_no_part_is_refused(name: str) -> None:
    with pytest.raises(PlanError):
        part.load({"is": name})


@pytest.mark.parametrize("change", ({"more": 1}, {"bits": None}))
def test_unknown_and_missing_fields_are_refused_by_name(change: dict[str, object]) -> None:
    data = {**Int(bits=3).dump(), **change}
    data = {k: v for k, v in data.items() if v is not None}
    with pytest.raises(PlanError, match="bits"):
        part.load(data)


def test_plain_data_passes_and_lists_become_tuples() -> None:
    assert part.load([1, "a", [2.5, None]]) == (1, "a", (2.5, None))
