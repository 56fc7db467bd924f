"""PyTorch on the CPU: eager, with oneDNN's int8 kernels for quantized layers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from allot.option import FIXED, Option
from allot.runtimes import kernels
from allot.runtimes.from_onnx.build import build
from allot.runtimes.from_onnx.read import read
from allot.runtimes.kernels import CpuTarget
from allot.runtimes.torch_kernels import OPERATORS, lowered
from allot.site import Graph, Site
from allot.target import Arrays, Session, Workload


@dataclass(frozen=True, kw_only=True)
class TorchCpu(CpuTarget):
    """torch on the CPU.  compiled: through torch.compile, which takes minutes for a network."""

    name: ClassVar[str] = "torch-cpu"
    package: ClassVar[str] = "torch"
    install: ClassVar[str] = "pip install torch"
    compiled: bool = False

    def missing(self) -> str:
        if not torch.backends.mkldnn.is_available():
            return f"{self.name} needs a torch that was built with oneDNN: {self.install}"
        return ""

    def version(self) -> str:
        return kernels.version(self.package) + (", compiled" if self.compiled else "")

    def can(self, option: Option, site: Site, graph: Graph) -> str:
        if option.kind == "activation" and option.effect(site).ranges != FIXED:
            return f"{self.name} takes tensors of one range that is known beforehand"
        return kernels.can(option, site, graph, name=self.name)

    def computes(self, weight_bits: float, input_bits: float) -> tuple[float, float]:
        return kernels.computes(weight_bits, input_bits)

    def load(self, onnx: bytes, workload: Workload) -> Session:
        return _Session(onnx, workload, compiled=self.compiled)


class _Session:
    def __init__(self, onnx: bytes, workload: Workload, *, compiled: bool) -> None:
        network = read(onnx)
        self._names, self._outputs = network.inputs, network.outputs
        self._threads = workload.threads
        module = build(lowered(network, compiled=compiled), operators=OPERATORS)
        self._run: Any = module
        if compiled:
            # weights become constants, which int8 kernels want
            self._run = torch.compile(module, dynamic=True, options={"freezing": True})

    def run(self, inputs: Arrays) -> dict[str, NDArray[np.generic]]:
        given = [torch.from_numpy(np.ascontiguousarray(inputs[n])) for n in self._names]
        with torch.inference_mode(), threads(self._threads):
            found = self._run(*given)
        # a copy: an output may be a view of an input or of another output
        outputs = (np.array(x.contiguous().numpy()) for x in found)
        return dict(zip(self._outputs, outputs, strict=True))


@contextmanager
def threads(n: int) -> Iterator[None]:
    """torch with so many threads within an operator, and with as many as before afterwards."""
    before = torch.get_num_threads()
    if before != n:
        torch.set_num_threads(n)
    try:
        yield
    finally:
        if before != n:
            torch.set_num_threads(before)
