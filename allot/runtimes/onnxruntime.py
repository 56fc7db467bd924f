"""ONNX Runtime on the CPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from allot.runtimes.kernels import CpuTarget
from allot.target import Arrays, Session, Workload


@dataclass(frozen=True, kw_only=True)
class OnnxRuntime(CpuTarget):
    """The CPU provider of ONNX Runtime.

    It runs a convolution in int8 only with an integer bias and a quantized output, which our
    graphs do not have; otherwise it would expand the weights at every call (ResNet-20: twice the
    float time). So it expands them once, on load, and computes in float: the right values, at no
    gain in speed.
    """

    name: ClassVar[str] = "onnxruntime-cpu"
    package: ClassVar[str] = "onnxruntime"

    def computes(self, weight_bits: float, input_bits: float) -> tuple[float, float]:
        return 32.0, 32.0

    def load(self, onnx: bytes, workload: Workload) -> Session:
        return _Session(onnx, workload)


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
