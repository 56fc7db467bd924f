"""Running: an integer graph in ONNX Runtime, and the float graph on what its codes stand for."""

from __future__ import annotations

from typing import Any

import numpy as np

from allot.integer_only.graph import IntegerGraph, codes
from allot.integer_only.onnx import to_onnx


def session(onnx: bytes, *, fused: bool = True) -> Any:
    """fused: quantized nodes may become kernels, which round otherwise."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.log_severity_level = 3
    settings.add_session_config_entry("session.disable_quant_qdq", "0" if fused else "1")
    return onnxruntime.InferenceSession(onnx, settings, providers=["CPUExecutionProvider"])


def ran(graph: IntegerGraph, x: np.ndarray) -> np.ndarray:
    found: np.ndarray = session(to_onnx(graph)).run(None, {"input": x})[0]
    return found


def in_float(onnx: bytes, graph: IntegerGraph, x: np.ndarray) -> np.ndarray:
    """The QDQ graph on what the codes stand for."""
    port = graph.inputs[0]
    real = (x.astype(np.float32) - port.zero) * np.float32(port.scale)
    assert np.array_equal(codes(port, real), x.clip(port.low, port.high))
    found: np.ndarray = session(onnx, fused=False).run(None, {"input": real})[0]
    return found
