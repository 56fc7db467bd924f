"""Laws of entropy-coded layers: every byte comes back, it never takes more, damage is refused.

Faults these must catch: a sign or a mantissa lost, at zeros and the smallest numbers above all; a
layer coded where it does not pay; floats taken for codes; lengths that do not fit told as a layer.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from allot.entropy_layers import coded, plain
from allot.num import pack
from allot.num.formats import Float16, Float32, Format, Int, UInt

pytest.importorskip("constriction")

Bytes = NDArray[np.uint8]
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


def normal(rows: int, k: int, spread: float) -> NDArray[np.int8]:
    """Codes of so much spread."""
    x = np.random.default_rng(0).normal(0, spread, (rows, k))
    return np.clip(np.round(x), -127, 127).astype(np.int8)


def floats(n: int, seed: int = 0, spread: float = 0.3) -> NDArray[np.float32]:
    """As scales are: of about one size, of both signs."""
    g = np.random.default_rng(seed)
    return (np.exp(g.normal(-4, spread, n)) * g.choice([-1, 1], n)).astype(np.float32)


def of_codes(codes: NDArray[np.int8], bits: int, *, bias: bool) -> tuple[dict[str, Any], Bytes]:
    """A layer of codes: its entry and its packed bytes."""
    rows = len(codes)
    into = {"codes": "a.codes", "scale": "a.scale"} | ({"bias": "a.bias"} if bias else {})
    entry = {"name": "a", "kind": "codes", "bits": bits, "shape": list(codes.shape), "into": into}
    last = floats(rows * (1 + bias)).view(np.uint8)
    return entry, np.concatenate([pack.pack(codes.reshape(-1), bits), last])


def of_floats(x: NDArray[np.float32], rows: int, *, bias: bool) -> tuple[dict[str, Any], Bytes]:
    into = {"weight": "a.weight"} | ({"bias": "a.bias"} if bias else {})
    entry = {
        "name": "a",
        "kind": "float",
        "bits": 32,
        "shape": [rows, len(x) // rows],
        "into": into,
    }
    return entry, np.concatenate([x, floats(rows * bias)]).view(np.uint8)


def keeps_every_byte(entry: dict[str, Any], data: Bytes) -> tuple[dict[str, Any], Bytes]:
    new, stored = coded(entry, data)
    assert np.array_equal(plain(new, stored), data)
    assert len(stored) <= len(data)
    assert ("coder" in new) == (len(stored) < len(data))
    return new, stored


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_comes_back_byte_for_byte(bits: int, bias: bool) -> None:
    top = 2 ** (bits - 1)
    entry, data = of_codes(np.clip(normal(64, 120, top / 4), -top, top - 1), bits, bias=bias)
    new, _ = keeps_every_byte(entry, data)
    assert new["stream"] > 0 and all(new["exponents"]) and len(new["exponents"]) == 1 + bias
    # codes and exponents each take less than they did
    assert new["stream"] < pack.packed_size(64 * 120, bits)
    assert all(n < 64 for n in new["exponents"])


@given(arrays(np.float32, st.integers(1, 60), elements=finite))
def test_any_numbers_come_back(x: NDArray[np.float32]) -> None:
    keeps_every_byte(*of_floats(x, 1, bias=False))


def test_the_smallest_numbers_and_both_zeros_come_back() -> None:
    odd = [0.0, -0.0, 1e-45, -1e-45, 1.1754942e-38, 3.4028235e38, -3.4028235e38, 1.0]
    new, _ = keeps_every_byte(*of_floats(np.array(odd * 100, dtype=np.float32), 8, bias=True))
    assert new["exponents"][0]


@pytest.mark.parametrize("odd", [np.inf, -np.inf, np.nan])
def test_what_is_no_number_stays_as_it_is(odd: float) -> None:
    x = floats(400)
    x[17] = odd
    new, _ = keeps_every_byte(*of_floats(x, 100, bias=True))
    assert 0 == new["exponents"][0]


def test_mantissas_of_random_numbers_are_not_shortened() -> None:
    entry, data = of_floats(floats(4000), 40, bias=False)
    _, stored = keeps_every_byte(entry, data)
    assert 3 * 4000 < len(stored) < 3.3 * 4000


@pytest.mark.parametrize(
    ("scales", "asymmetric", "rank", "counted"),
    [(Float32(), False, 0, 3), (Float16(), False, 0, 2), (Float32(), True, 0, 2),
     (Float32(), False, 3, 2)],
)  # fmt: skip
def test_layers_on_formats_come_back(
    scales: Any, asymmetric: bool, rank: int, counted: int
) -> None:
    grid = UInt(bits=4) if asymmetric else Int(bits=4)
    fmt = Format(grid=grid, group=20, scales=scales, asymmetric=asymmetric)
    codes = np.clip(normal(16, 120, 1.0), -8, 7)
    middle = fmt.stored_bytes(16, 120) - pack.packed_size(16 * 120, 4)
    groups = floats(middle // 4).view(np.uint8)
    between = np.resize(groups if isinstance(scales, Float32) else np.arange(251), middle)
    halves = np.arange(2 * rank * (16 + 120)).astype(np.uint8)
    parts = [pack.pack(codes.reshape(-1), 4), between, halves, floats(32).view(np.uint8)]
    data = np.concatenate(parts).astype(np.uint8)
    entry = {
        "name": "a", "kind": "format", "format": fmt.dump(), "shape": [16, 120], "rank": rank,
        "gain": True, "into": {"weight": "a.weight", "bias": "a.bias"},
    }  # fmt: skip
    new, _ = keeps_every_byte(entry, data)
    assert new["stream"] and counted == len(new["exponents"])


def test_where_it_does_not_pay_all_stays_as_it_is() -> None:
    codes = np.random.default_rng(0).integers(-8, 8, (16, 100)).astype(np.int8)
    entry, data = of_codes(codes, 4, bias=False)
    # scales of every size there is
    data[-64:] = np.random.default_rng(1).integers(0, 256, 64)
    new, stored = coded(entry, data)
    assert new == entry and stored is data


def test_floats_are_coded_where_codes_are_not() -> None:
    codes = np.random.default_rng(0).integers(-8, 8, (400, 10)).astype(np.int8)
    new, _ = keeps_every_byte(*of_codes(codes, 4, bias=False))
    assert 0 == new["stream"] and new["exponents"][0]


@given(st.data())
def test_damage_is_a_value_error_or_another_layer_of_the_same_length(data: Any) -> None:
    entry, whole = of_codes(normal(20, 60, 1.5).clip(-8, 7), 4, bias=True)
    new, stored = coded(entry, whole)
    place = data.draw(st.integers(0, len(stored) - 1))
    damaged = stored.copy()
    damaged[place] ^= data.draw(st.integers(1, 255))
    try:
        found = plain(new, damaged)
    except ValueError:
        return
    assert found.shape == whole.shape


@pytest.mark.parametrize("change", [{"stream": 10**6}, {"stream": -4}, {"exponents": [-4]},
                                    {"exponents": [10**6]}, {"exponents": []}])  # fmt: skip
def test_lengths_that_do_not_fit_are_refused(change: dict[str, Any]) -> None:
    entry, whole = of_codes(normal(40, 60, 1.5).clip(-8, 7), 4, bias=False)
    new, stored = coded(entry, whole)
    assert new["stream"] and new["exponents"][0]
    with pytest.raises(ValueError):
        plain({**new, **change}, stored)


def test_another_coder_is_refused() -> None:
    with pytest.raises(ValueError, match="'zip'"):
        plain({"name": "a", "coder": "zip"}, np.zeros(1, np.uint8))
