"""Laws of the certificate of samples: it holds for unseen noises and can be read again.

Faults these must catch: a bound below what was seen, one that misses too often, errors outside of
0 .. 1, a statement that older files no longer fit.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from judges import eye, images

from allot import certify
from allot.certify import fixed_sequence
from allot.errors import DataError, InputError
from allot.judging.certified import certified
from allot.judging.feature_error import bounded_errors, fitted


def pair(n: int, seed: int, change: float = 0.2) -> tuple[torch.Tensor, torch.Tensor]:
    x = images(n, seed=seed)
    return x, x + change * images(n, seed=seed + 1000)


def test_the_bound_holds_in_unseen_noises_as_often_as_it_says() -> None:
    j = fitted(eye(), images(200, seed=1))
    truth = 100 * float(bounded_errors(j, *pair(4000, seed=2)).mean())
    held = sum(
        certified(j, *pair(60, seed=10 + world), max_error=5).bound >= truth for world in range(60)
    )
    assert held >= 53


def test_what_is_claimed_lies_above_what_was_seen_and_tightens_with_more_noises() -> None:
    j = fitted(eye(), images(200, seed=1))
    few, many = (certified(j, *pair(n, seed=5), max_error=50) for n in (50, 1500))
    assert few.drop < few.bound and many.drop < many.bound
    assert many.bound - many.drop < 0.4 * (few.bound - few.drop)


def test_equal_samples_are_certified_by_enough_noises_only() -> None:
    x = images(400)
    assert certified(eye(), x, x, max_error=2).certified
    assert not certified(eye(), x[:20], x[:20], max_error=2).certified


def test_its_words_name_the_judge_and_what_is_bounded() -> None:
    j = fitted(eye(), images(200, seed=1))
    s = certified(j, *pair(300, seed=5), max_error=90, data="noises of seed 5")
    assert s.certified and s.kind == certify.ERROR
    for words in (j.digest, "95 %", "300 samples of noises of seed 5", "mean feature error"):
        assert words in s.text
    assert "points below" not in s.text
    assert s.lost == int((100 * bounded_errors(j, *pair(300, seed=5)) > 90).sum())


def test_it_is_stored_and_read_like_any_other_and_stands_in_sequences() -> None:
    s = certified(eye(), *pair(60, seed=5), max_error=50)
    assert certify.load(s.dump()) == s
    first, second = fixed_sequence([s, replace(s, max_drop=0.0), s])
    assert first.claim == 50 and second.claim == 100


def test_unequal_sets_and_impossible_confidences_are_refused() -> None:
    x = images(5)
    with pytest.raises(DataError, match="same noises"):
        certified(eye(), x, x[:4], max_error=1)
    with pytest.raises(InputError, match="between 0 and 1"):
        certified(eye(), x, x, max_error=1, confidence=95)
