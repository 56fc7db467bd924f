"""ResNet-20 in integers alone: equal to the reference in every bit, as accurate as with floats."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from allot.deploy import deploy
from allot.integer_only import reference
from allot.integer_only.graph import IntegerGraph, codes, reals
from allot.integer_only.lower import integer_only
from allot.integer_only.onnx import to_onnx as integer_onnx
from allot.onnx_graph import to_onnx
from allot.options.precision import Activation, Weight
from allot.recover import Recovery
from allot.scheme import Scheme, quantized
from allot.task import Data, Task
from benchmarks.figures import Figure, at_most, mean_interval
from benchmarks.tasks import resnet20

BATCH = 32
WEIGHT_BITS = (8, 4)
# inputs of random codes; as many real images are compared as there are of the test set
RANDOM, QUICK = 5000, 160


def run(quick: bool, seed: int) -> dict[str, Figure]:
    """Both precisions of weights, activations of 8 bits."""
    found: dict[str, Figure] = {}
    for bits in WEIGHT_BITS:
        found |= figures(resnet20(seed=seed), bits, quick=quick, seed=seed)
    return found


def figures(task: Task, bits: int, *, quick: bool, seed: int) -> dict[str, Figure]:
    """Inputs that differ from the reference; accuracy beside the float-rescaled file's."""
    onnx = exported(task, bits, seed=seed)
    graph, label = integer_only(onnx), f"ResNet-20 W{bits}A8 in integers alone"
    session = _session(integer_onnx(graph))
    judged = task.certify.subset(slice(0, 1000)) if quick else task.certify
    logits = _logits(graph, session, judged)
    differ, n = _differing(graph, session, task, quick=quick, seed=seed)
    points = _points(task, onnx, judged, logits)
    lost = 0.0 - 100 * float(points.mean())
    low, high = mean_interval(-100 * points)
    return {
        f"{label}: inputs of which one bit differs from the reference": at_most(
            differ, 0, n=n, seeds=[seed]
        ),
        f"{label}: points of top-1 below the float-rescaled file": at_most(
            lost, 0.3, n=len(points), seeds=[seed], interval=(low, high)
        ),
    }


def exported(task: Task, bits: int, *, seed: int) -> bytes:
    """The network at W`bits`A8, rounded in order and matched, as a file with float rescales."""
    scheme = Scheme(
        weight=Weight(bits=bits),
        activation=Activation(bits=8),
        recovery=Recovery(samples=512, in_order=True),
    )
    made = quantized(task, scheme, seed=seed)
    return to_onnx(deploy(made.network(), made.graph), made.task.example())


def _session(onnx: bytes) -> Any:
    """Of a file as it is: quantized nodes are not fused into kernels of another rounding."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.log_severity_level = 3
    settings.add_session_config_entry("session.disable_quant_qdq", "1")
    return onnxruntime.InferenceSession(onnx, settings, providers=["CPUExecutionProvider"])


def _logits(graph: IntegerGraph, session: Any, data: Data) -> torch.Tensor:
    """Outputs for real images [n, classes]."""
    whole = [
        session.run(None, {"input": codes(graph.inputs[0], x.numpy())})[0]
        for x in data.batches(BATCH)
        if isinstance(x, torch.Tensor)
    ]
    return torch.from_numpy(reals(graph.outputs[0], np.concatenate(whole)))


def _points(task: Task, onnx: bytes, data: Data, logits: torch.Tensor) -> np.ndarray:
    """What is gained per sample over the same file with float rescales [n]."""
    session = _session(onnx)
    found = torch.cat(
        [
            torch.from_numpy(session.run(None, {"input": x.numpy()})[0])
            for x in data.batches(BATCH)
            if isinstance(x, torch.Tensor)
        ]
    )
    assert data.labels is not None
    scores = [task.score(o, data.labels).double().numpy() for o in (found, logits)]
    return np.asarray(scores[1] - scores[0])


def _differing(
    graph: IntegerGraph, session: Any, task: Task, *, quick: bool, seed: int
) -> tuple[int, int]:
    """Inputs whose outputs differ anywhere from the reference, of all: random codes and images."""
    port, g = graph.inputs[0], np.random.default_rng(seed)
    drawn = g.integers(port.low, port.high + 1, (QUICK if quick else RANDOM, *port.shape))
    parts = [drawn.astype(np.uint8)]
    for data in (task.search, task.certify):
        assert isinstance(data.inputs, torch.Tensor)
        real = data.inputs[: QUICK // 2] if quick else data.inputs
        parts.append(codes(port, real.numpy()))
    whole, differ = np.concatenate(parts), 0
    for i in range(0, len(whole), BATCH):
        given = {"input": whole[i : i + BATCH]}
        pairs = session.run(None, given)[0] != reference.run(graph, given)["output"]
        differ += int(pairs.reshape(len(pairs), -1).any(1).sum())
    return differ, len(whole)
