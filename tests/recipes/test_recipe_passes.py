"""Laws of recipes that quantize: what they make, what they offer, what they refuse."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from allot.errors import InputError
from allot.num.formats import Int
from allot.options.precision import Weight
from allot.options.standins import OnGrid
from allot.recipes import ALL, Recipe, by_name
from allot.recipes.bits import Bits, parsed
from allot.recipes.floats import splits
from allot.recipes.offered import integers, tensors
from allot.recover import Recovery
from allot.rewrites.low_rank_branch import Branch
from allot.runtimes.ideal import Ideal
from allot.scheme import Quantized, Scheme, quantized
from allot.site import Site
from allot.task import Task
from allot.trace import trace
from tests import small
from tests.rewrites import transformers_small as transformers

# mixtures of experts have toys of their own
MADE = tuple(r for r in ALL if r.passes is not None and r.name != "eaquant")
# few steps: what is learned is judged elsewhere
STEPS = 4


def on(recipe: Recipe) -> Task:
    """A network with what the recipe rewrites."""
    assert recipe.passes is not None
    return transformers.vision() if recipe.passes(Bits()).rewrites else small.task()


def made(recipe: Recipe, bits: str = "W4A8") -> tuple[Task, Quantized]:
    task, scheme = on(recipe), recipe.scheme(bits)
    assert scheme is not None
    learning = scheme.recovery.learning
    recovery = replace(scheme.recovery, samples=16)
    if learning is not None and hasattr(learning, "steps"):
        recovery = replace(recovery, learning=replace(learning, steps=STEPS, samples=16))  # type: ignore[type-var]
    # the toys are narrower than what a branch is meant for
    rewrites = [replace(r, rank=2) if isinstance(r, Branch) else r for r in scheme.rewrites]
    return task, quantized(task, replace(scheme, recovery=recovery, rewrites=tuple(rewrites)))


@pytest.mark.parametrize("recipe", MADE, ids=lambda r: r.name)
@pytest.mark.filterwarnings("ignore:codes are learned on")
def test_what_it_makes_is_near_the_original_and_on_grids(recipe: Recipe) -> None:
    task, found = made(recipe, "W8A16")
    x = task.search.inputs
    with torch.no_grad():
        wanted = task.forward(task.model, x)
        got = found.task.forward(found.network(), x)
    assert float(task.divergence(wanted, got).mean()) < 0.05
    grids = [m for m in found.network().modules() if isinstance(m, OnGrid)]
    weights = [s for s in found.options if s.endswith(".weight")]
    assert len(grids) == len(weights) > 0 and 8 <= found.weight_bits < 32


@pytest.mark.parametrize("recipe", MADE, ids=lambda r: r.name)
def test_its_axis_offers_the_original_and_what_is_asked(recipe: Recipe) -> None:
    task = on(recipe)
    graph = trace(task.model, task.forward, task.example())
    for bits, count in (("W4A8", 2), ("", 1 + len(recipe.widths))):
        space = recipe.axis(bits)(graph, Ideal())
        kinds = {graph.site(c.site).kind for c in space.choices}
        assert kinds == {"weight", "activation"}
        assert all(c.options[0].is_original for c in space.choices)
        weights = [c for c in space.choices if graph.site(c.site).kind == "weight"]
        assert {len(c.options) for c in weights} == {count}


@pytest.mark.parametrize("recipe", MADE, ids=lambda r: r.name)
def test_its_parts_are_named(recipe: Recipe) -> None:
    scheme = recipe.scheme("")
    assert scheme is not None
    names = {name.rpartition(".")[2] for name in recipe.made_of}
    assert {type(r).__name__ for r in scheme.rewrites} <= names


def test_a_recipe_that_only_chooses_has_no_precision_axis_of_its_own() -> None:
    hawq = by_name("hawq")
    assert hawq.scheme("W4A8") is None
    with pytest.raises(InputError, match="leave --bits out"):
        hawq.axis("W4A8")


@pytest.mark.parametrize("text", ("W4A8", "W2A4", "W8A16", "W3A16g32", "W4A8g32", "W8A8token"))
def test_bits_are_read_as_they_are_written(text: str) -> None:
    assert parsed(text).text == text


@pytest.mark.parametrize("text", ("4A8", "W9A8", "W1A8", "W4A12", "W4A1", "W4A8g", "W4token"))
def test_bits_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(InputError, match=rf"--bits {text}"):
        parsed(text)


@pytest.mark.parametrize("text", ("W4A8tokeng32", "W4A16token"))
def test_ranges_of_tokens_meet_whole_channels_alone(text: str) -> None:
    with pytest.raises(InputError, match=rf"--bits {text}: weights in groups meet"):
        parsed(text)


def test_without_activations_they_stay_in_float() -> None:
    assert parsed("W4") == parsed("W4A16") and parsed("W4g128") == parsed("W4A16g128")
    assert tensors(parsed("W4g128")) is None


def test_ranges_found_at_run_time_are_for_what_linears_alone_read() -> None:
    task = small.task()
    graph = trace(task.model, task.forward, task.example())
    for text, label in (("W8A8token", "A8symtoken"), ("W8A8g16", "A8symg16")):
        rule = tensors(parsed(text))
        assert callable(rule)
        for site in (s for s in graph.sites if s.kind == "activation"):
            linear = {graph.layer(m).op for m in site.reach} == {"linear"}
            assert rule(site, graph).label == (label if linear else "A8")
    assert not callable(tensors(parsed("W4A8"))) and not callable(tensors(parsed("W4A4g32")))


def test_whole_channels_of_integers_are_what_integer_kernels_take() -> None:
    assert integers(Bits(weight=3)) == Weight(bits=3)
    assert not isinstance(integers(Bits(weight=3, group=32)), Weight)


@pytest.mark.parametrize("bits", (4, 6, 8))
def test_splits_are_all_there_are(bits: int) -> None:
    found = splits(bits)
    assert all(1 + g.exponent + g.mantissa == bits for g in found)
    assert len(set(found)) == len(found) == min(bits - 1, 5)
    with pytest.raises(InputError, match="4, 6 or 8 bits"):
        splits(5)


def test_places_differ_where_they_are_told_to() -> None:
    task = small.task()
    recovery = Recovery(samples=8, matched=False)
    scheme = Scheme(
        weight=Weight(bits=2), places=(("conv1.*", Weight(bits=8)), ("head.*", Weight(bits=32))),
        recovery=recovery,
    )  # fmt: skip
    found = quantized(task, scheme)
    assert found.options["conv1.weight"] == Weight(bits=8)
    assert "head.weight" not in found.options
    with pytest.raises(InputError, match="no site fits 'nowhere"):
        quantized(task, replace(scheme, places=(("nowhere*", Weight(bits=8)),)))


def test_bits_per_weight_count_scales_and_what_stays() -> None:
    found = quantized(small.task(), Scheme(weight=Weight(bits=4), recovery=Recovery(matched=False)))
    sites = [s for s in found.graph.sites if s.kind == "weight"]
    elements = sum(torch.Size(s.shape).numel() for s in sites)
    rows = sum(s.shape[0] for s in sites)
    assert found.weight_bits == pytest.approx(4 + 32 * rows / elements)
    # bytes hold the biases too
    floats = sum(4 * x.weight[0] for x in found.graph.layers if x.bias or x.norm)
    packed = sum(-(-4 * torch.Size(s.shape).numel() // 8) for s in sites)
    assert found.bytes == packed + 4 * rows + floats + found.graph.loose


def test_the_tasks_network_is_left_as_it_was() -> None:
    task = small.task()
    before = small.state(task.model)
    quantized(task, Scheme(weight=Weight(bits=2)))
    assert small.same_state(before, small.state(task.model))


def test_adding_rank_is_part_of_the_option() -> None:
    plain, ranked = (integers(Bits(weight=2), rank=r) for r in (0, 2))
    site = next(s for s in trace_of(small.task()) if s.kind == "weight")
    assert plain.effect(site).stores is None
    stores = ranked.effect(site).stores
    assert stores is not None
    assert stores.stored_bytes(8, 18) == 8 * 18 * 2 // 8 + 4 * 8 + 2 * 2 * (8 + 18)
    assert Int(bits=2).width == 2


def trace_of(task: Task) -> tuple[Site, ...]:
    return trace(task.model, task.forward, task.example()).sites


def outputs(task: Task, found: Quantized) -> Tensor:
    with torch.no_grad():
        return found.task.forward(found.network(), task.search.inputs)


def test_the_same_seed_makes_the_same_network() -> None:
    task = small.task()
    scheme = Scheme(weight=Weight(bits=3))
    assert torch.equal(*(outputs(task, quantized(task, scheme, seed=4)) for _ in range(2)))
