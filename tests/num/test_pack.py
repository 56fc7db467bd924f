"""Laws of packing: dense, exact, and refusing what does not fit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allot.num.pack import pack, packed_size, unpack


@given(bits=st.integers(1, 8), count=st.integers(0, 300), seed=st.integers(0, 999))
@settings(max_examples=80, deadline=None)
def test_unpack_is_the_exact_inverse_of_pack(bits: int, count: int, seed: int) -> None:
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1)
    codes = np.random.default_rng(seed).integers(low, high, count).astype(np.int8)
    data = pack(codes, bits)
    assert -(-count * bits // 8) == data.size == packed_size(count, bits)
    np.testing.assert_array_equal(codes, unpack(data, count, bits))


def test_streams_longer_than_a_piece_come_back() -> None:
    codes = np.random.default_rng(0).integers(-4, 4, (1 << 19) + 5).astype(np.int8)
    np.testing.assert_array_equal(codes, unpack(pack(codes, 3), codes.size, 3))


def test_b_bits_tell_exactly_two_to_the_b_codes_apart() -> None:
    for bits in range(1, 9):
        every = np.arange(-(2 ** (bits - 1)), 2 ** (bits - 1)).astype(np.int8)
        assert 2**bits == len(
            {unpack(pack(every[i : i + 1], bits), 1, bits)[0] for i in range(len(every))}
        )


def test_eight_bits_are_the_bytes_themselves() -> None:
    codes = np.arange(-128, 128).astype(np.int8)
    np.testing.assert_array_equal(codes.view(np.uint8), pack(codes, 8))


def test_codes_stand_lowest_bit_first() -> None:
    # by hand: 1, -1, 0, -2 in two bits are 01, 11, 00, 10 -> 0b10_00_11_01
    np.testing.assert_array_equal([0b10001101], pack(np.array([1, -1, 0, -2], dtype=np.int8), 2))


@pytest.mark.parametrize("code", [8, -9])
def test_a_code_that_does_not_fit_is_refused(code: int) -> None:
    with pytest.raises(ValueError, match=r"-8\.\.7"):
        pack(np.array([0, code], dtype=np.int8), 4)


@pytest.mark.parametrize("bits", [0, 9])
def test_other_widths_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match="1 to 8"):
        pack(np.zeros(1, dtype=np.int8), bits)


def test_a_stream_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(ValueError, match="take 2 bytes"):
        unpack(np.zeros(3, dtype=np.uint8), 4, 4)
