"""By step: a tensor between layers in as many bits as the sampler's step says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from allot.errors import InputError, PlanError
from allot.num.formats import Grid
from allot.option import Effect, Option, Statistic, Stats
from allot.options.quantizers import Quantizer, at_edge
from allot.options.stepped import Stepped
from allot.options.tensors import ActivationFormat
from allot.sampling.moment import Moment
from allot.site import Graph, Site, Touch


class TimedQuantizer(Quantizer):
    """One quantizer for every width; the moment says which, and float outside of one.

    by_bits: str(bits) -> what rounds a tensor to so many bits.
    """

    def __init__(self, by_bits: dict[int, nn.Module], *, grid: Grid) -> None:
        nn.Module.__init__(self)
        self.grid = grid
        self.by_bits = nn.ModuleDict({str(b): q for b, q in by_bits.items()})
        self.bits: int | None = None

    def at(self, moment: Moment | None) -> None:
        """Raises PlanError for bits that there is no quantizer for."""
        self.bits = None if moment is None else moment.bits
        if self.bits is not None and str(self.bits) not in self.by_bits:
            have = ", ".join(self.by_bits)
            raise PlanError(f"step {moment and moment.step} rounds to {self.bits} bits, not {have}")

    def forward(self, x: Tensor) -> Tensor:
        if self.bits is None:
            return x
        out: Tensor = self.by_bits[str(self.bits)](x)
        return out


@dataclass(frozen=True, kw_only=True)
class ByStep(Option):
    """The tensor in the width that each step asks for; without formats the original.

    formats: one for every width that steps may ask for, the widest first; each with ranges found
    when the tensor comes, fixed for all steps, or fixed for every step (`Stepped`).
    """

    kind: ClassVar[str] = "activation"
    level: ClassVar[int] = 2
    formats: tuple[ActivationFormat | Stepped, ...] = ()

    def __post_init__(self) -> None:
        widths = [f.grid.width for f in self.formats if f.grid is not None]
        if len(set(widths)) != len(self.formats):
            raise InputError(f"one format for every width is needed; the widths given are {widths}")

    @property
    def label(self) -> str:
        return "+".join(f.label for f in self.formats) or "float"

    @property
    def is_original(self) -> bool:
        return not self.formats

    def effect(self, site: Site) -> Effect:
        return self.formats[0].effect(site) if self.formats else Effect()

    def needs(self, site: Site, graph: Graph) -> tuple[Statistic, ...]:
        found = [s for f in self.formats for s in f.needs(site, graph)]
        return tuple(dict.fromkeys(found))

    def apply(
        self, module: nn.Module, *, touch: Touch, site: Site, graph: Graph, stats: Stats
    ) -> nn.Module:
        by_bits: dict[int, nn.Module] = {}
        for f in self.formats:
            assert f.grid is not None
            edge = f.apply(nn.Identity(), touch=touch, site=site, graph=graph, stats=stats)
            by_bits[f.grid.width] = edge
        grid = self.formats[0].grid
        assert grid is not None
        return at_edge(module, touch.role, TimedQuantizer(by_bits, grid=grid))
