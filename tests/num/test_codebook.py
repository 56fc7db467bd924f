"""Laws of codebooks: values that a book can hold are kept, no other grid is better, bytes tell it.

Faults these laws must catch: a book in other units than its scales; curvature forgotten, or not
multiplied by the squared scale; a last round that is worse than the best; values that float16
changes after the fit; a row of zeros that is not; a short book that takes less than it counts.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from allot.errors import DataError, InputError
from allot.num.codebook import Codebook, CodebookRanges, halved
from allot.num.formats import Float16, Float32, Format, Grid, Int, Scales
from allot.num.minifloat import Minifloat
from allot.num.powers import Power
from allot.num.ranges import Fit
from allot.num.scale_formats import Fp8Scales, PowerOfTwo

STORES: tuple[Scales, ...] = (Float32(), Float16(), PowerOfTwo(), Fp8Scales())


def matrix(rows: int = 6, k: int = 32, seed: int = 0) -> Tensor:
    """Rows of different size."""
    w = torch.randn(rows, k, generator=torch.Generator().manual_seed(seed))
    return w * 3.0 ** torch.arange(rows)[:, None]


def curvature(rows: int = 6, k: int = 32, seed: int = 1) -> Tensor:
    return torch.randn(rows, k, generator=torch.Generator().manual_seed(seed)).exp()


def put(w: Tensor, fit: Fit) -> Tensor:
    """w on what was fitted to it, nearest values."""
    unit = fit.format.spread(fit.scale, w.shape[1])
    return fit.format.grid.values(fit.format.grid.nearest(w / unit)) * unit


def error(w: Tensor, fit: Fit, h: Tensor | None = None) -> float:
    squared = (put(w, fit) - w).double().square()
    return float((squared if h is None else squared * h).sum())


@pytest.mark.parametrize("bits", (1, 2, 3, 4))
@pytest.mark.parametrize("group", (0, -1, 8))
def test_values_that_a_book_can_hold_are_kept(bits: int, group: int) -> None:
    g = torch.Generator().manual_seed(bits)
    book = torch.linspace(-1, 1, 2**bits).half().float()
    codes = torch.randint(0, 2**bits, (5, 24), generator=g)
    codes[:, ::8] = 2**bits - 1  # every group reaches 1
    size = torch.exp2(torch.arange(5.0))[:, None] if group >= 0 else torch.ones(5, 1)
    w = book[codes] * size
    fit = CodebookRanges().fit(w, Format(grid=Codebook(bits=bits), group=group))
    assert torch.equal(w, put(w, fit))


@pytest.mark.parametrize("bits", (2, 3, 4))
@pytest.mark.parametrize("weighted", (False, True))
def test_no_other_grid_is_better_on_the_same_scales(bits: int, weighted: bool) -> None:
    w, h = matrix(), curvature() if weighted else None
    fit = CodebookRanges(rounds=0).fit(w, Format(grid=Codebook(bits=bits)), curvature=h)
    assert torch.equal(w.abs().amax(1, keepdim=True), fit.scale)
    grids: list[Grid] = [Int(bits=bits)]
    grids += [Power(bits=bits, exponent=a) for a in (0.5, 0.7, 1.0)]
    grids += [Minifloat(exponent=e, mantissa=3 - e) for e in (1, 2, 3)] if bits == 4 else []
    for grid in grids:
        for part in (1.0, 0.8, 0.6):
            other = Fit(format=Format(grid=grid), scale=fit.scale * part / grid.reach[1])
            assert error(w, fit, h) <= error(w, other, h) * (1 + 1e-3)


@pytest.mark.parametrize("scales", STORES, ids=repr)
@pytest.mark.parametrize("group", (0, -1, 8))
def test_more_rounds_are_never_worse(scales: Scales, group: int) -> None:
    w, h = matrix(), curvature()
    fmt = Format(grid=Codebook(bits=2), group=group, scales=scales)
    found = [error(w, CodebookRanges(rounds=r).fit(w, fmt, curvature=h), h) for r in range(5)]
    assert all(b <= a * (1 + 1e-5) for a, b in itertools.pairwise(found)), found


def test_rounds_help_where_scales_are_free() -> None:
    w, fmt = matrix(), Format(grid=Codebook(bits=2), group=8)
    first, later = (error(w, CodebookRanges(rounds=r).fit(w, fmt)) for r in (0, 3))
    assert later < 0.99 * first


@pytest.mark.parametrize("scales", STORES, ids=repr)
@pytest.mark.parametrize(("group", "shape"), [(0, (6, 1)), (-1, (1, 1)), (8, (6, 4))])
def test_scales_are_as_stored_and_the_rest_of_the_format_as_given(
    scales: Scales, group: int, shape: tuple[int, int]
) -> None:
    fmt = Format(grid=Codebook(bits=3), group=group, scales=scales)
    fit = CodebookRanges().fit(matrix(), fmt)
    assert shape == tuple(fit.scale.shape) and torch.equal(fit.scale, scales.rounded(fit.scale))
    assert fit.zero is None and isinstance(fit.format.grid, Codebook)
    assert (group, scales, 3) == (fit.format.group, fit.format.scales, fit.format.grid.bits)
    assert fmt.stored_bytes(6, 32) == fit.format.stored_bytes(6, 32)


def test_errors_of_much_curvature_become_small() -> None:
    w, fmt = matrix(), Format(grid=Codebook(bits=2))
    h = torch.ones(1, 32)
    h[0, :4] = 1e4
    plain, aware = CodebookRanges().fit(w, fmt), CodebookRanges().fit(w, fmt, curvature=h)
    assert error(w, aware, h) < 0.7 * error(w, plain, h)
    assert error(w, plain) < error(w, aware)


def test_curvature_counts_by_ratio_and_where_it_is_none_alike() -> None:
    w, h, fmt = matrix(), curvature(), Format(grid=Codebook(bits=2))
    one, other = (CodebookRanges().fit(w, fmt, curvature=x) for x in (h, 1e-6 * h))
    assert one.format == other.format and torch.allclose(one.scale, other.scale)
    plain, flat = (CodebookRanges().fit(w, fmt, curvature=x) for x in (None, torch.ones(1, 32)))
    assert plain.format == flat.format and torch.equal(plain.scale, flat.scale)


def test_order_of_rows_and_a_power_of_two_of_all_do_not_matter() -> None:
    w, fmt = matrix(), Format(grid=Codebook(bits=3))
    fit, order = CodebookRanges().fit(w, fmt), torch.tensor([3, 1, 0, 5, 4, 2])
    mixed, larger = CodebookRanges().fit(w[order], fmt), CodebookRanges().fit(4 * w, fmt)
    assert torch.allclose(put(w, fit)[order], put(w[order], mixed), rtol=1e-4)
    assert torch.allclose(4 * put(w, fit), put(4 * w, larger), rtol=1e-4)


@pytest.mark.parametrize("scales", STORES, ids=repr)
def test_a_row_of_zeros_stays_near_zero_and_spoils_no_other(scales: Scales) -> None:
    w, fmt = matrix(), Format(grid=Codebook(bits=2), scales=scales)
    with_zeros = torch.cat((w, torch.zeros(1, 32)))
    fit, alone = CodebookRanges().fit(with_zeros, fmt), CodebookRanges().fit(w, fmt)
    got = put(with_zeros, fit)
    assert float(got[-1].abs().max()) <= 2e-5 * float(w.abs().max())
    assert error(with_zeros, fit) <= error(w, alone) * 1.01
    nothing = torch.zeros(2, 32)
    assert float(put(nothing, CodebookRanges().fit(nothing, fmt)).abs().max()) < 1e-6


def test_a_constant_matrix_is_kept() -> None:
    w = torch.full((3, 8), -0.75)
    assert torch.equal(w, put(w, CodebookRanges().fit(w, Format(grid=Codebook(bits=2)))))


def test_a_book_counts_sixteen_bits_a_code_however_many_it_holds() -> None:
    for bits in range(1, 9):
        for book in ((), (0.0, 1.0)):
            assert 16 * 2**bits == Codebook(bits=bits, book=book).fixed_bits
            assert bits == Codebook(bits=bits, book=book).width


def test_values_are_made_numbers_that_can_be_stored() -> None:
    values = torch.tensor([-0.1, -1e-9, 1e-9, 0.3, 0.30001], dtype=torch.float64)
    grid = halved(values, 3)
    assert [float(torch.tensor(v).half()) for v in (-0.1, 0.0, 0.3)] == list(grid.book)
    assert (0.0, 0.5) == halved(torch.tensor([0.5, 0.5]), 3).book
    assert (0.0, 1.0) == halved(torch.tensor([-0.0]), 3).book


@pytest.mark.parametrize(
    "book", [(1.0,), (1.0, 0.0), (0.0, 0.0), (0.0, 0.5, 1.0, 1.5, 2.0), (0.0, float("inf")),
             (float("nan"), 1.0)],
)  # fmt: skip
def test_lists_that_are_no_book_of_two_bits_are_refused(book: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="2 to 4 finite values, strictly ascending"):
        Codebook(bits=2, book=book)


def test_values_that_float16_would_change_are_refused() -> None:
    for book in ((0.0, 0.1), (0.0, 1e6)):
        with pytest.raises(InputError, match="float16"):
            Codebook(bits=2, book=book)


@pytest.mark.parametrize("bits", (0, 9))
def test_other_widths_are_refused(bits: int) -> None:
    with pytest.raises(InputError, match="1 to 8 bits"):
        Codebook(bits=bits)


def test_a_book_that_is_not_fitted_yet_says_so() -> None:
    for use in (lambda g: g.nearest(torch.ones(1)), lambda g: g.reach, lambda g: g.fixed()):
        with pytest.raises(InputError, match="CodebookRanges"):
            use(Codebook(bits=2))


def test_what_cannot_be_fitted_is_refused() -> None:
    with pytest.raises(InputError, match="not on Int"):
        CodebookRanges().fit(matrix(), Format(grid=Int(bits=4)))
    with pytest.raises(InputError, match="8 or 16 would"):
        CodebookRanges().fit(matrix(), Format(grid=Codebook(bits=2), group=10))
    with pytest.raises(DataError, match="not finite"):
        CodebookRanges().fit(matrix() / 0, Format(grid=Codebook(bits=2)))
    with pytest.raises(DataError, match="below 0"):
        CodebookRanges().fit(matrix(), Format(grid=Codebook(bits=2)), curvature=-torch.ones(1, 32))
