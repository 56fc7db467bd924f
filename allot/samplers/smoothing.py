"""Smoothing by time: outliers moved into weights, with factors and a copy for each range of steps.

A tensor is put on its grid as Q(x / factor) * factor, a weight that reads it as
Q(w * factor) / factor: the factors cancel in the product, so codes meet codes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from allot.calibrate import calibrate
from allot.errors import InputError
from allot.num.formats import Format, Int, rowwise
from allot.num.rounding import Nearest, Rounding
from allot.num.scales import row_scale
from allot.num.smooth import balanced
from allot.option import Effect, Option, Statistic, Stats
from allot.options.quantizers import at_edge
from allot.options.ranges_seen import ChannelValues
from allot.options.tensors import ActivationFormat
from allot.part import Part
from allot.samplers.trajectory import Visited
from allot.sampling.by_range import ByRange, QuantizerByRange, Scaled
from allot.site import Graph, Site, Touch
from allot.task import Data, Task


@dataclass(frozen=True, kw_only=True)
class Factors(Part):
    """What channels are divided by: [ranges][channels].

    first: the first step of every range but the first, ascending.
    """

    values: tuple[tuple[float, ...], ...]
    first: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        widths = {len(v) for v in self.values}
        if len(self.values) != len(self.first) + 1 or len(widths) != 1:
            raise InputError(
                f"{len(self.values)} rows of factors do not fit {len(self.first) + 1} ranges of "
                "steps; each range has one factor for every channel"
            )
        if list(self.first) != sorted({f for f in self.first if f > 0}):
            raise InputError(f"ranges begin at ascending steps above 0, not at {self.first}")
        if any(x <= 0 for row in self.values for x in row):
            raise InputError("factors are positive")

    @property
    def ranges(self) -> int:
        return len(self.values)


@dataclass(frozen=True, kw_only=True)
class SmoothedTensor(Option):
    """The tensor between linears on a format once it is divided by the factors of the step's
    range (ViDiT-Q, Zhao et al. 2024); None for the original.

    format: with ranges of every token found when it comes.
    """

    kind: ClassVar[str] = "activation"
    level: ClassVar[int] = 2
    format: ActivationFormat | None = None
    factors: Factors = Factors(values=((1.0,),))

    @property
    def label(self) -> str:
        return "float" if self.format is None else f"{self.format.label}smooth{self.factors.ranges}"

    @property
    def is_original(self) -> bool:
        return self.format is None

    def effect(self, site: Site) -> Effect:
        return Effect() if self.format is None else self.format.effect(site)

    def needs(self, site: Site, graph: Graph) -> tuple[Statistic, ...]:
        return () if self.format is None else self.format.needs(site, graph)

    def apply(
        self, module: nn.Module, *, touch: Touch, site: Site, graph: Graph, stats: Stats
    ) -> nn.Module:
        assert self.format is not None and self.format.grid is not None
        at = {"touch": touch, "site": site, "graph": graph, "stats": stats}
        inner = self.format.apply(nn.Identity(), **at)  # type: ignore[arg-type]
        parts = [Scaled(inner, torch.tensor(v)) for v in self.factors.values]
        quantizer = QuantizerByRange(parts, self.factors.first)
        quantizer.grid = self.format.grid
        return at_edge(module, touch.role, quantizer)


@dataclass(frozen=True, kw_only=True)
class SmoothedWeight(Option):
    """A linear's weight in `bits`, multiplied by the factors of the step's range before it is
    rounded: as many copies as there are ranges, all of them stored.

    bits: 32 for the original.
    """

    kind: ClassVar[str] = "weight"
    level: ClassVar[int] = 1
    bits: int
    factors: Factors = Factors(values=((1.0,),))
    rounding: Rounding = Nearest()  # noqa: RUF009 - frozen

    @property
    def label(self) -> str:
        return "float" if self.bits == 32 else f"W{self.bits}smooth{self.factors.ranges}"

    @property
    def is_original(self) -> bool:
        return self.bits == 32

    @property
    def takes_gain(self) -> bool:
        """Whether scales can take in what a norm multiplies."""
        return True

    def stored_bytes(self, rows: int, k: int) -> int:
        """Bytes of every copy with its scales, and of the factors in float32."""
        copy = Format(grid=Int(bits=self.bits)).stored_bytes(rows, k)
        return self.factors.ranges * (copy + 4 * k)

    def effect(self, site: Site) -> Effect:
        if self.is_original:
            return Effect()
        copies = self.factors.ranges
        return Effect(stored_bits=self.bits * copies, compute_bits=self.bits, stores=self)

    def needs(self, site: Site, graph: Graph) -> tuple[Statistic, ...]:
        return ()

    def apply(
        self, module: nn.Module, *, touch: Touch, site: Site, graph: Graph, stats: Stats
    ) -> nn.Module:
        """Raises InputError for what is no linear with a factor for every input."""
        if not isinstance(module, nn.Linear) or module.in_features != len(self.factors.values[0]):
            raise InputError(f"{touch.module} is no linear of {len(self.factors.values[0])} inputs")
        parts = [self._copy(module, torch.tensor(v)) for v in self.factors.values]
        return ByRange(parts, self.factors.first)

    def _copy(self, module: nn.Linear, factor: Tensor) -> nn.Linear:
        """The weight of one range, put back into float."""
        grid, w = Int(bits=self.bits), module.weight.detach() * factor
        scale = row_scale(w, grid, weight=torch.ones_like(w))
        codes = self.rounding.codes(w, scale, grid, None)
        new = nn.Linear(
            module.in_features, module.out_features, bias=module.bias is not None, device="meta"
        )
        weight = codes * rowwise(scale, codes) / factor
        new.weight = nn.Parameter(weight, requires_grad=False)
        if module.bias is not None:
            new.bias = nn.Parameter(module.bias.detach().clone(), requires_grad=False)
        return new


def smoothed(
    network: nn.Module,
    graph: Graph,
    seen: Visited,
    *,
    sites: Iterable[str],
    bits: int,
    format: ActivationFormat,
    first: tuple[int, ...] = (),
    strength: float = 0.5,
    rounding: Rounding = Nearest(),  # noqa: B008 - frozen
) -> dict[str, Option]:
    """Site -> option, for tensors that linears alone read and for these linears' weights.

    Factors are max|x|^strength / max|w|^(1 - strength) over the evaluations in a range and all
    readers (eq. 4 of SmoothQuant, Xiao et al. 2023).  first: where ranges begin.  Raises InputError
    for a range without evaluations.
    """
    wanted = {n: graph.site(n) for n in sites if _linear(graph, graph.site(n))}
    notes = {
        n: ChannelValues(module=s.touches[0].module, role=s.touches[0].role, dim=-1, picks=1)
        for n, s in wanted.items()
    }
    rows: dict[str, list[tuple[float, ...]]] = {n: [] for n in wanted}
    edges = (0, *first, int(seen.step.max()) + 1)
    for a, b in itertools.pairwise(edges):
        some = seen.rows((seen.step >= a) & (seen.step < b))
        if not len(some):
            raise InputError(f"no evaluation lies within steps {a} to {b - 1}")
        data = Data(inputs=some.inputs)
        task = Task(name="range", model=network, calibrate=data, search=data, certify=data)
        stats = calibrate(task, network, notes.values())
        for n, s in wanted.items():
            rows[n].append(_factors(network, s, stats[notes[n]], strength))
    found: dict[str, Option] = {}
    for n, s in wanted.items():
        factors = Factors(values=tuple(rows[n]), first=first)
        found[n] = SmoothedTensor(format=format, factors=factors)
        for m in s.reach:
            found[f"{m}.weight"] = SmoothedWeight(bits=bits, factors=factors, rounding=rounding)
    return found


def _linear(graph: Graph, site: Site) -> bool:
    ops = {graph.layer(m).op for m in site.reach}
    return site.kind == "activation" and not site.fixed and ops == {"linear"}


def _factors(network: nn.Module, site: Site, state: Tensor, strength: float) -> tuple[float, ...]:
    """Of one tensor in one range; state: of `ChannelValues` [n, 2 + picks, channels]."""
    sizes = torch.maximum(state[:, 1].amax(0), -state[:, 0].amin(0))
    weights = [network.get_submodule(m).get_parameter("weight") for m in site.reach]
    largest = torch.stack([w.detach().abs().amax(0) for w in weights]).amax(0)
    return tuple(float(x) for x in balanced(sizes, largest, strength))
