"""Laws of entropy coding: nothing is lost, it never takes more, and damage is not overlooked.

Faults these must catch: a code lost, at the ends of the range above all; an alphabet of one; a
model that differs between writer and reader; a stream cut off taken for whole.
"""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from allot import entropy_coding
from allot.errors import MissingError
from allot.num import histogram

pytest.importorskip("constriction")

matrices = st.tuples(st.integers(1, 9), st.integers(1, 30)).flatmap(
    lambda shape: arrays(np.int8, shape)
)


def normal(rows: int, k: int, spread: float, *, columns: bool = False) -> np.ndarray:
    """Codes of so much spread, which differs from column to column where asked."""
    x = np.random.default_rng(0).normal(0, spread, (rows, k))
    x = x * np.linspace(0.2, 3, k) if columns else x
    return np.clip(np.round(x), -127, 127).astype(np.int8)


@given(matrices)
def test_any_codes_come_back(codes: np.ndarray) -> None:
    stream = entropy_coding.encoded(codes.reshape(-1), len(codes))
    assert np.array_equal(entropy_coding.decoded(stream, codes.size, len(codes)), codes.reshape(-1))


@given(st.integers(-128, 127), st.integers(1, 500))
def test_one_code_alone_takes_a_head(code: int, n: int) -> None:
    codes = np.full(n, code, dtype=np.int8)
    stream = entropy_coding.encoded(codes, 1)
    assert len(stream) == 5
    assert np.array_equal(entropy_coding.decoded(stream, n, 1), codes)


@pytest.mark.parametrize("spread", [0.4, 2.0, 30.0])
def test_it_takes_hardly_more_than_the_entropy(spread: float) -> None:
    codes = normal(64, 300, spread)
    least = histogram.entropy_bits(np.unique(codes, return_counts=True)[1]) / 8
    took = len(entropy_coding.encoded(codes.reshape(-1), 64))
    assert least < took + 64 and took < 1.02 * least + 64


def test_columns_that_differ_take_less_than_their_common_entropy() -> None:
    codes = normal(200, 100, 2.0, columns=True)
    least = histogram.entropy_bits(np.unique(codes, return_counts=True)[1]) / 8
    stream = entropy_coding.encoded(codes.reshape(-1), 200)
    assert len(stream) < 0.96 * least
    assert np.array_equal(entropy_coding.decoded(stream, codes.size, 200), codes.reshape(-1))


@given(st.data())
def test_damage_is_a_value_error_or_other_codes(data: Any) -> None:
    codes = normal(20, 60, 1.5)
    stream = entropy_coding.encoded(codes.reshape(-1), 20)
    place = data.draw(st.integers(0, len(stream) - 1))
    damaged = stream.copy()
    damaged[place] ^= data.draw(st.integers(1, 255))
    try:
        found = entropy_coding.decoded(damaged, codes.size, 20)
    except ValueError:
        return
    assert found.shape == (codes.size,)


@pytest.mark.parametrize("length", [0, 3, 20, -1])
def test_a_stream_cut_off_is_refused(length: int) -> None:
    stream = entropy_coding.encoded(normal(20, 60, 1.5).reshape(-1), 20)
    with pytest.raises(ValueError, match="entropy-coded layer"):
        entropy_coding.decoded(stream[:length], 1200, 20)


def test_without_the_library_the_line_that_installs_it_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **named: Any) -> Any:
        if name == "constriction":
            raise ImportError(name)
        return real(name, *rest, **named)

    assert entropy_coding.missing() == ""
    monkeypatch.setattr(builtins, "__import__", without)
    assert "pip install 'allot[entropy]'" in entropy_coding.missing()
    with pytest.raises(MissingError, match=r"allot\[entropy\]"):
        entropy_coding.encoded(np.arange(4, dtype=np.int8), 1)
