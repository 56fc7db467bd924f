"""OpenVINO on the CPU: int8 kernels for quantized layers, float32 for the rest."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from allot.runtimes.kernels import CpuTarget, computes
from allot.target import Arrays, Session, Workload


@dataclass(frozen=True, kw_only=True)
class OpenVino(CpuTarget):
    """The CPU plugin of OpenVINO with reduced precision of float parts switched off."""

    name: ClassVar[str] = "openvino-cpu"
    package: ClassVar[str] = "openvino"

    def computes(self, weight_bits: float, input_bits: float) -> tuple[float, float]:
        return computes(weight_bits, input_bits)

    def load(self, onnx: bytes, workload: Workload) -> Session:
        return _Session(onnx, workload)


class _Session:
    """One network; compiled for the workload's batch, and for any batch when another comes."""

    def __init__(self, onnx: bytes, workload: Workload) -> None:
        self._onnx, self._workload = onnx, workload
        self._requests: dict[bool, Any] = {}

    def run(self, inputs: Arrays) -> dict[str, NDArray[np.generic]]:
        planned = {len(x) for x in inputs.values()} == {self._workload.batch}
        if planned not in self._requests:
            self._requests[planned] = self._compile(inputs if planned else {})
        request = self._requests[planned]
        # inputs are read in place, outputs are copies: the next call does not write over them
        found = request.infer(dict(inputs), share_inputs=True, share_outputs=False)
        return {port.get_any_name(): value for port, value in found.items()}

    def _compile(self, fixed: Mapping[str, NDArray[np.generic]]) -> Any:
        import openvino

        core = openvino.Core()
        model = core.read_model(io.BytesIO(self._onnx))
        if fixed:
            model.reshape({name: list(x.shape) for name, x in fixed.items()})
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": str(self._workload.threads),
            # float parts stay float: no quantizing of activations behind our back
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
        }
        return core.compile_model(model, "CPU", settings).create_infer_request()
