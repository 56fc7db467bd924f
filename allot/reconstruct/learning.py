"""Learning: what finds better codes for a planned network than rounding layer by layer does."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

from allot.bank import Bank
from allot.option import Option
from allot.part import Part
from allot.reconstruct.units import Unit
from allot.recover import Moments
from allot.site import Graph
from allot.task import Task


@dataclass(frozen=True, kw_only=True, eq=False)
class Planned:
    """A network as its plan has it before anything is learned.

    options: site -> option.  standins: module -> what stands in for it; they are left as they are.
    original: `moments` of the original where statistics are matched to it, else None.  known:
    modules of the plan's beginning whose stand-ins are what learning gave for them before.
    """

    bank: Bank
    task: Task
    options: Mapping[str, Option]
    standins: Mapping[str, nn.Module]
    original: Moments | None
    seed: int
    progress: Callable[[float], None]
    known: frozenset[str] = frozenset()


class Learning(Part):
    """The last step of a recovery.  samples: calibration inputs that it sees."""

    samples: int

    def units(self, graph: Graph) -> tuple[Unit, ...]:
        """What is learned one after another, each for good and whatever comes behind it; empty
        where nothing is."""
        return ()

    @abstractmethod
    def learned(self, planned: Planned) -> dict[str, nn.Module]:
        """Stand-ins of a plan that start from those it has; the same seed gives the same."""
