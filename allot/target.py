"""Target: a runtime on a device, asked first which options it has kernels for."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from allot.option import Option
from allot.part import Part
from allot.site import Graph, Site

Arrays = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What a bill is for: samples per call and threads."""

    batch: int = 32
    threads: int = 1


class Session(Protocol):
    """A loaded network, ready to run: input name -> array, returns output name -> array."""

    def run(self, inputs: Arrays) -> dict[str, NDArray[np.generic]]: ...


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one call asks of a machine in one layer, its whole batch counted.

    weight_bits, input_bits: of the formats that compute, 32 for floats.  stored_bits, weight_bytes:
    of the weight as it is stored, its scales and bias among the bytes.  entering, leaving: elements
    read and written.
    """

    macs: float
    weight_bits: float
    input_bits: float
    stored_bits: float
    weight_bytes: float
    entering: float
    leaving: float


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """What rounding in a runtime may cost against the simulation; a wrong scale or a lost layer
    costs more.

    mean_nat: most mean divergence.  agreement: least share of samples with the same largest output.
    """

    mean_nat: float = 1e-3
    agreement: float = 0.99


@dataclass(frozen=True, kw_only=True)
class Target(Part):
    """A runtime. bills: the budgets it can state ("size", "bitops", "latency").

    states: those of them that it says of a layer without running anything, by `stated`.
    tolerance: of its outputs; wider than the usual one where its floats are not float32.
    """

    name: ClassVar[str]
    bills: ClassVar[tuple[str, ...]]
    install: ClassVar[str] = ""
    states: ClassVar[tuple[str, ...]] = ()
    tolerance: ClassVar[Tolerance] = Tolerance()

    @abstractmethod
    def missing(self) -> str:
        """ "" where the runtime can be used here, else one sentence: what lacks, how to get it."""

    @abstractmethod
    def version(self) -> str:
        """Name and version of the runtime, or "" where it is missing."""

    @abstractmethod
    def can(self, option: Option, site: Site, graph: Graph) -> str:
        """ "" where the target has a kernel for the option at the site, else why it has not."""

    @abstractmethod
    def channel_step(self, size: int) -> int:
        """Channels of a group of `size` are kept in multiples of this."""

    @abstractmethod
    def activation_bits(self) -> tuple[int, ...]:
        """Widths of integer activations it computes with."""

    def tied(self, site: Site, graph: Graph) -> tuple[str, ...]:
        """Names of further sites that take the same option as this one, since no kernel has one
        without the other."""
        return ()

    @abstractmethod
    def computes(self, weight_bits: float, input_bits: float) -> tuple[float, float]:
        """Bits of the format in which a layer with this weight and input format computes."""

    def stated(self, work: Work) -> Mapping[str, float]:
        """What a layer's share of each bill in `states` is."""
        return {}

    @property
    def timed(self) -> bool:
        """Whether its latency is found by running it."""
        return "latency" in self.bills and "latency" not in self.states

    @abstractmethod
    def open(self, onnx: bytes, *, workload: Workload) -> Session:
        """The network of an ONNX file; raises MissingError."""
