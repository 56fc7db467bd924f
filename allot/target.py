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
class Target(Part):
    """A runtime. bills: the budgets it can state ("size", "bitops", "latency")."""

    name: ClassVar[str]
    bills: ClassVar[tuple[str, ...]]
    install: ClassVar[str] = ""

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

    @abstractmethod
    def computes(self, weight_bits: float, input_bits: float) -> tuple[float, float]:
        """Bits of the format in which a layer with this weight and input format computes."""

    @abstractmethod
    def open(self, onnx: bytes, *, workload: Workload) -> Session:
        """The network of an ONNX file, float parts in float32; raises MissingError."""
