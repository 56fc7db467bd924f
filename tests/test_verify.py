"""Laws of verification: equal outputs hold, unequal ones are said to differ and where."""

from __future__ import annotations

import pytest
import torch

from allot.errors import ParityError
from allot.task import kl_to_original
from allot.verify import first_difference, parity, require


def logits(n: int = 200) -> torch.Tensor:
    return 3 * torch.randn(n, 10, generator=torch.Generator().manual_seed(0))


def test_a_network_agrees_with_itself() -> None:
    found = require(parity(logits(), logits(), divergence=kl_to_original))
    assert (0.0, 0.0, 1.0, 200) == (
        found.max_abs, found.mean_kl, found.argmax_agreement, found.n,
    )  # fmt: skip


def test_other_answers_are_refused_with_the_layer_named() -> None:
    found = parity(logits(), logits().flip(1), divergence=kl_to_original)
    assert not found.holds
    with pytest.raises(ParityError, match=r"conv1 is the first layer"):
        require(found, where="conv1")


def test_a_few_other_answers_of_many_are_still_counted() -> None:
    other = logits()
    other[:5] = other[:5].flip(1)
    found = parity(logits(), other, divergence=kl_to_original)
    assert 0.975 == pytest.approx(found.argmax_agreement)
    assert not found.holds


def test_outputs_that_are_no_numbers_never_hold() -> None:
    broken = logits()
    broken[3, 2] = float("nan")
    assert not parity(logits(), broken, divergence=kl_to_original).holds


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ParityError, match=r"\[200, 9\]"):
        parity(logits(), logits()[:, :9], divergence=kl_to_original)


def test_the_first_difference_is_the_first_in_order() -> None:
    found = {"a": 1e-4, "b": 0.3, "c": float("nan")}
    assert "b" == first_difference(found)
    assert "c" == first_difference(found, most=0.5)
    assert "" == first_difference({"a": 1e-4})


def test_of_tokens_every_one_has_an_answer() -> None:
    simulated = logits().view(20, 10, 10)
    other = simulated.clone()
    other[3, 4] = -other[3, 4]
    found = parity(simulated, other, divergence=lambda a, b: torch.zeros(len(a)))
    assert 1 - 1 / 200 == pytest.approx(found.argmax_agreement)
