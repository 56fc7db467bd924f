"""The grid is searched as well: of several of equal width, the one on which a matrix errs least."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from allot.errors import InputError
from allot.num.formats import Format, Grid
from allot.num.grouped import grouped
from allot.num.powers import Power
from allot.num.ranges import Fit, Ranges

_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True, kw_only=True)
class FormatSearch(Ranges):
    """For every matrix the grid of least squared error, weighed by curvature (Liu et al. 2023).

    LLM-FP4 searches the split of exponent and mantissa and the clipping that is a real-valued
    exponent bias: here the grids, with `inner` for the scales.  It takes the error of the layer's
    output; here it is that of the weights, by curvature where it is given.  The first of equals
    is taken.  The grid of the format only says which width is asked for.
    """

    grids: tuple[Grid, ...]
    inner: Ranges

    def __post_init__(self) -> None:
        widths = sorted({grid.width for grid in self.grids})
        if len(widths) != 1:
            raise InputError(
                "a format search is among one grid or more of equal width, so that the bytes do "
                f"not depend on the choice; {len(self.grids)} of the widths {widths} were given"
            )

    def fit(self, w: Tensor, fmt: Format, *, curvature: Tensor | None = None) -> Fit:
        _same_width(fmt, self.grids[0])
        fits = [self.inner.fit(w, replace(fmt, grid=g), curvature=curvature) for g in self.grids]
        return min(fits, key=lambda fit: squared_error(w, fit, curvature))


@dataclass(frozen=True, kw_only=True)
class ExponentSearch(Ranges):
    """For every matrix the exponent of a power grid (Yvinec et al. 2023, NUPES).

    exponents: tried first, exponent 1 among them in any case, so that the result is never worse
    than the symmetric integers; then `steps` of golden-section search between the neighbours of
    the best.  NUPES takes gradient steps on the exponent with guards against their instability;
    one number on a piecewise smooth curve is found without.
    """

    inner: Ranges
    exponents: tuple[float, ...] = (1.0, 0.85, 0.7, 0.6, 0.5, 0.4)
    steps: int = 6

    def fit(self, w: Tensor, fmt: Format, *, curvature: Tensor | None = None) -> Fit:
        """As `Ranges.fit`; raises InputError for a grid that is no Power."""
        grid = fmt.grid
        if not isinstance(grid, Power):
            raise InputError(
                f"exponents are searched for formats on a Power, not on {type(grid).__name__}"
            )

        def tried(exponent: float) -> tuple[float, float, Fit]:
            at = replace(fmt, grid=replace(grid, exponent=exponent))
            fit = self.inner.fit(w, at, curvature=curvature)
            return squared_error(w, fit, curvature), exponent, fit

        seen = [tried(a) for a in sorted({1.0, *self.exponents})]
        best = min(range(len(seen)), key=lambda i: seen[i][0])
        low, high = seen[max(best - 1, 0)][1], seen[min(best + 1, len(seen) - 1)][1]
        seen += _golden(tried, low, high, self.steps)
        return min(seen, key=lambda one: one[0])[2]


def _golden(
    tried: Callable[[float], tuple[float, float, Fit]], low: float, high: float, steps: int
) -> list[tuple[float, float, Fit]]:
    """What golden-section search within low .. high tries, `steps` of them."""
    seen: list[tuple[float, float, Fit]] = []
    if steps < 2 or low == high:
        return seen
    a, b = tried(high - _GOLDEN * (high - low)), tried(low + _GOLDEN * (high - low))
    seen += [a, b]
    for _ in range(steps - 2):
        if a[0] < b[0]:
            high, b = b[1], a
            a = tried(high - _GOLDEN * (high - low))
            seen.append(a)
        else:
            low, a = a[1], b
            b = tried(low + _GOLDEN * (high - low))
            seen.append(b)
    return seen


def squared_error(w: Tensor, fit: Fit, curvature: Tensor | None) -> float:
    """Sum of curvature * (w - Q(w))^2 over a matrix [rows, k] on nearest codes."""
    problem = grouped(w, fit.format, curvature)
    return problem.total(problem.error(fit.scale, fit.zero, 2))


def _same_width(fmt: Format, grid: Grid) -> None:
    if fmt.grid.width != grid.width:
        raise InputError(
            f"the format has codes of {fmt.grid.width} bits, the grids that are searched of "
            f"{grid.width}; give both one width, so that the bytes are as they are billed"
        )
