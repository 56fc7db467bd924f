"""Laws of fidelity: closed forms, symmetries, and the defining sums done one window at a time.

Faults these must catch: a window that is not normalized, a peak of 1 for data of -1 .. 1, variances
of the sample instead of the population, windows that reach over the rim, samples mixed up.
"""

from __future__ import annotations

import math

import pytest
import torch
from judges import images
from torch import Tensor

from allot.errors import DataError, InputError
from allot.judging.fidelity import psnr, squared_error, ssim


def window() -> Tensor:
    """The Gaussian window of 11 x 11 by its formula, summing to 1."""
    d = torch.arange(11, dtype=torch.float64) - 5
    w = torch.exp(-(d[:, None] ** 2 + d[None, :] ** 2) / (2 * 1.5**2))
    return w / w.sum()


def one_by_one(a: Tensor, b: Tensor, peak: float) -> float:
    """SSIM of two images [h, w] from its definition, window by window."""
    w, c1, c2, found = window(), (0.01 * peak) ** 2, (0.03 * peak) ** 2, []
    for i in range(a.shape[0] - 10):
        for j in range(a.shape[1] - 10):
            x, y = a[i : i + 11, j : j + 11].double(), b[i : i + 11, j : j + 11].double()
            mx, my = (w * x).sum(), (w * y).sum()
            vx, vy = (w * (x - mx) ** 2).sum(), (w * (y - my) ** 2).sum()
            shared = (w * (x - mx) * (y - my)).sum()
            top = (2 * mx * my + c1) * (2 * shared + c2)
            found.append(float(top / ((mx**2 + my**2 + c1) * (vx + vy + c2))))
    return sum(found) / len(found)


def test_psnr_of_a_uniform_difference_is_its_closed_form() -> None:
    x = images(3)
    error = float(squared_error(x, x + 0.02).mean())
    assert math.isclose(psnr(error), 20 * math.log10(2 / 0.02), abs_tol=1e-4)
    assert math.isclose(psnr(error, peak=1.0), 20 * math.log10(1 / 0.02), abs_tol=1e-4)


def test_equal_samples_have_no_error_and_infinite_psnr() -> None:
    x = images(3)
    assert squared_error(x, x).tolist() == [0, 0, 0]
    assert psnr(0.0) == math.inf


def test_squared_errors_belong_to_their_samples() -> None:
    x = images(4)
    y = x.clone()
    y[2] += 0.5
    assert torch.allclose(squared_error(x, y), torch.tensor([0, 0, 0.25, 0]).double(), atol=1e-6)


@pytest.mark.parametrize("peak", [1.0, 2.0])
def test_ssim_is_what_its_definition_gives_window_by_window(peak: float) -> None:
    a, b = images(2, size=13), images(2, seed=4, size=13)
    b = 0.7 * a + 0.3 * b
    expected = [one_by_one(a[i, 0], b[i, 0], peak) for i in range(2)]
    assert ssim(a, b, peak=peak).tolist() == pytest.approx(expected, abs=1e-12)


def test_ssim_of_flat_images_is_its_closed_form() -> None:
    a, b = torch.full((1, 1, 12, 12), 0.5), torch.full((1, 1, 12, 12), -0.25)
    c = (0.01 * 2) ** 2
    expected = (2 * 0.5 * -0.25 + c) / (0.5**2 + 0.25**2 + c)
    assert ssim(a, b).item() == pytest.approx(expected, abs=1e-9)


def test_ssim_is_one_for_equal_images_symmetric_and_at_most_one() -> None:
    a, b = images(5), images(5, seed=3)
    assert torch.allclose(ssim(a, a), torch.ones(5).double(), atol=1e-12)
    assert torch.equal(ssim(a, b), ssim(b, a))
    assert ((ssim(a, b) <= 1) & (ssim(a, b) >= -1)).all()


def test_channels_are_averaged() -> None:
    a, b = images(3), images(3, seed=3)
    both = ssim(torch.cat([a, a], 1), torch.cat([b, a], 1))
    assert torch.allclose(both, (ssim(a, b) + 1) / 2)


def test_sets_of_other_shapes_and_images_below_the_window_are_refused() -> None:
    with pytest.raises(DataError, match="same noises"):
        squared_error(images(3), images(2))
    with pytest.raises(InputError, match="11"):
        ssim(images(2, size=10), images(2, size=10))
