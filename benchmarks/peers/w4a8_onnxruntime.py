"""ONNX Runtime at W4A8 on ResNet-20: quantize_static with QInt4 weights per channel.

    PEER/bin/python benchmarks/peers/w4a8_onnxruntime.py --out benchmarks/results/peer_w4a8.json

with w4a8_onnxruntime.requirements.txt.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
import w4a8
from onnx import numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor
from w4a8 import Quantized, Setting

from allot.task import Task


class Reader(CalibrationDataReader):
    """Batches of the calibration images, once."""

    def __init__(self, inputs: Tensor) -> None:
        self.batches: Iterator[Tensor] = iter(inputs.split(w4a8.BATCH))

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.batches, None)
        return None if batch is None else {"input": batch.numpy()}


def quantized(method: CalibrationMethod, **extra: Any) -> Any:
    def make(task: Task, inputs: Tensor) -> Quantized:
        with tempfile.TemporaryDirectory() as folder:
            plain, ready, done = (str(Path(folder) / f"{n}.onnx") for n in ("a", "b", "c"))
            torch.onnx.export(
                task.model, (inputs[:2],), plain, opset_version=21, input_names=["input"],
                dynamic_axes={"input": {0: "n"}}, dynamo=False,
            )  # fmt: skip
            quant_pre_process(plain, ready)
            quantize_static(
                ready, done, Reader(inputs), quant_format=QuantFormat.QDQ, per_channel=True,
                activation_type=QuantType.QUInt8, weight_type=QuantType.QInt4,
                calibrate_method=method, extra_options=extra,
            )  # fmt: skip
            return opened(done)

    return make


def opened(file: str) -> Quantized:
    """The file as ONNX Runtime runs it, and the weights that it holds."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])

    def run(x: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"input": x.numpy()})[0])

    model = onnx.load(file)
    quantizers = sum(n.op_type == "QuantizeLinear" for n in model.graph.node)
    facts = {"activation_quantizers": quantizers, "bytes": Path(file).stat().st_size}
    return Quantized(run=run, weights=weights(model), facts=facts)


def weights(model: onnx.ModelProto) -> dict[str, Tensor]:
    """What the second input of every convolution and matrix product stands for, output first."""
    values = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    makers = {o: n for n in model.graph.node for o in n.output}
    found = {}
    for node in model.graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul"):
            continue
        name = node.input[1]
        maker = makers.get(name)
        codes = values[maker.input[0] if maker else name].astype(np.float32)
        if node.op_type != "Conv" and not transposed(node):
            codes = codes.T
        # a scale per output channel changes no count of distinct values in it
        found[name] = torch.from_numpy(np.ascontiguousarray(codes))
    return found


def transposed(node: onnx.NodeProto) -> bool:
    """Whether a matrix product reads its weight as [out, in]."""
    return any(a.name == "transB" and a.i for a in node.attribute)


SETTINGS = {
    "minmax": Setting(
        said="QDQ, QInt4 weights per channel, QUInt8 activations, MinMax",
        make=quantized(CalibrationMethod.MinMax),
    ),
    "percentile": Setting(
        said="the same with Percentile", make=quantized(CalibrationMethod.Percentile)
    ),
    "entropy": Setting(said="the same with Entropy", make=quantized(CalibrationMethod.Entropy)),
}

if __name__ == "__main__":
    w4a8.main("ONNX Runtime", SETTINGS, ("onnxruntime", "onnx", "torch", "numpy"))
