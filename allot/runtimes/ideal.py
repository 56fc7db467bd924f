"""Ideal: a target that computes in any format; it states bytes and BitOPs, and nothing of time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from allot.errors import MissingError
from allot.option import GROUPS, LIVE, Option
from allot.runtimes.kernels import ranges
from allot.runtimes.onnxruntime import OnnxRuntime
from allot.site import Graph, Site
from allot.target import Session, Target, Workload

PARTS = 8


@dataclass(frozen=True, kw_only=True)
class Ideal(Target):
    """Weights of 2 to 8 bits, activations of 4, 6 and 8 bits, channels in eighths; any block and
    any number of tokens may be left out.

    There is no such machine. Its files hold the right values in formats that exist and run,
    at no gain in speed, through ONNX Runtime.
    """

    name: ClassVar[str] = "ideal"
    bills: ClassVar[tuple[str, ...]] = ("size", "bitops", "memory")
    install: ClassVar[str] = ""

    def missing(self) -> str:
        return ""

    def version(self) -> str:
        return "ideal 1"

    def can(self, option: Option, site: Site, graph: Graph) -> str:
        if option.is_original:
            return ""
        effect = option.effect(site)
        if option.kind in ("block", "tokens", "embedding"):
            return ""
        if option.kind == "weight":
            fits = 2 <= effect.stored_bits <= 8
            return "" if fits else "ideal takes weights of 2 to 8 bits"
        if option.kind == "activation":
            if effect.compute_bits not in self.activation_bits():
                return "ideal takes activations of 4, 6 or 8 bits"
            if effect.ranges in (LIVE, GROUPS) and effect.compute_bits != 8:
                return "allot writes no file yet for ranges found at run time in fewer than 8 bits"
            # its files run through a CPU runtime
            return ranges(effect, site, graph, name=self.name)
        step = self.channel_step(site.shape[0])
        return "" if effect.keep % step == 0 else f"ideal keeps channels in multiples of {step}"

    def channel_step(self, size: int) -> int:
        return max(1, size // PARTS)

    def activation_bits(self) -> tuple[int, ...]:
        return (4, 6, 8)

    def computes(self, weight_bits: float, input_bits: float) -> tuple[float, float]:
        return weight_bits, input_bits

    def open(self, onnx: bytes, *, workload: Workload) -> Session:
        stand_in = OnnxRuntime()
        if stand_in.missing():
            raise MissingError(
                "the ideal target is no machine and runs nothing; its files run through ONNX "
                f"Runtime, which is not installed: {stand_in.install}"
            )
        return stand_in.open(onnx, workload=workload)
