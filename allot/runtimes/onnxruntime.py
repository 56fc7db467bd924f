"""ONNX Runtime on the CPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from allot.runtimes.blocks import for_onnxruntime
from allot.runtimes.kernels import CpuTarget, computes
from allot.runtimes.lowering import lower
from allot.site import Graph, Site
from allot.target import Arrays, Session, Workload


@dataclass(frozen=True, kw_only=True)
class OnnxRuntime(CpuTarget):
    """The CPU provider of ONNX Runtime.

    It has fast kernels for convolutions from codes to codes and for linears from codes to floats;
    see `allot.runtimes.lowering`.  A convolution whose result is a term of a sum, say, therefore
    needs codes there too: they are one choice with those of its input.  Only a convolution over
    very few channels stays float all the same, for it is faster so.
    """

    name: ClassVar[str] = "onnxruntime-cpu"
    package: ClassVar[str] = "onnxruntime"

    def tied(self, site: Site, graph: Graph) -> tuple[str, ...]:
        made = {f"{module}.result" for module in site.reach} if site.kind == "activation" else ()
        return tuple(s.name for s in graph.results if s.name in made)

    def computes(self, weight_bits: float, input_bits: float) -> tuple[float, float]:
        return computes(weight_bits, input_bits)

    def load(self, onnx: bytes, workload: Workload) -> Session:
        return _Session(lower(for_onnxruntime(onnx)), workload)


class _Session:
    def __init__(self, onnx: bytes, workload: Workload) -> None:
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = workload.threads
        settings.inter_op_num_threads = 1
        settings.log_severity_level = 3
        settings.add_session_config_entry("session.disable_quant_qdq", "1")
        self._session: Any = onnxruntime.InferenceSession(
            onnx,
            settings,
            providers=["CPUExecutionProvider"],
            # it quantizes float convolutions that lie between quantized ones
            disabled_optimizers=["WeightBiasQuantization"],
        )
        self._outputs = [x.name for x in self._session.get_outputs()]

    def run(self, inputs: Arrays) -> dict[str, NDArray[np.generic]]:
        found = self._session.run(self._outputs, dict(inputs))
        return dict(zip(self._outputs, found, strict=True))
