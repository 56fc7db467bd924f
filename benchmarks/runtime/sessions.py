"""Sessions: files of other quantizers, and float ones, as their own runtime runs them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from allot.target import Arrays


class OnnxSession:
    """ONNX Runtime with its defaults on one thread, sizes of the inputs known beforehand."""

    def __init__(self, onnx: bytes, inputs: Arrays) -> None:
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = settings.inter_op_num_threads = 1
        settings.log_severity_level = 3
        self._session: Any = onnxruntime.InferenceSession(
            batched(onnx, len(next(iter(inputs.values())))),
            settings,
            providers=["CPUExecutionProvider"],
        )
        self._outputs = [x.name for x in self._session.get_outputs()]

    def run(self, inputs: Arrays) -> dict[str, NDArray[np.generic]]:
        found = self._session.run(self._outputs, dict(inputs))
        return dict(zip(self._outputs, found, strict=True))


class OpenVinoSession:
    """OpenVINO on one thread, float parts in bfloat16 or float32: as our own target opens it."""

    def __init__(self, path: Path, inputs: Arrays, *, floats: str) -> None:
        import openvino

        core = openvino.Core()
        model = core.read_model(path)
        model.reshape({name: list(x.shape) for name, x in inputs.items()})
        settings = {
            "INFERENCE_PRECISION_HINT": floats,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": "1",
            "ENABLE_CPU_PINNING": "NO",
        }
        self._request = core.compile_model(model, "CPU", settings).create_infer_request()

    def run(self, inputs: Arrays) -> dict[str, NDArray[np.generic]]:
        found = self._request.infer(dict(inputs), share_inputs=True, share_outputs=False)
        return {port.get_any_name(): value for port, value in found.items()}


def batched(onnx: bytes, batch: int) -> bytes:
    """The file with its first dim, which is free, set to a number."""
    import onnx as library

    proto = library.load(io.BytesIO(onnx), load_external_data=False)
    for value in [*proto.graph.input, *proto.graph.output]:
        dim = value.type.tensor_type.shape.dim[0]
        dim.Clear()
        dim.dim_value = batch
    return bytes(proto.SerializeToString(deterministic=True))
