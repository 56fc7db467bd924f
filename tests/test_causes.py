"""Laws of causes: what was done to a tensor is what is said of it, and nothing is made up.

Faults these must catch: a clip taken for a factor; one step taken for noise; a factor of one
channel missed; a difference of no kind given a name; equal tensors said to differ.
"""

from __future__ import annotations

import numpy as np
import pytest

from allot.causes import cause

SHAPE = (6, 4, 8, 8)
STEP = 0.05


def values(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=SHAPE)


def on_grid(x: np.ndarray) -> np.ndarray:
    return (np.rint(x / STEP).clip(-30, 60) * STEP).astype(np.float32)


@pytest.mark.parametrize("factor", [2.0, 0.5, -1.0, 0.0, 1.02, 128 / 127])
def test_a_factor_is_a_scale_mismatch(factor: float) -> None:
    found = cause(values(), factor * values())
    assert "scale mismatch" == found.kind and f"{factor:.4g} times" in found.text


def test_a_factor_of_one_channel_is_one_too() -> None:
    x = values()
    y = x.copy()
    y[:, 2] *= 1.5
    found = cause(x, y)
    assert "scale mismatch" == found.kind and "1 of 4 channels" in found.text


def test_a_constant_is_an_offset() -> None:
    bias = np.array([0.0, 0.3, -1.0, 0.0]).reshape(1, 4, 1, 1)
    assert "offset" == cause(values(), values() + bias).kind
    assert "offset" == cause(values(), values() + 0.2).kind


@pytest.mark.parametrize("ends", [(-1.0, 1.0), (-9.0, 0.8), (-0.5, 9.0)])
def test_values_that_stop_at_an_end_are_saturation(ends: tuple[float, float]) -> None:
    found = cause(values(), values().clip(*ends))
    assert "saturation" == found.kind
    assert any(f"{v:.4g}" in found.text for v in ends)


@pytest.mark.parametrize("moved", [-0.5, 0.25, 0.5])
def test_another_rounding_is_one_step(moved: float) -> None:
    x = values()
    found = cause(on_grid(x), on_grid(x + moved * STEP))
    assert "rounding" == found.kind and f"({STEP:.4g})" in found.text
    assert ("100% of them above" in found.text) == (moved > 0)


def test_ties_that_go_the_other_way_are_rounding() -> None:
    half = np.arange(-12, 24).repeat(8).reshape(1, 1, -1, 8) / 2
    found = cause(np.rint(half), np.floor(half + 0.5))
    assert "rounding" == found.kind


def test_two_steps_are_not_one() -> None:
    x = on_grid(values())
    y = x.copy()
    y[0, 0] += STEP
    y[1, 1, :3] -= 2 * np.float32(STEP)
    assert "unknown" == cause(x, y).kind


@pytest.mark.parametrize("bits", [8, 11])
def test_short_mantissas_are_precision(bits: int) -> None:
    mantissa, exponent = np.frexp(values())
    short = np.ldexp(np.rint(np.ldexp(mantissa, bits)), exponent - bits)
    assert "precision" == cause(values(), short).kind


def test_another_order_of_additions_is_nothing() -> None:
    assert "none" == cause(values(), values()).kind
    assert "none" == cause(values(), values() * (1 + 1e-7)).kind


def test_what_is_of_no_kind_is_unknown() -> None:
    assert "unknown" == cause(values(), values(1)).kind
    assert "unknown" == cause(values(), values()[:, ::-1]).kind


def test_what_is_no_number_is_said_first() -> None:
    broken = 2 * values()
    broken[0, 0, 0, 0] = np.nan
    assert "not finite" == cause(values(), broken).kind


def test_order_of_channels_and_samples_does_not_matter() -> None:
    x, y = values(), values().clip(-1, 1.2)
    assert cause(x, y) == cause(x[::-1, ::-1], y[::-1, ::-1])


def test_a_common_scale_does_not_change_the_kind() -> None:
    x = values()
    for y in (2 * x, x + 1, x.clip(-1, 1), values(3)):
        assert cause(x, y).kind == cause(8 * x, 8 * y).kind
