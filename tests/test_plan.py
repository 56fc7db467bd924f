"""Laws of plans: they survive files of every version, and belong to one network and its weights.

Faults these laws must catch: a digest that forgets a buffer or depends on order; a version that
is not looked at; damage that ends in a traceback; a part that is no option.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch

from allot.errors import PlanError
from allot.num.rounding import Nearest
from allot.options.precision import Activation, Weight
from allot.options.width import Keep
from allot.plan import Plan, load, weights_digest
from tests import small, toys

V1 = Path(__file__).parent / "data" / "plan_v1.json"


def plan() -> Plan:
    options = {
        "conv1.weight": Weight(bits=4),
        "conv2.weight": Weight(bits=2, rounding=Nearest()),
        "conv2.input": Activation(bits=8),
        "conv1.channels": Keep(ratio=1 / 3),
        "head.weight": Weight(bits=32),
    }
    return Plan(graph="g", weights="w", options=options, recovery="matched", rewrites=("a", "b"))


def dumped() -> dict[str, object]:
    return json.loads(json.dumps(plan().dump()))  # type: ignore[no-any-return]


def test_a_plan_survives_a_file() -> None:
    back = load(dumped())
    assert back == plan() and back.digest == plan().digest


def test_plans_of_version_1_load_for_ever() -> None:
    back = load(json.loads(V1.read_text()))
    labels = {k: o.label for k, o in back.options.items()}
    assert labels == {
        "conv1.channels": "keep0.5",
        "conv1.input": "A8",
        "conv1.weight": "W4",
        "conv2.weight": "W3",
        "head.input": "float",
        "head.weight": "float",
    }
    assert back.options["conv2.weight"] == Weight(bits=3, rounding=Nearest())
    assert (back.graph, back.weights) == ("0123456789abcdef", "fedcba9876543210")
    assert back.recovery == "rounded in order, matched on 1024" and back.rewrites == ()


def test_the_order_of_options_is_no_part_of_a_plan() -> None:
    turned = Plan(**{**vars(plan()), "options": dict(reversed(plan().options.items()))})
    assert turned == plan() and turned.digest == plan().digest
    assert json.dumps(turned.dump()) == json.dumps(plan().dump())


@pytest.mark.parametrize(
    "change",
    (
        {"graph": "other"},
        {"weights": "other"},
        {"recovery": ""},
        {"rewrites": ("b", "a")},
        {"options": {"conv1.weight": Weight(bits=4)}},
        {"options": {**plan().options, "conv1.weight": Weight(bits=5)}},
    ),
)
def test_the_digest_changes_with_every_part_of_a_plan(change: dict[str, object]) -> None:
    assert Plan(**{**vars(plan()), **change}).digest != plan().digest  # type: ignore[arg-type]


@pytest.mark.parametrize("version", (0, 2, "1", None))
def test_an_unknown_version_is_refused(version: object) -> None:
    with pytest.raises(PlanError, match="version"):
        load({**dumped(), "version": version})


@pytest.mark.parametrize("data", (None, [], "plan", 3, {}))
def test_what_is_no_plan_is_refused(data: object) -> None:
    with pytest.raises(PlanError):
        load(data)


@pytest.mark.parametrize("gone", ("graph", "weights", "options", "recovery", "rewrites"))
def test_a_missing_field_is_refused(gone: str) -> None:
    with pytest.raises(PlanError, match="damaged"):
        load({k: v for k, v in dumped().items() if k != gone})


@pytest.mark.parametrize(
    "option",
    (
        {"all": {"is": "os:system"}},
        {"all": {"is": "allot.options.precision:Weight", "bits": 4}},
        {"all": {"is": "allot.options.width:Keep", "ratio": "much"}},
        {"all": {"is": "allot.num.rounding:Nearest"}},
        {"all": 4},
        {"night": Weight(bits=4).dump()},
        4,
        None,
    ),
)
def test_an_option_that_is_none_is_refused(option: object) -> None:
    data = dumped()
    data["options"] = {"conv1.weight": option}
    with pytest.raises(PlanError):
        load(data)


def test_a_plan_is_checked_against_network_and_weights() -> None:
    plan().check(graph="g", weights="w")
    with pytest.raises(PlanError, match="another network: g, this one is h"):
        plan().check(graph="h", weights="w")
    with pytest.raises(PlanError, match=r"other weights.*: w, these are v"):
        plan().check(graph="g", weights="v")


def test_the_digest_of_weights_sees_every_parameter_and_buffer() -> None:
    model = toys.chain()
    digest = weights_digest(model)
    assert digest == weights_digest(copy.deepcopy(model)) == weights_digest(toys.chain())
    for name, x in model.state_dict().items():
        changed = copy.deepcopy(model)
        with torch.no_grad():
            flat = changed.state_dict()[name].view(-1)
            flat[-1] = flat[-1] + 1
        assert weights_digest(changed) != digest, f"{name} {tuple(x.shape)}"


def test_networks_of_one_structure_have_one_graph_and_two_digests() -> None:
    a, b = small.kit(toys.chain), small.kit(lambda: toys.chain(1))
    assert a.graph.digest == b.graph.digest
    assert weights_digest(a.task.model) != weights_digest(b.task.model)
    assert a.graph.digest != small.kit(toys.residual).graph.digest
