"""Embeddings: how many bits the rows of a table are stored in, from which they are looked up."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from allot.errors import InputError
from allot.num.clipping import PNorm
from allot.num.formats import Encoded, Float16, Format, Int
from allot.num.ranges import Ranges
from allot.option import Effect, Option, Statistic, Stats
from allot.options.standins import inner_attribute
from allot.site import Graph, Site, Touch
from allot.space import Choice, Space
from allot.target import Target

# rows whose scales are searched at once: a vocabulary is large
_ROWS = 4096


@dataclass(frozen=True, kw_only=True)
class Rows(Option):
    """A table stored in `bits` per element with one half-precision scale per row.

    bits: 2 to 8, or 32 for the original.  ranges: how scales are fitted.  It is storage alone: a
    row that is looked up is put back into float32, and nothing computes from codes, so every row's
    error is its own and no data are needed.
    """

    kind: ClassVar[str] = "embedding"
    level: ClassVar[int] = 1
    bits: int
    ranges: Ranges = PNorm()  # noqa: RUF009 - frozen, shared by intent

    def __post_init__(self) -> None:
        if self.bits != 32 and not 2 <= self.bits <= 8:
            raise InputError(
                f"an embedding has 2 to 8 bits, or 32 for the original; {self.bits} were given"
            )

    @property
    def label(self) -> str:
        return "float" if self.is_original else f"W{self.bits}"

    @property
    def is_original(self) -> bool:
        return self.bits == 32

    @property
    def format(self) -> Format:
        """What a table of fewer bits is stored on."""
        return Format(grid=Int(bits=self.bits), scales=Float16())

    def effect(self, site: Site) -> Effect:
        if self.is_original:
            return Effect()
        return Effect(stored_bits=self.bits, compute_bits=32, stores=self.format)

    def needs(self, site: Site, graph: Graph) -> tuple[Statistic, ...]:
        return ()

    def apply(
        self, module: nn.Module, *, touch: Touch, site: Site, graph: Graph, stats: Stats
    ) -> nn.Module:
        if not isinstance(module, nn.Embedding):
            raise TypeError(f"a table is that of an embedding, got {type(module)}")
        parts = [self._scales(w) for w in module.weight.detach().split(_ROWS)]
        scale = torch.cat(parts).float()
        inner, fmt = copy.deepcopy(module), self.format
        with torch.no_grad():
            inner.weight.copy_(fmt.grid.values(fmt.grid.nearest(inner.weight / scale)) * scale)
        return QuantizedEmbedding(inner=inner, scale=scale, format=fmt)

    def _scales(self, w: Tensor) -> Tensor:
        """[rows, 1], as they are stored."""
        return self.ranges.fit(w, self.format).scale


class QuantizedEmbedding(nn.Module):
    """An embedding whose table is on a format: scale [rows, 1].

    What `inner` has besides can be read here too; a network may multiply with its `weight`.
    """

    scale: Tensor

    def __init__(self, *, inner: nn.Embedding, scale: Tensor, format: Format) -> None:
        nn.Module.__init__(self)
        self.inner, self.format = inner, format
        self.register_buffer("scale", scale.detach().clone())

    def __getattr__(self, name: str) -> Any:
        return inner_attribute(self, name)

    def encoded(self) -> Encoded:
        """The table [rows, width] in codes."""
        codes = self.format.grid.nearest(self.inner.weight.detach() / self.scale)
        return Encoded(format=self.format, codes=codes, scale=self.scale)

    def forward(self, index: Tensor) -> Tensor:
        found: Tensor = self.inner(index)
        return found


def space(graph: Graph, target: Target) -> Space:
    """Every table of its own stored in 2 to 8 bits or float; no runtime needs a kernel for it."""
    options = tuple(Rows(bits=b) for b in (32, *range(8, 1, -1)))
    return Space(
        graph=graph,
        choices=tuple(
            Choice(site=s.name, options=options) for s in graph.embeddings if not s.fixed
        ),
    )
