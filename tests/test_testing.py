"""Laws of the conformance kit: it passes what is built in, and catches parts that are faulty.

Faults these laws must catch: a law that no part can break; a law that pytest does not collect.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from allot.num.formats import Grid
from allot.num.rounding import Rounding, wide
from allot.option import Effect, Option
from allot.options.precision import Weight
from allot.runtimes import Ideal, OnnxRuntime, OpenVino
from allot.site import Graph, Site
from allot.space import Choice
from allot.target import Target
from allot.testing import OptionLaws, RoundingLaws, TargetLaws
from tests import small, toys
from tests.options.test_precision import TestWeight as GoodOption


class TestIdeal(TargetLaws):
    def target(self) -> Target:
        return Ideal()

    def offered(self) -> tuple[Graph, Sequence[Choice]]:
        k = small.kit(toys.separable)
        return k.graph, k.space.choices


class TestOpenVino(TestIdeal):
    def target(self) -> Target:
        return OpenVino()


class TestOnnxRuntime(TestIdeal):
    def target(self) -> Target:
        return OnnxRuntime()


def broken(laws: object) -> set[str]:
    """Names of the laws that a class of laws breaks."""
    found = set()
    for name in dir(laws):
        if name.startswith("test_"):
            try:
                getattr(laws, name)()
            except (AssertionError, KeyError):
                found.add(name)
    return found


@dataclass(frozen=True, kw_only=True)
class InPlace(Weight):
    """Rounds the module that it is given."""

    def apply(self, module: nn.Module, **rest: object) -> nn.Module:  # type: ignore[override]
        with torch.no_grad():
            module.weight.mul_(2)  # type: ignore[operator, union-attr]
        return copy.deepcopy(module)


@dataclass(frozen=True, kw_only=True)
class Same(Weight):
    """Hands the module back."""

    def apply(self, module: nn.Module, **rest: object) -> nn.Module:  # type: ignore[override]
        return module


@dataclass(frozen=True, kw_only=True)
class Free(Weight):
    """Says that it costs what the original costs, and is read by the same name."""

    @property
    def label(self) -> str:
        return "a float"

    def effect(self, site: Site) -> Effect:
        return Effect()


@dataclass(frozen=True, kw_only=True)
class Greedy(Weight):
    """Reads what it did not ask for."""

    def needs(self, site: Site, graph: Graph) -> tuple[()]:
        return ()

    def apply(self, module: nn.Module, **rest: object) -> nn.Module:  # type: ignore[override]
        assert rest["stats"], "nothing is known"
        return copy.deepcopy(module)


@pytest.mark.parametrize(
    ("kind", "law"),
    (
        (InPlace, "test_apply_leaves_the_module_and_its_numbers_as_they_are"),
        (Same, "test_apply_leaves_the_module_and_its_numbers_as_they_are"),
        (Free, "test_it_is_cheaper_than_the_original"),
        (Free, "test_its_label_is_one_word_and_not_the_originals"),
        (Greedy, "test_it_takes_no_statistic_that_it_did_not_ask_for"),
    ),
)
def test_a_faulty_option_is_caught(kind: type[Weight], law: str) -> None:
    class Laws(GoodOption):
        def option(self) -> Option:
            return kind(bits=3)

    assert law in broken(Laws())


Change = Callable[[Tensor, Tensor, Grid], Tensor]


def near(w: Tensor, scale: Tensor, grid: Grid) -> Tensor:
    return grid.nearest(w / wide(scale, w))


WHOLE = "test_codes_are_whole_numbers_of_the_format"
ROUNDINGS: dict[str, tuple[Change, str]] = {
    "half": (lambda w, s, f: near(w, s, f) + 0.5, WHOLE),
    "beyond": (lambda w, s, f: (w / wide(s, w)).round(), WHOLE),
    "down": (
        lambda w, s, f: (w / wide(s, w)).floor().clamp(f.lo, f.hi),
        "test_without_a_gram_it_is_nearest",
    ),
    "shifted": (
        lambda w, s, f: (near(w, s, f) + 1).clamp(f.lo, f.hi),
        "test_values_on_the_grid_survive",
    ),
    "one scale": (
        lambda w, s, f: near(w, s[:1].expand_as(s), f),
        "test_rows_are_rounded_each_for_itself",
    ),
    "absolute": (
        lambda w, s, f: near(w + 0.1, s, f),
        "test_a_larger_row_with_a_larger_scale_has_the_same_codes",
    ),
    "in place": (lambda w, s, f: near(w.mul_(2), s, f), "test_what_it_is_given_stays_as_it_is"),
}


@dataclass(frozen=True, kw_only=True)
class Faulty(Rounding):
    """Nearest codes, with something done to weights or codes."""

    name: str

    def codes(self, w: Tensor, scale: Tensor, fmt: Grid, gram: Tensor | None) -> Tensor:
        return ROUNDINGS[self.name][0](w, scale, fmt)


@pytest.mark.parametrize("name", ROUNDINGS)
def test_a_faulty_rounding_is_caught(name: str) -> None:
    class Laws(RoundingLaws):
        def rounding(self) -> Rounding:
            return Faulty(name=name)

    assert ROUNDINGS[name][1] in broken(Laws())


@dataclass(frozen=True, kw_only=True)
class Sloppy(Ideal):
    """Refuses originals, computes in fewer bits than it is given, steps of nothing."""

    def can(self, option: Option, site: Site, graph: Graph) -> str:
        return "no\nnever"

    def channel_step(self, size: int) -> int:
        return 0

    def activation_bits(self) -> tuple[int, ...]:
        return (16,)

    def computes(self, weight_bits: float, input_bits: float) -> tuple[float, float]:
        return 1, 1

    def version(self) -> str:
        return ""


def test_a_faulty_target_is_caught() -> None:
    class Laws(TestIdeal):
        def target(self) -> Target:
            return Sloppy()

    good = {"changes_nothing", "states_bytes", "survives_a_file"}
    every = {n for n in dir(TargetLaws) if n.startswith("test_")}
    assert broken(Laws()) == {n for n in every if not n.endswith(tuple(good))}
    assert broken(TestIdeal()) == set()


def test_the_laws_are_collected_from_the_kit_by_inheritance_alone() -> None:
    for laws in (OptionLaws, RoundingLaws, TargetLaws):
        assert not laws.__name__.startswith("Test")
        assert sum(n.startswith("test_") for n in dir(laws)) >= 8
