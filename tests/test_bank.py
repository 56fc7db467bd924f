"""Laws of the bank: switching leaves no trace, copies share nothing, order never matters.

Faults these laws must catch: a stand-in left behind after an exception; a trial that forgets an
outer one; an encoding shared between two widths; a copy that shares storage; the user's network
used as the skeleton.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from allot.bank import Bank
from allot.option import Option
from allot.options.narrow import narrowed
from allot.options.precision import Activation, Weight
from allot.options.standins import QuantizedLayer
from allot.options.width import Keep, kept_classes
from allot.sweep import unwrapped
from tests import small, toys

MAKES = toys.PLAIN


def everything(k: small.Kit) -> dict[str, Option]:
    return k.options(small.width_and_bits(k))


class Failure(Exception):
    """Raised inside a trial."""


@pytest.mark.parametrize("make", MAKES)
@pytest.mark.parametrize("fails", (False, True))
def test_a_trial_leaves_no_trace(make: object, fails: bool) -> None:
    k = small.kit(make)  # type: ignore[arg-type]
    model = k.bank.skeleton
    before = small.identities(model), small.hooks(model), small.state(model)
    standins = k.bank.standins(everything(k))
    try:
        with k.bank.trial(standins) as there:
            assert there is model and small.identities(model) != before[0]
            small.forward(k.task, model, k.task.search)
            if fails:
                raise Failure
    except Failure:
        assert fails
    assert before[:2] == (small.identities(model), small.hooks(model))
    assert small.same_state(before[2], small.state(model))


def test_a_trial_of_an_unknown_module_fails_and_leaves_no_trace() -> None:
    k = small.kit()
    before = small.identities(k.bank.skeleton)
    with pytest.raises(KeyError), k.bank.trial({"bn1": nn.Identity(), "no.such": nn.Identity()}):
        pass
    assert before == small.identities(k.bank.skeleton)


def test_trials_nest_and_the_inner_one_gives_back_what_the_outer_one_put() -> None:
    k = small.kit()
    one, two = nn.Identity(), nn.Identity()
    before = small.identities(k.bank.skeleton)
    with k.bank.trial({"bn1": one}) as model:
        with k.bank.trial({"bn1": two, "relu1": one}):
            assert model.get_submodule("bn1") is two
        assert model.get_submodule("bn1") is one
        with pytest.raises(Failure), k.bank.trial({"bn1": two}):
            raise Failure
        assert model.get_submodule("bn1") is one
    assert before == small.identities(k.bank.skeleton)


def test_a_wrapper_around_a_container_keeps_the_stand_ins_inside() -> None:
    k = small.kit(toys.separable)
    for order in (("stem", "stem.0"), ("stem.0", "stem")):
        standins = {"stem": nn.Sequential(k.bank.module("stem")), "stem.0": nn.Identity()}
        with k.bank.trial({n: standins[n] for n in order}) as model:
            inside = model.get_submodule("stem.0.0")
            assert inside is standins["stem.0"]


@pytest.mark.parametrize("make", MAKES)
def test_the_users_network_is_not_touched(make: object) -> None:
    k = small.kit(make)  # type: ignore[arg-type]
    model = k.task.model
    state, parts = small.state(model), small.identities(model)
    bank = Bank(model, graph=k.graph, stats=k.bank.stats)
    with bank.trial(bank.standins(everything(k))) as skeleton:
        assert skeleton is not model
        bank.copy({})
    assert small.same_state(state, small.state(model)) and parts == small.identities(model)
    assert all(p.requires_grad for p in model.parameters()) and small.hooks(model) == 0


@pytest.mark.parametrize("make", MAKES)
def test_a_copy_shares_no_storage_with_the_bank_nor_the_user(make: object) -> None:
    k = small.kit(make)  # type: ignore[arg-type]
    standins = k.bank.standins(everything(k))
    new = k.bank.copy(standins)
    mine = {t.untyped_storage().data_ptr() for t in new.state_dict().values() if t.numel()}
    owners = [k.task.model, k.bank.skeleton, *standins.values()]
    theirs = {
        t.untyped_storage().data_ptr() for m in owners for t in m.state_dict().values() if t.numel()
    }
    assert mine and not mine & theirs
    with k.bank.trial(standins) as model:
        want = small.forward(k.task, model, k.task.search)
    assert torch.equal(want, small.forward(k.task, new, k.task.search))


@pytest.mark.parametrize("make", MAKES)
def test_the_order_of_a_plan_does_not_matter(make: object) -> None:
    k = small.kit(make)  # type: ignore[arg-type]
    options = everything(k)
    turned = dict(reversed(options.items()))
    other = small.kit(make)  # type: ignore[arg-type]
    with k.bank.trial(k.bank.standins(options)) as model:
        a = small.forward(k.task, model, k.task.search)
    with other.bank.trial(other.bank.standins(turned)) as model:
        b = small.forward(other.task, model, other.task.search)
    assert torch.equal(a, b)
    assert not torch.equal(a, k.meter.original)


def test_an_encoding_is_made_once() -> None:
    k = small.kit()
    options = everything(k)
    first, again = k.bank.standins(options), k.bank.standins(dict(reversed(options.items())))
    assert first.keys() == again.keys() and all(first[n] is again[n] for n in first)


def test_an_encoding_does_not_depend_on_options_elsewhere() -> None:
    k = small.kit()
    alone = k.bank.standins({"conv2.weight": Weight(bits=3)})["conv2"]
    options: dict[str, Option] = {"conv2.weight": Weight(bits=3), "conv1.weight": Weight(bits=2)}
    assert k.bank.standins(options)["conv2"] is alone


def test_options_that_change_nothing_put_nothing_in_place() -> None:
    k = small.kit()
    assert k.bank.standins(k.options(k.space.original)) == {}
    assert k.bank.standin("conv1", ()) is k.bank.module("conv1")


def test_width_and_bits_meet_in_one_module() -> None:
    k = small.kit()
    options: dict[str, Option] = {
        "conv2.weight": Weight(bits=3),
        "conv1.channels": Keep(ratio=0.5),
        "conv2.channels": Keep(ratio=0.5),
        "conv2.input": Activation(bits=8),
    }
    new = unwrapped(k.bank.standins(options)["conv2"])
    assert isinstance(new, QuantizedLayer) and (3, 4, 3, 3) == tuple(new.inner.weight.shape)
    assert max(len(r.unique()) for r in new.inner.weight.flatten(1)) <= 8
    # narrowed first, then rounded for what is left of its input
    plain = k.bank.unrounded("conv2", options)
    assert isinstance(plain, nn.Conv2d) and tuple(plain.weight.shape) == (3, 4, 3, 3)
    top = plain.weight.detach().flatten(1).abs().amax(1)
    error = (plain.weight - new.inner.weight).detach().flatten(1).abs().amax(1)
    assert bool((error < top).all())


def test_unrounded_has_the_structure_and_float_numbers() -> None:
    k = small.kit()
    site = k.graph.site("conv1.channels")
    keep = kept_classes(site, k.bank.stats, k.graph, 0.5)
    options: dict[str, Option] = {"conv1.weight": Weight(bits=2), site.name: Keep(ratio=0.5)}
    plain = k.bank.unrounded("conv1", options)
    touch = next(t for t in site.touches if t.module == "conv1")
    want = narrowed(copy.deepcopy(k.task.model.get_submodule("conv1")), touch, keep)
    assert torch.equal(want.weight, plain.weight)  # type: ignore[arg-type]
    assert k.bank.unrounded("conv2", {}) is k.bank.module("conv2")


def test_the_skeleton_is_in_eval_and_a_network_in_training_stays_so() -> None:
    model = toys.chain().train()
    k = small.kit(toys.chain)
    bank = Bank(model, graph=k.graph, stats=k.bank.stats)
    assert model.training and not bank.skeleton.training
    assert not any(p.requires_grad for p in bank.skeleton.parameters())
