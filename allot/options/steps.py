"""Steps: what one step of a sampler does: computes all, takes parts from before, or is left out."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from allot.errors import InputError
from allot.option import Effect, Option, Statistic, Stats
from allot.sampling.sampler import Dropped, Step, Way
from allot.sampling.spans import HOLD, Predictor, Span
from allot.site import Graph, Site, Touch


class StepOption(Option):
    """One way to take a step.

    bits: of tensors between layers during the step, None for float; a tensor whose own site says
    float stays so.
    """

    kind: ClassVar[str] = "step"
    level: ClassVar[int] = 0
    bits: int | None

    @property
    @abstractmethod
    def taken(self) -> bool:
        """Whether the network is evaluated."""

    @property
    def left(self) -> tuple[str, ...]:
        """Modules of the denoiser that are not computed."""
        return ()

    def computes(self, module: str) -> bool:
        """Whether a module of the denoiser, by its qualified name there, is computed."""
        return self.taken and not any(module == m or module.startswith(f"{m}.") for m in self.left)

    def effect(self, site: Site) -> Effect:
        return Effect(compute_bits=32.0 if self.bits is None else self.bits, gone=not self.taken)

    def needs(self, site: Site, graph: Graph) -> tuple[Statistic, ...]:
        return ()


@dataclass(frozen=True, kw_only=True)
class Compute(StepOption):
    """The whole network; without bits the original."""

    bits: int | None = None

    @property
    def label(self) -> str:
        return "compute" if self.bits is None else f"compute-A{self.bits}"

    @property
    def is_original(self) -> bool:
        return self.bits is None

    @property
    def taken(self) -> bool:
        return True

    def apply(
        self, module: nn.Module, *, touch: Touch, site: Site, graph: Graph, stats: Stats
    ) -> nn.Module:
        return Step(index=_index(module), way=Way(bits=self.bits))


@dataclass(frozen=True, kw_only=True)
class Drop(StepOption):
    """No step: the one before leads on to the one after."""

    bits: int | None = None

    @property
    def label(self) -> str:
        return "drop"

    @property
    def taken(self) -> bool:
        return False

    def apply(
        self, module: nn.Module, *, touch: Touch, site: Site, graph: Graph, stats: Stats
    ) -> nn.Module:
        return Dropped()


@dataclass(frozen=True, kw_only=True)
class Reuse(StepOption):
    """The network without some spans, whose results are predicted from earlier steps.

    name: of the spans together.
    """

    name: str = ""
    spans: tuple[Span, ...]
    predictor: Predictor = HOLD
    bits: int | None = None

    def __post_init__(self) -> None:
        if not self.spans:
            raise InputError("a step that reuses something names at least one span")

    @property
    def label(self) -> str:
        names = (self.name or "+".join(s.name for s in self.spans)).replace(" ", "-")
        bits = "" if self.bits is None else f"-A{self.bits}"
        return f"reuse-{names}-{self.predictor.label}{bits}"

    @property
    def taken(self) -> bool:
        return True

    @property
    def left(self) -> tuple[str, ...]:
        return tuple(m for s in self.spans for m in s.modules)

    def apply(
        self, module: nn.Module, *, touch: Touch, site: Site, graph: Graph, stats: Stats
    ) -> nn.Module:
        way = Way(reuse=dict.fromkeys(self.spans, self.predictor), bits=self.bits)
        return Step(index=_index(module), way=way)


def _index(module: nn.Module) -> int:
    assert isinstance(module, Step)
    return module.index
