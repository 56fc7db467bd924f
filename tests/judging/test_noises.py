"""Laws of noises: sets share none, every condition is used equally often, seeds repeat.

Faults these must catch: one stream for two purposes, conditions apart from their rows, a check that
compares conditions instead of noises.
"""

from __future__ import annotations

import pytest
import torch

from allot.errors import DataError, InputError
from allot.judging.noises import check_disjoint, drawn
from allot.task import Data

PURPOSES = ("calibrate", "search", "certify")
SHAPE = (1, 4, 4)


def classes(n: int = 10) -> dict[str, torch.Tensor]:
    return {"label": torch.arange(n)}


def test_sets_of_different_purposes_and_seeds_share_no_noise() -> None:
    sets = {p: drawn(50, SHAPE, purpose=p, conditions=classes()) for p in PURPOSES}
    sets["again"] = drawn(50, SHAPE, purpose="search", seed=1, conditions=classes())
    check_disjoint(sets)
    noises = torch.cat([d.inputs["noise"].flatten(1) for d in sets.values()])
    assert torch.corrcoef(noises).triu(1).abs().max() < 0.98


def test_the_same_seed_gives_the_same_set() -> None:
    a, b = (drawn(20, SHAPE, purpose="search", seed=3, conditions=classes()) for _ in range(2))
    assert all(torch.equal(a.inputs[k], b.inputs[k]) for k in a.inputs)


def test_the_global_generator_is_neither_asked_nor_changed() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    a = drawn(4, SHAPE, purpose="search")
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(a.inputs["noise"], drawn(4, SHAPE, purpose="search").inputs["noise"])


@pytest.mark.parametrize("n", [3, 10, 64])
def test_conditions_are_used_equally_often_up_to_one(n: int) -> None:
    found = drawn(n, SHAPE, purpose="search", conditions=classes()).inputs["label"]
    times = found.bincount(minlength=10)
    assert len(found) == n and times.max() - times.min() <= 1


def test_conditions_are_in_mixed_order() -> None:
    found = drawn(100, SHAPE, purpose="search", conditions=classes()).inputs["label"]
    assert not torch.equal(found[:10], found[10:20])


def test_rows_of_several_conditions_stay_together() -> None:
    rows = {"text": torch.arange(12).view(6, 2), "mask": 10 * torch.arange(6)}
    found = drawn(20, SHAPE, purpose="search", conditions=rows).inputs
    assert torch.equal(found["text"][:, 0] * 5, found["mask"])


def test_without_conditions_there_is_noise_alone() -> None:
    found = drawn(5, SHAPE, purpose="search")
    assert list(found.inputs) == ["noise"] and found.inputs["noise"].shape == (5, *SHAPE)


def test_one_noise_under_two_conditions_is_still_shared() -> None:
    a = drawn(10, SHAPE, purpose="search", conditions=classes())
    noise = drawn(3, SHAPE, purpose="certify").inputs["noise"]
    noise[1] = a.inputs["noise"][7]
    b = Data(inputs={"noise": noise, "label": torch.tensor([9, 9, 9])})
    with pytest.raises(DataError, match="certify set is in the search set"):
        check_disjoint({"search": a, "certify": b})
    with pytest.raises(DataError, match="no input named"):
        check_disjoint({"search": Data(inputs=noise)})


def test_what_cannot_be_drawn_is_refused() -> None:
    for conditions in ({"a": torch.zeros(2), "b": torch.zeros(3)}, {"noise": torch.zeros(2)}):
        with pytest.raises(InputError, match="one length"):
            drawn(4, SHAPE, purpose="search", conditions=conditions)
    with pytest.raises(InputError, match="at least one noise"):
        drawn(0, SHAPE, purpose="search")
