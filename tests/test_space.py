"""Laws of spaces: options by name, pins and exclusions cut, targets strike out with a reason.

Faults these laws must catch: the original struck out; an exclusion that misses a tied site; a pin
that moves another choice; a bad pattern that ends in a traceback.
"""

from __future__ import annotations

import pytest

from allot.errors import InputError
from allot.option import Option
from allot.options import precision, width
from allot.options.precision import Weight
from allot.runtimes.ideal import Ideal
from allot.runtimes.openvino import OpenVino
from allot.site import Site
from allot.space import Choice, Space
from allot.trace import trace
from tests import small, toys


def space() -> Space:
    t = small.task()
    graph = trace(t.model, t.forward, t.example())
    return precision.space(graph, Ideal()) + width.space(graph, Ideal())


def tied() -> Space:
    """Two weights that share one choice, and one of its own."""
    options = (Weight(bits=32), Weight(bits=8), Weight(bits=4))
    choices = (
        Choice(site="conv1.weight", options=options, tied=("conv2.weight",)),
        Choice(site="head.weight", options=options),
    )
    return Space(graph=space().graph, choices=choices)


def test_spaces_over_different_axes_add() -> None:
    s = space()
    kinds = [s.graph.site(c.site).kind for c in s.choices]
    assert kinds.index("channels") == len(kinds) - kinds.count("channels") == 6
    assert len({c.site for c in s.choices}) == len(s.choices)


def test_the_original_is_the_first_option_of_every_choice() -> None:
    s = space()
    assert all(c.options[0].is_original for c in s.choices)
    assert all(o.is_original for o in s.options(s.original).values())
    assert s.counts == tuple(len(c.options) for c in s.choices)


def test_a_point_gives_every_tied_site_its_option() -> None:
    got = tied().options((2, 1))
    four, eight = Weight(bits=4), Weight(bits=8)
    assert got == {"conv1.weight": four, "conv2.weight": four, "head.weight": eight}
    assert tied().position("conv2.weight") == tied().position("conv1.weight") == 0


def test_a_point_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError):
        tied().options((0,))


def test_a_site_without_a_choice_is_named_with_some_that_have_one() -> None:
    with pytest.raises(InputError, match=r"no\.such.*conv1\.input"):
        space().position("no.such")


def test_a_pin_fixes_one_site_and_leaves_the_others() -> None:
    s = space()
    pinned = s.pin("conv2.weight", "W4")
    at = s.position("conv2.weight")
    assert pinned.options(pinned.original)["conv2.weight"] == Weight(bits=4)
    assert pinned.counts == (*s.counts[:at], 1, *s.counts[at + 1 :])
    assert s.counts[at] == 8
    others = [c for i, c in enumerate(s.choices) if i != at]
    assert others == [c for i, c in enumerate(pinned.choices) if i != at]


def test_a_pin_of_a_tied_site_holds_for_all() -> None:
    pinned = tied().pin("conv2.weight", "W8")
    assert pinned.options((0, 0))["conv1.weight"] == Weight(bits=8)


def test_a_pin_to_an_unknown_option_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match="float, W8, W7"):
        space().pin("conv2.weight", "W9")


def test_a_pin_to_float_keeps_a_site_as_it_is() -> None:
    pinned = space().pin("conv2.weight", "float")
    assert pinned.counts[pinned.position("conv2.weight")] == 1


@pytest.mark.parametrize(
    ("pattern", "hits"),
    (
        ("re:^conv", {"conv1.weight", "conv1.input", "conv1.channels", "conv2.weight"}),
        ("re:head", {"head.weight", "head.input"}),
        ("conv1.weight", {"conv1.weight"}),
        ("re:.", {"conv1.weight", "head.input", "conv2.channels"}),
    ),
)
def test_an_exclusion_leaves_matching_sites_as_they_are(pattern: str, hits: set[str]) -> None:
    s = space()
    cut = s.exclude(pattern)
    left = {c.site for c, n in zip(cut.choices, cut.counts, strict=True) if n == 1}
    assert hits <= left and all(o.is_original for o in cut.options(cut.original).values())
    if pattern == "conv1.weight":
        assert left == hits
    assert [c.site for c in cut.choices] == [c.site for c in s.choices]


def test_an_exclusion_of_a_tied_site_holds_for_all() -> None:
    assert tied().exclude("conv2.weight").counts == (1, 3)
    assert tied().exclude("re:conv2").counts == (1, 3)


def test_a_name_is_no_pattern() -> None:
    with pytest.raises(InputError, match="no site"):
        space().exclude("conv1.weigh.")


@pytest.mark.parametrize("pattern", ("re:(", "re:*", "re:[a"))
def test_a_bad_pattern_is_one_sentence(pattern: str) -> None:
    with pytest.raises(InputError, match="no regular expression"):
        space().exclude(pattern)


@pytest.mark.parametrize("pattern", ("re:nothing", "conv"))
def test_an_exclusion_that_hits_nothing_is_refused(pattern: str) -> None:
    with pytest.raises(InputError, match="matches no site"):
        space().exclude(pattern)


def test_a_target_strikes_out_what_it_cannot_with_the_reason() -> None:
    def can(option: Option, site: Site) -> str:
        return "only even" if isinstance(option, Weight) and option.bits % 2 else ""

    cut = space().only(can)
    at = cut.position("conv1.weight")
    assert [o.label for o in cut.choices[at].options] == ["float", "W8", "W6", "W4", "W2"]
    assert cut.choices[at].struck == (("W7", "only even"), ("W5", "only even"), ("W3", "only even"))


def test_the_original_is_never_struck_out_and_cutting_twice_keeps_both_reasons() -> None:
    cut = space().only(lambda o, s: "first" if o.label == "W2" else "")
    cut = cut.only(lambda o, s: "second" if o.label != "W8" else "")
    at = cut.position("conv1.weight")
    assert [o.label for o in cut.choices[at].options] == ["float", "W8"]
    assert cut.choices[at].struck[0] == ("W2", "first") and len(cut.choices[at].struck) == 6
    assert cut.counts[cut.position("conv1.input")] == 1


def test_a_real_target_leaves_only_what_it_says_it_can() -> None:
    s = small.kit(toys.separable).space
    cut = s.only(lambda o, site: OpenVino().can(o, site, s.graph))
    for before, c in zip(s.choices, cut.choices, strict=True):
        site = s.graph.site(c.site)
        assert all(o.is_original or not OpenVino().can(o, site, s.graph) for o in c.options)
        assert len(c.options) + len(c.struck) == len(before.options)
        assert all(reason for _, reason in c.struck)
    assert any(c.struck for c in cut.choices)
