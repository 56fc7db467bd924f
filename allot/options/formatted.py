"""Formatted: a weight on any format, with a low-rank part beside it: one composite option."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from allot.errors import InputError
from allot.num.blocks import fits
from allot.num.clipping import PNorm
from allot.num.formats import Format
from allot.num.gram import curvature
from allot.num.lowrank import compensation
from allot.num.ranges import Ranges
from allot.num.rounding import Gptq, Rounding
from allot.option import Effect, Option, Statistic, Stats, count
from allot.options.format_layer import FormatLayer
from allot.options.narrow import kept_gram
from allot.options.statistics import gram_of
from allot.site import Graph, Site, Touch

# of a factor of the low-rank part
_FACTOR_BYTES = 2


@dataclass(frozen=True, kw_only=True)
class Formatted(Option):
    """A weight [out, k] on a format, its error made up for by a product of rank `rank`.

    format: None is the original.  ranges: how scales and grid are fitted.  rounding: how codes are
    chosen.  rank: of the factors [out, rank] and [rank, k] in half precision that are added (LoRC,
    Yao et al. 2023; here of least output error on the calibration data); 0 for none.  name: as
    users type it.

    It computes in float, expanded when the network is loaded; a linear in groups of integers from
    its codes, where the runtime has kernels (`num.blocks`).
    """

    kind: ClassVar[str] = "weight"
    level: ClassVar[int] = 1
    name: str = "float"
    format: Format | None = None
    ranges: Ranges = PNorm()  # noqa: RUF009 - frozen, shared by intent
    rounding: Rounding = Gptq()  # noqa: RUF009
    rank: int = 0

    @property
    def label(self) -> str:
        return self.name

    @property
    def is_original(self) -> bool:
        return self.format is None

    def effect(self, site: Site) -> Effect:
        if self.format is None:
            return Effect()
        blocks = self.rank == 0 and fits(self.format)
        group = self.format.group if blocks else 0
        return Effect(stored_bits=self.format.grid.width, compute_bits=32, stores=self, group=group)

    def stored_bytes(self, rows: int, k: int) -> int:
        """Bytes of codes, scales and factors for a weight [rows, k]."""
        codes = 4 * rows * k if self.format is None else self.format.stored_bytes(rows, k)
        return codes + _FACTOR_BYTES * self.rank * (rows + k)

    @property
    def takes_gain(self) -> bool:
        """Whether scales can take in what a norm multiplies."""
        return self.format is None or self.format.takes_gain

    def needs(self, site: Site, graph: Graph) -> tuple[Statistic, ...]:
        if self.format is None:
            return ()
        layer = graph.layer(site.touches[0].module)
        rows, k = site.shape[0], count(site.shape[1:])
        try:
            self.format.shape(rows, k)
        except InputError as e:
            raise InputError(f"{site.name}: {e}") from e
        if self.rank > min(rows, k):
            raise InputError(
                f"{site.name} is a matrix of {rows} x {k}; a rank of {self.rank} is above what it "
                f"can have, {min(rows, k)}"
            )
        return (gram_of(layer),)

    def apply(
        self, module: nn.Module, *, touch: Touch, site: Site, graph: Graph, stats: Stats
    ) -> nn.Module:
        gram = stats.get(gram_of(graph.layer(touch.module)))
        return self.encoded(module, gram=None if gram is None else kept_gram(module, gram))

    def encoded(self, module: nn.Module, *, gram: Tensor | None) -> FormatLayer:
        """The layer on the format, for inputs of second moment gram [g, k, k]."""
        if not isinstance(module, nn.Conv2d | nn.Linear):
            raise TypeError(f"a weight format needs a convolution or linear, got {type(module)}")
        assert self.format is not None
        w = module.weight.detach()
        rows = w.reshape(w.shape[0], -1)
        fit = self.ranges.fit(rows, self.format, curvature=curvature(rows, gram))
        coded = self._rounded(rows, fit.format, fit.scale, fit.zero, gram)
        up = down = None
        if self.rank:
            whole = gram[0] if gram is not None and len(gram) == 1 else None
            up, down = compensation(rows, coded, self.rank, gram=whole)
            coded = coded + up @ down
        inner = copy.deepcopy(module)
        with torch.no_grad():
            inner.weight.copy_(coded.view_as(w))
        return FormatLayer(
            inner=inner, format=fit.format, scale=fit.scale, zero=fit.zero, up=up, down=down
        )

    def _rounded(
        self, rows: Tensor, fmt: Format, scale: Tensor, zero: Tensor | None, gram: Tensor | None
    ) -> Tensor:
        """Values on the format: [out, k]."""
        k = rows.shape[1]
        wide = fmt.spread(scale, k).expand_as(rows).to(rows)
        shift = torch.zeros(()) if zero is None else fmt.spread(zero, k).expand_as(rows).to(rows)
        codes = self.rounding.codes(rows + wide * shift, wide, fmt.grid, gram).to(rows)
        return (fmt.grid.values(codes) - shift) * wide
