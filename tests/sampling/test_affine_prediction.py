"""Laws of corrections: closed-form least squares, on the steps and conditions they belong to.

Faults these laws must catch: a gain without its shift; channels taken along the wrong axis; a step
fitted on another leader's result; conditions mixed up; batches that weigh differently.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor

from allot.errors import ModelError
from allot.sampling.affine import Affine, corrected
from allot.sampling.channel_fits import AFFINE, MATCHED, SCALE, SHIFT, by_channel, fitted, sums
from allot.sampling.features import features
from allot.sampling.history import past
from allot.sampling.moment import Moment, Request
from allot.sampling.sampler import Sampler, Step, Way
from allot.sampling.spans import HOLD, Span, Taylor
from tests.sampling import nets

KINDS = pytest.mark.parametrize("kind", (AFFINE, SCALE, SHIFT))


def pair(seed: int = 0, shape: tuple[int, ...] = (5, 3, 4, 4)) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=g, dtype=torch.float64) + 0.5
    return x, 0.7 * x + 0.2 * torch.randn(shape, generator=g, dtype=torch.float64) - 0.1


def rows(x: Tensor) -> Tensor:
    """[rows, channels]"""
    return by_channel(x, 1 if x.dim() == 4 else x.dim() - 1)[:, :, 0]


SHAPES = pytest.mark.parametrize("shape", ((5, 3, 4, 4), (5, 6, 3), (9, 3)))


@SHAPES
def test_the_fit_is_the_least_squares_solution(shape: tuple[int, ...]) -> None:
    x, y = pair(shape=shape)
    gain, shift = (t.flatten() for t in fitted(sums(x, y)))
    scale, none = (t.flatten() for t in fitted(sums(x, y), SCALE))
    for c in range(3):
        a, b = rows(x)[:, c].numpy(), rows(y)[:, c].numpy()
        both, *_ = np.linalg.lstsq(np.stack([a, np.ones_like(a)], 1), b, rcond=None)
        one, *_ = np.linalg.lstsq(a[:, None], b, rcond=None)
        assert [float(gain[c]), float(shift[c])] == pytest.approx(both.tolist())
        assert float(scale[c]) == pytest.approx(float(one[0])) and float(none[c]) == 0


@SHAPES
def test_with_places_it_is_the_solution_of_one_gain_and_a_shift_for_each(
    shape: tuple[int, ...],
) -> None:
    x, y = pair(shape=shape)
    gain, shift = fitted(sums(x, y, placed=True))
    left = (gain * x + shift - y).square()
    for c in range(3):
        a, b = (t[:, c] if x.dim() == 4 else t[..., c] for t in (x, y))
        n = len(a)
        a, b = a.reshape(n, -1), b.reshape(n, -1)
        design = torch.cat([a.reshape(-1, 1), torch.eye(a.shape[1]).double().repeat(n, 1)], 1)
        solution, *_ = np.linalg.lstsq(design.numpy(), b.reshape(-1).numpy(), rcond=None)
        best = ((design.numpy() @ solution - b.reshape(-1).numpy()) ** 2).sum()
        mine = left[:, c] if x.dim() == 4 else left[..., c]
        assert float(mine.sum()) == pytest.approx(float(best))


@KINDS
@pytest.mark.parametrize("placed", (False, True))
def test_no_channel_is_worse_than_without_a_correction(kind: str, placed: bool) -> None:
    for seed in range(5):
        x, y = pair(seed)
        x[:, 1] = 3.0  # constant
        y[:, 2] = x[:, 2]  # right as it is
        gain, shift = fitted(sums(x, y, placed=placed), kind)
        after = rows(gain * x + shift - y).square().sum(0)
        before = rows(x - y).square().sum(0)
        assert bool((after <= before + 1e-9).all())


@pytest.mark.parametrize("placed", (False, True))
def test_a_matched_channel_has_the_mean_and_variance_of_the_truth(placed: bool) -> None:
    x, y = pair(shape=(40, 3, 2, 2))
    x[:, 1] = 3.0  # constant: its mean alone
    gain, shift = fitted(sums(x, y, placed=placed), MATCHED)
    out = gain * x + shift
    torch.testing.assert_close(out.mean((0, 2, 3)), y.mean((0, 2, 3)))
    apart = [t - t.mean(0, keepdim=True) for t in (out, y)] if placed else [out, y]
    a, b = (rows(t).var(0)[[0, 2]] for t in apart)
    torch.testing.assert_close(a, b)
    assert float(gain[1]) == 1


def test_moments_add_up_over_batches() -> None:
    x, y = pair()
    whole, parts = sums(x, y), sums(x[:2], y[:2]) + sums(x[2:], y[2:])
    for kind in (AFFINE, SCALE, SHIFT, MATCHED):
        for a, b in zip(fitted(whole, kind), fitted(parts, kind), strict=True):
            torch.testing.assert_close(a, b)


def cases() -> list[tuple[Sampler, Span]]:
    ways = {1: Way(reuse={nets.BLOCKS: HOLD}), 3: Way(reuse={nets.BLOCKS: Taylor(order=1)})}
    ways[4] = Way(reuse={nets.BLOCKS: HOLD})
    tokens = nets.planned(nets.blocks(guidance=2.0), ways)
    images = {i: Way(reuse={nets.DEEP: HOLD}) for i in (1, 2, 4, 5)}
    return [(tokens, nets.BLOCKS), (nets.planned(nets.levels(), images), nets.DEEP)]


@KINDS
@pytest.mark.parametrize("case", (0, 1))
def test_on_its_own_data_a_correction_never_loses(kind: str, case: int) -> None:
    plan, span = cases()[case]
    s = nets.seeds(12, plan)
    new = corrected(plan, s, kind=kind, batch=5)
    reused = [i for i, step in enumerate(plan.steps) if step.way.reuse]  # type: ignore[union-attr]
    assert list(new) == [f"steps.{i}" for i in reused]
    seen = features(plan, s, spans=[span])
    gained = 0
    for i in reused:
        for name in seen.outputs:
            entries = seen.spans[span, name]
            leaders = [entries[j] for j in range(i) if j not in reused]
            m = Moment(step=i, level=plan.grid.level(i), request=Request(), condition=name)
            fit = new[f"steps.{i}"].way.reuse[span]
            assert isinstance(fit, Affine) and fit.since == leaders[-1].step
            read = past(leaders, None, 0)
            truth = entries[i].values[0]
            after = (fit.predict(read, m) - truth).square().sum()
            before = (fit.base.predict(read, m) - truth).square().sum()
            assert after <= before * (1 + 1e-6)
            gained += int(after < before)
    assert gained


def test_a_corrected_plan_runs_and_its_fits_are_weights_of_the_step() -> None:
    plan, span = cases()[0]
    s = nets.seeds(6, plan)
    new = corrected(plan, s)
    ways = {int(k.split(".")[1]): v.way for k, v in new.items()}
    better = nets.planned(plan, ways)
    original = nets.sample(nets.planned(plan, {}), s)
    error = (nets.sample(better, s) - original).square().mean()
    assert error < (nets.sample(plan, s) - original).square().mean()
    names = [k for k in better.state_dict() if k.startswith("steps.1.")]
    assert len(names) == 4  # gain and shift, with and without the condition
    twin = copy.deepcopy(better)
    assert torch.equal(nets.sample(twin, s), nets.sample(better, s))
    fit = twin.steps[1]
    assert isinstance(fit, Step) and fit.way.reuse[span] is fit.fitted[0]


def test_fitting_again_corrects_the_plain_prediction() -> None:
    plan, _ = cases()[1]
    s = nets.seeds(6, plan)
    once = corrected(plan, s)
    again = corrected(nets.planned(plan, {int(k[6:]): v.way for k, v in once.items()}), s)
    for k in once:
        a, b = once[k].state_dict(), again[k].state_dict()
        assert a.keys() == b.keys() and all(torch.equal(a[x], b[x]) for x in a)


def test_a_correction_refuses_another_leader() -> None:
    plan, _ = cases()[1]
    s = nets.seeds(4, plan)
    new = corrected(plan, s)
    moved = nets.planned(plan, {5: new["steps.5"].way})
    with pytest.raises(ModelError, match="fitted on results of step 3, not 4"):
        nets.sample(moved, s)
