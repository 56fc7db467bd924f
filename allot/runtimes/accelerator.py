"""Accelerator: a machine known by its description alone; it states seconds and joules per layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from allot.errors import MissingError
from allot.option import Option
from allot.part import Part
from allot.runtimes import kernels
from allot.runtimes.onnxruntime import OnnxRuntime
from allot.site import Graph, Site
from allot.target import Session, Target, Work, Workload


@dataclass(frozen=True, kw_only=True)
class Kernel(Part):
    """A format that the machine multiplies in: bits of weight and input, 16 and more are floats."""

    weight: int
    input: int
    macs_per_cycle: float
    pj_per_mac: float


@dataclass(frozen=True, kw_only=True)
class Accelerator(Target):
    """A machine described in a file (see `accelerator_file`); name: that file's, as it was given.

    A layer takes the longer of computing and moving (the roofline of Williams et al. 2009), layers
    one after another; it computes in the fastest format that holds both its weight and its input.
    Moved are the stored weight, the input, and the output, which is written as wide as the input is
    read; floats are held in the widest format.  Nothing else costs: no attention between tensors,
    no norms, no conversions.

    There is nothing to run: its files hold the right values and run through ONNX Runtime.
    """

    bills: ClassVar[tuple[str, ...]] = ("size", "bitops", "memory", "latency", "energy")
    states: ClassVar[tuple[str, ...]] = ("latency", "energy")
    name: str  # type: ignore[misc]
    title: str
    clock_hz: float
    bytes_per_second: float
    pj_per_byte: float
    channels: int
    formats: tuple[Kernel, ...]
    digest: str = field(default="", compare=False)

    def missing(self) -> str:
        return ""

    def version(self) -> str:
        return f"{self.title} {self.digest[:12]}".strip()

    @property
    def widest(self) -> Kernel:
        """What floats compute in."""
        return max(self.formats, key=lambda f: (f.weight, f.input))

    def kernel(self, weight_bits: float, input_bits: float) -> Kernel:
        """The fastest format that holds both; of equally fast ones the thriftiest."""
        weight, entering = min(weight_bits, self.widest.weight), min(input_bits, self.widest.input)
        able = [f for f in self.formats if f.weight >= weight and f.input >= entering]
        return min(able, key=lambda f: (-f.macs_per_cycle, f.pj_per_mac))

    def stated(self, work: Work) -> Mapping[str, float]:
        f = self.kernel(work.weight_bits, work.input_bits)
        moved = self.moved(work)
        computing = work.macs / (f.macs_per_cycle * self.clock_hz)
        return {
            "latency": max(computing, moved / self.bytes_per_second),
            "energy": 1e-12 * (work.macs * f.pj_per_mac + moved * self.pj_per_byte),
        }

    def moved(self, work: Work) -> float:
        """Bytes that a layer moves."""
        narrowed = min(1.0, self.widest.weight / work.stored_bits)
        bits = min(work.input_bits, self.widest.input)
        return work.weight_bytes * narrowed + (work.entering + work.leaving) * bits / 8

    def can(self, option: Option, site: Site, graph: Graph) -> str:
        if option.is_original or option.kind in ("block", "tokens", "embedding"):
            return ""
        effect = option.effect(site)
        if option.kind == "weight":
            fits = 2 <= effect.stored_bits <= 8
            return "" if fits else f"{self.title} stores weights of 2 to 8 bits"
        if option.kind == "activation":
            if effect.compute_bits not in self.activation_bits():
                have = ", ".join(map(str, self.activation_bits())) or "no"
                return f"{self.title} reads integers of {have} bits"
            return kernels.ranges(effect, site, graph, name=self.title)
        step = self.channel_step(site.shape[0])
        return "" if effect.keep % step == 0 else f"{self.title} keeps channels by {step}"

    def channel_step(self, size: int) -> int:
        return self.channels if size > self.channels else size

    def activation_bits(self) -> tuple[int, ...]:
        return tuple(sorted({f.input for f in self.formats if f.input <= 8}))

    def computes(self, weight_bits: float, input_bits: float) -> tuple[float, float]:
        f = self.kernel(weight_bits, input_bits)
        return float(f.weight), float(f.input)

    def open(self, onnx: bytes, *, workload: Workload) -> Session:
        stand_in = OnnxRuntime()
        if stand_in.missing():
            raise MissingError(
                f"{self.title} is a description and runs nothing; its files run through ONNX "
                f"Runtime, which is not installed: {stand_in.install}"
            )
        return stand_in.open(onnx, workload=workload)
