"""Laws of the certificate: it misses no more often than it says, and refuses data seen before."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import binom, multinomial

from allot import certify, ledger
from allot.certify import Statement, fixed_sequence, smallest_provable_drop, state, state_agreement
from allot.errors import ArtefactError, DataError, InputError
from allot.ledger import Ledger, Use, sample_digests
from allot.num.paired import (
    drop_bound,
    drop_p_value,
    mean_bound,
    mean_p_value,
    share_bound,
)

bound = cache(drop_bound)
Bound = Callable[[int, int, int], float]


def pairs(n: int) -> np.ndarray:
    """Every possible (lost, gained, rest) of n samples: [outcomes, 3]."""
    return np.array([(b, c, n - b - c) for b in range(n + 1) for c in range(n + 1 - b)])


def populations(values: np.ndarray) -> Iterator[tuple[float, float]]:
    """(lost, gained) probabilities: a grid, and drops that lie just above a possible bound."""
    grid = np.linspace(0, 1, 21)
    yield from ((a, b) for a in grid for b in grid if a + b <= 1)
    for drop in np.unique(values) + 1e-8:
        for share in (abs(drop), 0.3, 0.5, 0.7, 1.0):
            if abs(drop) <= share <= 1:
                yield (share + drop) / 2, (share - drop) / 2


def worst_miss(f: Bound, n: int) -> float:
    """Greatest probability, over populations, that the bound f lies below the true drop."""
    outcomes = pairs(n)
    values = np.array([f(int(b), int(c), n) for b, c, _ in outcomes])
    return max(
        float(multinomial.pmf(outcomes, n, [a, b, max(0.0, 1 - a - b)])[values < a - b].sum())
        for a, b in populations(values)
    )


@pytest.mark.parametrize("n", [1, 2, 7, 9, 12, 20])
def test_the_bound_misses_at_most_alpha_in_every_population(n: int) -> None:
    assert worst_miss(bound, n) <= 0.05


def test_the_enumeration_catches_a_bound_that_is_only_the_estimate() -> None:
    assert worst_miss(lambda b, c, n: (b - c) / n, 20) > 0.4


def test_the_enumeration_catches_a_normal_bound() -> None:
    def normal(b: int, c: int, n: int) -> float:
        return (b - c + 1.645 * math.sqrt(b + c)) / n

    assert worst_miss(normal, 20) > 0.05


def test_the_enumeration_catches_an_unpaid_nuisance() -> None:
    def plugged_in(b: int, c: int, n: int) -> float:
        """The test at the observed discordant share, as if it were known."""
        m = np.arange(n + 1)
        for t in np.linspace((b - c) / n, 1, 60):
            p = max((b + c) / n, abs(t), 1e-12)
            below = binom.cdf((b - c + m) // 2, m, (1 + t / p) / 2)
            if (binom.pmf(m, n, p) * below).sum() <= 0.05:
                return float(t)
        return 1.0

    assert worst_miss(plugged_in, 9) > 0.05


@pytest.mark.parametrize("n", [1, 9, 20])
def test_the_bound_rises_with_lost_and_falls_with_gained(n: int) -> None:
    for b, c, rest in pairs(n):
        if rest:
            assert bound(b, c, n) <= bound(b + 1, c, n) + 1e-8
            assert bound(b, c, n) >= bound(b, c + 1, n) - 1e-8


def test_the_bound_lies_between_the_estimate_and_one() -> None:
    for b, c, _ in pairs(15):
        assert (b - c) / 15 <= bound(b, c, 15) <= 1
    assert bound(4000, 0, 4000) == 1
    assert -1 < bound(0, 4000, 4000) < -0.99


@pytest.mark.parametrize("counts", [(0, 0, 4000), (40, 38, 4000), (0, 80, 4000), (9, 3, 20)])
def test_the_p_value_is_at_most_alpha_exactly_where_the_bound_is_below(
    counts: tuple[int, int, int],
) -> None:
    top = drop_bound(*counts)
    grid = np.linspace(-1, 1, 401)
    p = np.array([drop_p_value(*counts, t) for t in grid])
    assert ((p <= 0.05) == (top <= grid)).all()
    assert (np.diff(p) <= 1e-9).all()
    # the error spent on bounding the discordant share is part of every p-value
    assert p[:-1].min() >= 0.0025
    assert drop_p_value(*counts, top) <= 0.05 < drop_p_value(*counts, top - 1e-6)


def test_the_p_value_is_no_smaller_than_that_of_any_population_it_covers() -> None:
    n, generator = 30, np.random.default_rng(0)
    outcomes = pairs(n)
    for _ in range(200):
        share = generator.uniform(0, 1)
        drop = generator.uniform(-share, share)
        a, b = (share + drop) / 2, (share - drop) / 2
        p = multinomial.pmf(outcomes, n, [a, b, 1 - share])
        difference = outcomes[:, 0] - outcomes[:, 1]
        lost, gained, _ = outcomes[generator.integers(len(outcomes))]
        if share <= share_bound(int(lost + gained), n, confidence=0.9975):
            exact = p[difference <= lost - gained].sum()
            assert drop_p_value(int(lost), int(gained), n, drop) >= min(exact, 1)


@pytest.mark.parametrize("share", [0.01, 0.05])
def test_at_4000_samples_the_bound_is_within_1_4_normal_widths(share: float) -> None:
    half = round(4000 * share / 2)
    unit = 1.645 * math.sqrt(share / 4000)
    assert unit < bound(half, half, 4000) < 1.4 * unit
    assert unit < bound(2 * half, 0, 4000) - share < 1.4 * unit


def test_more_samples_and_less_confidence_tighten_the_bound() -> None:
    assert drop_bound(20, 20, 4000) < drop_bound(10, 10, 2000) < drop_bound(5, 5, 1000)
    at = [drop_bound(20, 20, 4000, confidence=c) for c in (0.8, 0.9, 0.95, 0.99)]
    assert sorted(at) == at and len(set(at)) == 4


def test_the_share_bound_is_where_the_binomial_tail_is_alpha() -> None:
    for k in (0, 3, 19):
        assert binom.cdf(k, 20, share_bound(k, 20)) == pytest.approx(0.05)
    assert share_bound(20, 20) == 1


def test_the_mean_bound_misses_at_most_alpha() -> None:
    generator = np.random.default_rng(1)
    for a, b in ((0.1, 0.9), (2.0, 2.0)):
        draws = generator.beta(a, b, size=(300, 100))
        missed = sum(mean_bound(x) < a / (a + b) for x in draws)
        assert missed <= 0.05 * 300 + 3 * math.sqrt(0.05 * 0.95 * 300)
        assert sum(float(x.mean()) < a / (a + b) for x in draws) > 100


def test_the_mean_bound_agrees_with_its_p_value_and_rises_with_the_losses() -> None:
    losses = np.random.default_rng(2).random(200) / 2
    top = mean_bound(losses)
    grid = np.linspace(0, 1, 201)
    p = np.array([mean_p_value(losses, m) for m in grid])
    assert ((p <= 0.05) == (top <= grid)).all() and (np.diff(p) <= 0).all()
    assert losses.mean() < top < mean_bound(losses + 0.1)
    assert mean_bound(np.ones(10)) == 1


def test_a_bet_is_made_before_its_sample_is_seen() -> None:
    past = np.random.default_rng(5).random(20) / 4
    # the capital is linear in the last sample exactly where the bet does not depend on it
    low, middle, high = (1 / mean_p_value(np.append(past, x), 0.9) for x in (0.0, 0.1, 0.2))
    assert low > middle > high
    assert middle == pytest.approx((low + high) / 2, rel=1e-9)


def scores(lost: int, gained: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """0/1 scores of the original and the compressed network with these discordant counts."""
    original, compressed = np.ones(n), np.ones(n)
    compressed[:lost] = 0
    original[lost : lost + gained] = 0
    return original, compressed


def example(lost: int = 20, max_drop: float = 1.5) -> Statement:
    return state(*scores(lost, 10, 2000), max_drop=max_drop, metric="top-1", data="toy")


def test_a_statement_counts_pairs_and_is_certified_exactly_within_the_drop() -> None:
    s = example()
    assert (20, 10, 2000, 0.5) == (s.lost, s.gained, s.n, pytest.approx(s.drop))
    assert s.bound == pytest.approx(100 * drop_bound(20, 10, 2000))
    assert s.certified and not example(max_drop=s.bound - 1e-6).certified


def test_the_text_names_samples_confidence_data_and_what_is_not_covered() -> None:
    for s in (example(), example(max_drop=0.1), example(lost=0)):
        for words in ("2000", "95 %", "toy", "top-1", "another data distribution", "runtime"):
            assert words in s.text
    assert example().text.startswith("Certified")
    assert example(max_drop=0.1).text.startswith("Not proven")


def test_the_numbers_in_the_text_never_understate_the_bound() -> None:
    for lost in range(5, 60, 5):
        s = example(lost=lost, max_drop=90.0)
        said = float(s.text.split("at most ")[1].split()[0])
        assert s.bound - 1e-6 <= said <= s.bound + 0.011
    gain = state(*scores(2, 60, 2000), max_drop=1, metric="top-1")
    assert float(gain.text.split("at least ")[1].split()[0]) <= -gain.bound


def test_an_agreement_statement_bounds_the_share_of_changes() -> None:
    labels = np.arange(1000) % 7
    other = labels.copy()
    other[:8] += 1
    s = state_agreement(labels, other, max_drop=2.0)
    assert (s.lost, s.n, s.certified) == (8, 1000, True)
    assert s.bound == pytest.approx(100 * share_bound(8, 1000))
    assert "predictions differ" in s.text and "1000" in s.text and "95 %" in s.text


def test_scores_that_are_not_zero_or_one_take_the_betting_bound() -> None:
    generator = np.random.default_rng(3)
    original = generator.uniform(0.5, 1, 2000)
    s = state(original, original - 0.01, max_drop=2.0, metric="IoU")
    assert s.drop == pytest.approx(1.0) and s.drop < s.bound < 1.5


def test_statements_survive_dump_and_load_and_a_changed_number_is_refused() -> None:
    for s in (example(), replace(example(), place=3), example(max_drop=0.1)):
        data = json.loads(json.dumps(s.dump()))
        assert certify.load(data) == s
        for field, value in (("bound", 9.0), ("certified", not s.certified), ("version", 0)):
            with pytest.raises(ArtefactError):
                certify.load({**data, field: value})
    with pytest.raises(ArtefactError):
        certify.load({"version": 1, "n": 3})


def test_bad_evidence_is_refused_with_what_would_be_right() -> None:
    one, two = np.ones(10), np.ones(9)
    for a, b in ((one, two), (one[:0], one[:0]), (one, one * np.nan), (one, one * 2)):
        with pytest.raises(DataError):
            state(a, b, max_drop=1, metric="top-1")
    with pytest.raises(InputError):
        state(one, one, max_drop=1, metric="top-1", confidence=95)


def test_a_sequence_stops_at_the_first_failure_and_draws_nothing_after_it() -> None:
    drawn = []

    def plans() -> Iterator[Statement]:
        for lost in (5, 10, 200, 0):
            drawn.append(lost)
            yield example(lost=lost)

    result = list(fixed_sequence(plans()))
    assert [5, 10, 200] == drawn
    assert [True, True, False] == [s.certified for s in result]
    assert [1, 2, 3] == [s.place for s in result]


def test_in_a_sequence_only_what_was_tested_is_claimed() -> None:
    s, failed = fixed_sequence([example(), example(lost=200)])
    assert s.claim == 1.5 > s.bound and "1.50 points below" in s.text
    assert failed.claim == 100
    assert example().claim == example().bound


def test_a_sequence_certifies_a_bad_plan_no_more_often_than_alpha() -> None:
    generator, shape = np.random.default_rng(4), example()
    n, trials, limit, wrong, naive = 300, 1000, 3.0, 0, 0
    drops = (0.0, 0.01, 0.0301, 0.0301, 0.0301, 0.0301, 0.035)
    draws = [
        generator.multinomial(n, [(0.04 + d) / 2, (0.04 - d) / 2, 0.96], size=trials) for d in drops
    ]
    for counts in zip(*draws, strict=True):
        bounds = [100 * bound(int(b), int(c), n) for b, c, _ in counts]
        statements = [replace(shape, bound=x, max_drop=limit) for x in bounds]
        wrong += any(s.certified for s in list(fixed_sequence(statements))[2:])
        naive += any(x <= limit for x in bounds[2:])
    assert wrong > 0, "the populations must make errors possible"
    assert wrong <= 0.05 * trials + 3 * math.sqrt(0.05 * 0.95 * trials)
    assert naive > wrong, "testing every plan on its own must err more often"


def test_the_planner_tells_what_can_be_proven() -> None:
    best = smallest_provable_drop(4000)
    assert best == pytest.approx(100 * drop_bound(0, 0, 4000))
    assert best < smallest_provable_drop(4000, discordant_share=0.02) < 1
    n = certify.samples_needed(0.5, discordant_share=0.02)
    assert smallest_provable_drop(n, discordant_share=0.02) <= 0.5
    assert smallest_provable_drop(n // 2, discordant_share=0.02) > 0.5
    assert certify.samples_needed(100) == 1
    with pytest.raises(InputError):
        certify.samples_needed(0)
    with pytest.raises(DataError):
        smallest_provable_drop(0)


def test_digests_belong_to_samples_and_not_to_batches() -> None:
    x = torch.randn(6, 3, 4)
    whole = sample_digests(x)
    assert whole == sample_digests(x[:2]) + sample_digests(x[2:])
    assert len(set(whole)) == 6 and all(len(d) == 16 for d in whole)
    assert whole == sample_digests(x.transpose(1, 2).contiguous().transpose(1, 2))
    y = x.clone()
    y[3, 0, 0] += 1e-6
    assert [3] == [i for i, d in enumerate(sample_digests(y)) if d != whole[i]]


def test_digests_of_dicts_see_every_entry_under_its_name() -> None:
    a, b = torch.arange(4), torch.arange(4).flip(0)
    first = sample_digests({"a": a, "b": b})
    assert first == sample_digests({"b": b, "a": a}) != sample_digests({"a": b, "b": a})
    assert sample_digests({"a": a}) != sample_digests({"b": a})
    with pytest.raises(DataError):
        sample_digests({"a": a, "b": b[:3]})


def test_the_ledger_refuses_reuse_and_overlap_of_even_one_sample() -> None:
    digests = sample_digests(torch.arange(20.0).view(10, 2))
    book = Ledger().record(Use(purpose="search", digests=digests[:4]))
    book.check_fresh(digests[4:])
    with pytest.raises(DataError, match="1 of the 7 certify samples were already used to search"):
        book.check_fresh(digests[3:])
    book = book.record(Use(purpose="certify", by="plan", digests=digests[4:]))
    for by in ("", "another"):
        with pytest.raises(DataError, match="certify"):
            book.check_fresh(digests[9:], by=by)
    book.check_fresh(digests[4:], by="plan")
    with pytest.raises(DataError, match="search"):
        book.check_fresh(digests, by="plan")


def test_a_ledger_on_disk_is_whole_or_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ledger.read(tmp_path) == Ledger()
    book = Ledger().record(Use(purpose="certify", by="x", digests=("aa", "bb")))
    ledger.write(book, tmp_path)
    assert ledger.read(tmp_path) == book == book.record(book.uses[0])

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        ledger.write(Ledger(), tmp_path)
    assert [ledger.FILE] == [f.name for f in tmp_path.iterdir()]
    assert ledger.read(tmp_path) == book


def test_a_damaged_ledger_is_refused(tmp_path: Path) -> None:
    for text in ("{", "[]", '{"version": 1, "uses": [{}]}', '{"version": 2, "uses": []}'):
        (tmp_path / ledger.FILE).write_text(text)
        with pytest.raises(ArtefactError):
            ledger.read(tmp_path)
