"""Laws of measuring: no loss without change, no plan measured twice, a restart changes nothing.

Faults these laws must catch: a loss below zero; passes forgotten on resume; two recoveries under
one key; labels needed where there are none; an interval of the wrong width.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from allot.measure import Loss, paired_interval, rounded
from allot.memo import Memo
from allot.recover import LIGHT, Recovery
from tests import small, toys

ORDERED = Recovery(samples=24, in_order=True)


@pytest.mark.parametrize("make", toys.PLAIN)
def test_the_original_loses_nothing(make: object) -> None:
    k = small.kit(make)  # type: ignore[arg-type]
    loss = k.meter.loss(k.options(k.space.original))
    assert set(loss.divergences) == {0.0} and loss.interval == (0, 0)
    assert list(loss.scores) == k.meter.original_scores().tolist()


@pytest.mark.parametrize("make", toys.PLAIN)
def test_no_sample_has_a_loss_below_zero(make: object) -> None:
    k = small.kit(make)  # type: ignore[arg-type]
    for seed in range(4):
        loss = k.meter.loss(k.options(small.random_point(k.space, seed)))
        assert len(loss.divergences) == len(loss.scores) == len(k.task.search)
        assert min(loss.divergences) >= 0 and loss.divergence > 0
        low, high = loss.interval
        assert 0 <= low <= loss.divergence <= high


def test_the_divergence_is_that_of_the_outputs_to_nine_digits() -> None:
    k = small.kit()
    options = k.options(small.width_and_bits(k))
    loss = k.meter.loss(options)
    with k.bank.trial(k.meter.standins(options, LIGHT)) as model:
        outputs = small.forward(k.task, model, k.task.search)
    p, q = k.meter.original.double().log_softmax(1), outputs.double().log_softmax(1)
    want = (p.exp() * (p - q)).sum(1)
    assert torch.allclose(want, want.new_tensor(loss.divergences), rtol=1e-8)
    hits = (outputs.argmax(1) == k.task.search.labels).double()
    assert hits.tolist() == list(loss.scores)


def test_without_labels_the_score_is_agreement_with_the_original() -> None:
    k = small.kit(labels=False)
    assert set(k.meter.original_scores().tolist()) == {1.0}
    options = k.options(tuple(n - 1 for n in k.space.counts))
    with k.bank.trial(k.meter.standins(options, LIGHT)) as model:
        said = small.forward(k.task, model, k.task.search).argmax(1)
    agree = (said == k.meter.original.argmax(1)).double().tolist()
    assert agree == list(k.meter.loss(options).scores) and min(agree) == 0


def test_a_plan_is_measured_once_whatever_its_order() -> None:
    k = small.kit()
    options = k.options(small.width_and_bits(k))
    first, passes = k.meter.loss(options), k.meter.passes
    calls: list[int] = []
    handle = k.bank.skeleton.register_forward_hook(lambda *a: calls.append(1))
    again = k.meter.loss(dict(reversed(options.items())))
    handle.remove()
    assert again == first and k.meter.passes == passes > 1 and not calls


def test_another_recovery_is_another_measurement() -> None:
    k = small.kit()
    options = k.options(small.width_and_bits(k))
    light, ordered = k.meter.loss(options), k.meter.loss(options, recovery=ORDERED)
    assert light != ordered


@pytest.mark.parametrize("cut", (0, 40))
def test_a_resumed_job_has_the_same_numbers_and_the_same_count(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "memo"

    def measure() -> tuple[list[Loss], float]:
        k = small.kit(memo=Memo(path))
        points = [small.random_point(k.space, s) for s in range(4)]
        losses = [k.meter.loss(k.options(p)) for p in points]
        losses.append(k.meter.loss(k.options(points[0]), recovery=ORDERED))
        return losses, k.meter.passes

    fresh = measure()
    path.write_bytes(path.read_bytes()[: len(path.read_bytes()) - cut])
    assert measure() == fresh
    assert measure() == fresh


def test_passes_count_recovery_in_proportion_to_its_samples() -> None:
    k = small.kit()
    options = k.options(small.width_and_bits(k))
    start = k.meter.passes
    k.meter.loss(options, recovery=Recovery(samples=10))
    assert k.meter.passes - start == pytest.approx(1 + 10 / len(k.task.search))
    middle = k.meter.passes
    k.meter.loss(options, recovery=Recovery(samples=10, in_order=True))
    assert k.meter.passes - middle > 1 + 10 / len(k.task.search)


def test_the_interval_of_a_mean_is_1_96_standard_errors() -> None:
    values = (1.0, 2.0, 3.0, 6.0)
    loss = Loss(divergences=values, scores=(1.0,) * 4)
    half = 1.96 * math.sqrt(sum((v - 3) ** 2 for v in values) / 4) / 2
    assert loss.divergence == 3 and loss.interval == pytest.approx((3 - half, 3 + half))


def test_a_paired_interval_covers_the_true_difference() -> None:
    g, hits = torch.Generator().manual_seed(0), 0
    for _ in range(400):
        common = torch.randn(200, generator=g, dtype=torch.float64) * 10
        a = common + 0.3 + torch.randn(200, generator=g, dtype=torch.float64)
        low, high = paired_interval(a, common)
        hits += low <= 0.3 <= high
    # 95 % of 400 and four standard errors of it
    assert abs(hits - 380) <= 4 * math.sqrt(400 * 0.95 * 0.05)


def test_a_paired_interval_of_one_sample_says_nothing() -> None:
    low, high = paired_interval(torch.tensor([1.0]), torch.tensor([0.0]))
    assert low == -math.inf and high == math.inf


def test_stored_values_are_the_values_to_nine_digits() -> None:
    x = torch.tensor([1 / 3, 1e-12, 0.0, 123456.789012], dtype=torch.float64)
    stored = rounded(x)
    assert stored == [float(f"{v:.9g}") for v in stored]
    assert torch.allclose(x, torch.tensor(stored, dtype=torch.float64), rtol=1e-8)
