"""Kernels: what the two CPU runtimes can compute, said once for both."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from importlib import metadata, util
from typing import ClassVar

from allot.errors import MissingError
from allot.num.blocks import SIZES
from allot.option import FIXED, GROUPS, OTHER, Effect, Option
from allot.site import Graph, Site
from allot.target import Session, Target, Workload

CHANNELS = 8


def can(option: Option, site: Site, graph: Graph, *, name: str) -> str:
    """ "" where a CPU runtime runs the option, else why not.

    Weights of 2 to 8 bits are stored packed: linears compute from integers in groups as they are,
    others are expanded to int8, for which there are kernels, or to float where they are on another
    format; tensors between layers are 8-bit integers or float; channels come in groups of 8.  A
    block that is left out needs no kernel; rows of a table are looked up in codes and put back into
    float; tokens are left out by TopK and GatherElements, which both have.
    """
    if option.is_original:
        return ""
    effect = option.effect(site)
    if option.kind == "weight":
        fits = 2 <= effect.stored_bits <= 8
        return "" if fits else f"{name} stores weights of 2 to 8 bits"
    if option.kind == "activation":
        if effect.compute_bits != 8:
            return f"{name} computes with 8-bit integers only"
        return ranges(effect, site, graph, name=name)
    if option.kind in ("block", "tokens", "embedding"):
        return ""
    if option.kind == "channels":
        step = channel_step(site.shape[0])
        return "" if effect.keep % step == 0 else f"{name} keeps channels in multiples of {step}"
    return f"{name} has no kernel for {option.kind} options"


def ranges(effect: Effect, site: Site, graph: Graph, *, name: str) -> str:
    """ "" where a tensor's ranges can be found as an option wants them, else why not."""
    if effect.ranges == OTHER:
        return (
            f"{name} takes tensors of one range that is known beforehand, or signed integers with "
            "ranges found at run time"
        )
    ops = {graph.layer(m).op for m in site.reach}
    if effect.ranges != FIXED and ops != {"linear"}:
        return f"{name} finds ranges at run time for what linears alone read"
    if effect.ranges == GROUPS and effect.group not in SIZES:
        return f"{name} finds ranges of {', '.join(map(str, SIZES))} channels, not {effect.group}"
    return ""


def channel_step(size: int) -> int:
    """Vector kernels work on 8 channels; a group that is no multiple of 8 has no finer step."""
    return CHANNELS if size > CHANNELS else size


def computes(weight_bits: float, input_bits: float) -> tuple[float, float]:
    """8 x 8 where both are integers, 32 x 32 otherwise."""
    integer = weight_bits <= 8 and input_bits <= 8
    return (8.0, 8.0) if integer else (32.0, 32.0)


def missing(package: str, name: str, install: str) -> str:
    """ "" where a package can be imported, else one sentence with the command that gets it."""
    if util.find_spec(package) is not None:
        return ""
    return f"{name} needs {package}, which is not installed: {install}"


def version(package: str) -> str:
    """Package and version, "" where it is not installed; imports nothing."""
    if util.find_spec(package) is None:
        return ""
    return f"{package} {metadata.version(package)}"


@dataclass(frozen=True, kw_only=True)
class CpuTarget(Target):
    """A CPU runtime that is a Python package; what is its own is how it loads and runs a file."""

    bills: ClassVar[tuple[str, ...]] = ("size", "bitops", "memory", "latency")
    install: ClassVar[str] = "pip install 'allot[cpu]'"
    package: ClassVar[str]

    def missing(self) -> str:
        return missing(self.package, self.name, self.install)

    def version(self) -> str:
        return version(self.package)

    def can(self, option: Option, site: Site, graph: Graph) -> str:
        return can(option, site, graph, name=self.name)

    def channel_step(self, size: int) -> int:
        return channel_step(size)

    def activation_bits(self) -> tuple[int, ...]:
        return (8,)

    def open(self, onnx: bytes, *, workload: Workload) -> Session:
        if self.missing():
            raise MissingError(self.missing())
        return self.load(onnx, workload)

    @abstractmethod
    def load(self, onnx: bytes, workload: Workload) -> Session:
        """`open` where the package is known to be installed."""
