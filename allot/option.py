"""Options: ways to make a network cheaper at one kind of site, and the statistics they need."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from allot.part import Part
from allot.site import Graph, Site, Touch


@dataclass(frozen=True, kw_only=True)
class Statistic(Part):
    """Something to be known of the tensor that enters or leaves a module.

    module, role: where ("in" or "out").  `update` folds one batch into the state (None at the
    start); the state of the whole data must not depend on how it was cut into batches.
    """

    module: str
    role: str

    @abstractmethod
    def update(self, state: Tensor | None, x: Tensor) -> Tensor: ...


Stats = Mapping[Statistic, Tensor]


# how the ranges of a tensor between layers are found
FIXED, LIVE, GROUPS, OTHER = "fixed", "live", "live groups", "other"


class Stores(Protocol):
    """How a weight matrix is stored: exact bytes, and whether scales take in a factor per row."""

    def stored_bytes(self, rows: int, k: int) -> int: ...

    @property
    def takes_gain(self) -> bool: ...


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What an option does to the bill of every layer in reach.

    stored_bits, compute_bits: of one element.  keep: how many of the site's classes stay
    (channels; -1 where the option does not touch width).  row_bytes: scales and zero points, per
    row (output channel) of a weight.  gone: the layers are not there, they cost no bytes and no
    MACs.  tokens: share of the tokens that arrive which go on, as `kept_tokens` counts them; MACs
    follow their number, bytes do not.  stores: what counts the bytes of a weight [rows, k] where
    bits and scales per row do not say it all.  ranges: how those of a tensor are found: FIXED
    (known beforehand, one for the tensor, of unsigned integers), LIVE (in signed integers, of a
    token or a sample when it comes), GROUPS (the same, of `group` neighbouring channels), or OTHER,
    for which there are no integer kernels.  group: of a weight, the integers that share a scale
    where kernels of linears compute from them, else 0.
    """

    stored_bits: float = 32.0
    compute_bits: float = 32.0
    keep: int = -1
    row_bytes: int = 0
    gone: bool = False
    tokens: float = 1.0
    stores: Stores | None = None
    ranges: str = FIXED
    group: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Coded:
    """What is stored of a layer with a coded weight: codes [out, ...] int8, scale [out] signed,
    bias [out]; value = scale * code.  layer: the convolution or linear it stands for.
    """

    layer: nn.Conv2d | nn.Linear
    codes: Tensor
    scale: Tensor
    bias: Tensor
    bits: int


class Option(Part):
    """One way to make a network cheaper at a site of `kind`.

    level: order in which options that meet in one module are applied: structure (0) before
    numbers (1) before wrappers (2); the order inside a plan never matters.
    """

    kind: ClassVar[str]
    level: ClassVar[int]

    @property
    @abstractmethod
    def label(self) -> str:
        """Short name as users type it: "W4", "A8", "keep0.75", "float"."""

    @abstractmethod
    def effect(self, site: Site) -> Effect: ...

    @abstractmethod
    def needs(self, site: Site, graph: Graph) -> tuple[Statistic, ...]:
        """Statistics of the original network that `apply` reads."""

    @abstractmethod
    def apply(
        self, module: nn.Module, *, touch: Touch, site: Site, graph: Graph, stats: Stats
    ) -> nn.Module:
        """A module to stand in for `module` at `touch`; `module` itself is left as it is."""

    @property
    def is_original(self) -> bool:
        """True for the option that changes nothing."""
        return False


def kept_tokens(arriving: int, share: float) -> int:
    """Tokens that go on: the first one, and a share of the others, rounded up."""
    # a product such as 0.1 * 30 lies above the whole number that it stands for
    return 1 + math.ceil(share * (arriving - 1) - 1e-9)


def count(shape: torch.Size | tuple[int, ...]) -> int:
    """Number of elements of a shape."""
    n = 1
    for s in shape:
        n *= int(s)
    return n
