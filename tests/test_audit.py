"""Laws of the audit: what was planted is found where it is, and good data are not accused.

Faults these laws must catch: places told among the finite samples and not in the whole set; the
first of two copies accused; near in few features taken for equal; small gradients that oppose.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from allot.audit import Finding, audited, constant
from allot.task import Data, Task
from tests import small, tiny, toys


def of(x: Tensor, t: Task | None = None) -> Task:
    """A task that calibrates on x, without labels."""
    return replace(small.task() if t is None else t, calibrate=Data(inputs=x))


def kinds(t: Task) -> dict[str, Finding]:
    found = audited(t, batch=7)
    assert len({f.kind for f in found}) == len(found)
    return {f.kind: f for f in found}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("make", (toys.chain, toys.residual, toys.separable))
def test_good_data_are_not_accused(make: object, seed: int) -> None:
    model = tiny.balanced(make())  # type: ignore[operator]
    t = replace(tiny.task(), model=model, calibrate=tiny.samples(model, 64, seed))
    assert audited(t) == ()
    assert audited(of(toys.images(64, seed=seed), t)) == ()


def test_two_logits_are_not_enough_to_be_a_copy() -> None:
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 1))
    assert audited(of(toys.images(300), replace(small.task(), model=toys.seeded(model)))) == ()


def test_few_samples_are_told_with_the_chance() -> None:
    x = toys.images(40)
    for n in (1, 2, 31):
        found = kinds(of(x[:n]))["few samples"]
        assert f"1 in {n + 1}" in found.sentence and found.samples == tuple(range(n))
    assert "a single sample" in kinds(of(x[:1]))["few samples"].sentence
    assert not kinds(of(x))


def test_the_chance_is_that_of_a_new_largest_value() -> None:
    g = torch.Generator().manual_seed(0)
    for n in (1, 3, 9):
        drawn = torch.randn(20_000, n + 1, generator=g)
        share = float((drawn[:, -1] > drawn[:, :-1].max(1).values).double().mean())
        assert share == pytest.approx(1 / (n + 1), abs=0.015)


def test_copies_are_found_and_the_first_of_them_is_not() -> None:
    x = toys.images(40)
    x[7], x[30], x[31] = x[3], x[3], x[12]
    found = kinds(of(x))
    assert set(found) == {"duplicates"}
    assert found["duplicates"].samples == (7, 30, 31)
    assert "37 different samples and not 40" in found["duplicates"].sentence


def test_what_is_almost_a_copy_is_found() -> None:
    x = toys.images(40)
    x[20] = x[4] + 1e-3 * toys.images(1, seed=9)[0]
    found = kinds(of(x))
    assert set(found) == {"near duplicates"} and found["near duplicates"].samples == (20,)


@pytest.mark.parametrize("bad", (float("nan"), float("inf")))
def test_places_are_those_in_the_whole_set(bad: float) -> None:
    x = toys.images(40)
    x[2, 0, 1, 1] = x[5, 1, 0, 0] = bad
    x[20] = x[4] + 1e-3 * toys.images(1, seed=9)[0]
    found = kinds(of(x))
    assert set(found) == {"not finite", "near duplicates"}
    assert found["not finite"].samples == (2, 5)
    assert found["near duplicates"].samples == (20,)
    assert "sample 20 holds" in found["near duplicates"].sentence


def test_blank_samples_are_found() -> None:
    x = toys.images(40)
    x[6], x[9] = 0.5, -1.0
    assert kinds(of(x))["constant"].samples == (6, 9)
    inputs = {"image": x, "mask": torch.ones(40, 5)}
    found = constant(inputs)
    assert found is not None and found.samples == (6, 9)
    assert constant({"image": toys.images(40), "mask": torch.ones(40, 5)}) is None
    assert constant(torch.arange(4)[:, None]) is None


def planted(times: float) -> Task:
    """Samples that the network knows, and two alike and outlying ones of opposite labels."""
    model = tiny.balanced(toys.chain())
    with torch.no_grad():
        model.get_parameter("head.weight").mul_(3)
    x = toys.images(64, seed=5)
    x[40], x[50] = times * x[8], times * x[8] + 1e-1 * x[9]
    with torch.no_grad():
        said = model(x).argsort(1, descending=True)
    labels = said[:, 0].clone()
    # two classes that the network gives no chance: errors differ by the labels alone
    assert torch.equal(said[40], said[50])
    with torch.no_grad():
        model.get_parameter("head.weight")[said[40, 1]] = model.get_parameter("head.weight")[
            said[40, 0]
        ]
        model.get_parameter("head.bias")[said[40, 1]] = model.get_parameter("head.bias")[
            said[40, 0]
        ]
    labels[40], labels[50] = said[40, 0], said[40, 1]
    t = tiny.task()
    return replace(t, model=model, calibrate=Data(inputs=x, labels=labels))


def test_planted_opponents_are_found() -> None:
    found = kinds(planted(40.0))
    assert found["opposing gradients"].samples == (40, 50)
    assert "1 pairs" in found["opposing gradients"].sentence


def test_the_audit_is_of_one_mind_and_leaves_no_trace() -> None:
    t = planted(40.0)
    before, ids = small.state(t.model), small.identities(t.model)
    assert audited(t) == audited(t) == audited(t, batch=9)
    assert small.same_state(small.state(t.model), before)
    assert small.identities(t.model) == ids and small.hooks(t.model) == 0
    assert all(p.grad is None for p in t.model.parameters())


def test_samples_in_another_order_are_found_in_theirs() -> None:
    t = planted(40.0)
    moved = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    found = kinds(replace(t, calibrate=t.calibrate.subset(moved)))
    assert set(found) == {"opposing gradients"}
    there = sorted(moved[list(found["opposing gradients"].samples)].tolist())
    assert there == [40, 50]
