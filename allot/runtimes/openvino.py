"""OpenVINO on the CPU: int8 kernels for quantized layers, float32 or bfloat16 for the rest."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from allot.processor import device, instructions
from allot.runtimes.blocks import for_openvino
from allot.runtimes.kernels import CpuTarget, computes
from allot.runtimes.terms import rounded_terms
from allot.target import Arrays, Session, Tolerance, Workload

# one of these is enough
_BF16 = ("avx512_bf16", "amx_bf16", "bf16")


@dataclass(frozen=True, kw_only=True)
class OpenVino(CpuTarget):
    """The CPU plugin of OpenVINO with reduced precision of float parts switched off."""

    name: ClassVar[str] = "openvino-cpu"
    package: ClassVar[str] = "openvino"

    def computes(self, weight_bits: float, input_bits: float) -> tuple[float, float]:
        return computes(weight_bits, input_bits)

    def load(self, onnx: bytes, workload: Workload) -> Session:
        return _Session(onnx, workload, floats="f32")


@dataclass(frozen=True, kw_only=True)
class OpenVinoBf16(CpuTarget):
    """The same with every float part in bfloat16: one switch for the whole network.

    Eight bits of significand round tensors between layers about as much as 8-bit codes do, and
    the search does not see it: on ResNet-20, all in int8, 0.5 % of the answers change and the
    output moves by 4e-4 nats.  A certificate is stated of the file's outputs and covers it.
    """

    name: ClassVar[str] = "openvino-bf16-cpu"
    package: ClassVar[str] = "openvino"
    tolerance: ClassVar[Tolerance] = Tolerance(mean_nat=5e-3, agreement=0.97)

    def missing(self) -> str:
        lacking = CpuTarget.missing(self)
        if lacking or set(_BF16) & set(instructions()):
            return lacking
        return (
            f"{self.name} needs a processor with {' or '.join(_BF16)}, which {device()} is not: "
            "use openvino-cpu"
        )

    def version(self) -> str:
        found = CpuTarget.version(self)
        return found and f"{found} bf16"

    def computes(self, weight_bits: float, input_bits: float) -> tuple[float, float]:
        found = computes(weight_bits, input_bits)
        return found if max(found) <= 8 else (16.0, 16.0)

    def load(self, onnx: bytes, workload: Workload) -> Session:
        return _Session(onnx, workload, floats="bf16")


class _Session:
    """One network; compiled for the first shapes of the workload's batch, and for any when others
    come."""

    def __init__(self, onnx: bytes, workload: Workload, *, floats: str) -> None:
        self._workload, self._floats = workload, floats
        self._onnx, self._live = for_openvino(rounded_terms(onnx))
        self._requests: dict[bool, tuple[Any, tuple[str, ...]]] = {}
        self._planned: dict[str, tuple[int, ...]] = {}

    def run(self, inputs: Arrays) -> dict[str, NDArray[np.generic]]:
        shapes = {name: x.shape for name, x in inputs.items()}
        if not self._planned and {s[0] for s in shapes.values()} == {self._workload.batch}:
            self._planned = shapes
        planned = shapes == self._planned
        if planned not in self._requests:
            self._requests[planned] = self._compile(inputs if planned else {})
        request, names = self._requests[planned]
        import openvino

        for name, x in inputs.items():
            # read in place; a dict given to infer() takes a fifth of a small network's time
            held = np.require(x, requirements=("C", "W"))
            request.set_tensor(name, openvino.Tensor(held, shared_memory=True))
        request.infer()
        # copies: the next call does not write over them
        return {name: request.get_output_tensor(i).data.copy() for i, name in enumerate(names)}

    def _compile(self, fixed: Mapping[str, NDArray[np.generic]]) -> tuple[Any, tuple[str, ...]]:
        import openvino

        core = openvino.Core()
        model = core.read_model(io.BytesIO(self._onnx))
        if fixed:
            model.reshape({name: list(x.shape) for name, x in fixed.items()})
        settings = {
            "INFERENCE_PRECISION_HINT": self._floats,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": str(self._workload.threads),
            # pinned, the calling thread is moved to a core and back at every call: 0.3 ms
            "ENABLE_CPU_PINNING": "NO",
            # float parts stay float: no quantizing of activations but where the file asks for it
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": str(self._live),
        }
        compiled = core.compile_model(model, "CPU", settings)
        names = tuple(port.get_any_name() for port in compiled.outputs)
        return compiled.create_infer_request(), names
