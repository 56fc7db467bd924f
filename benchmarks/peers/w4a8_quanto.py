"""Hugging Face Quanto at W4A8 on ResNet-20: qint4 weights, qint8 activations.

    PEER/bin/python benchmarks/peers/w4a8_quanto.py --out benchmarks/results/peer_w4a8.json

with w4a8_quanto.requirements.txt and a C++ compiler.  Quanto's 4-bit weights have a zero point
and, of its own accord, a scale per group of 128 weights where that divides.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
import w4a8
from optimum.quanto import Calibration, QTensor, freeze, qint4, qint8, quantize
from optimum.quanto.nn import QModuleMixin
from torch import Tensor
from w4a8 import Quantized, Setting

from allot.task import Task


def quantized(*, groups: bool) -> Any:
    def make(task: Task, inputs: Tensor) -> Quantized:
        model = copy.deepcopy(task.model)
        quantize(model, weights=qint4, activations=qint8)
        layers = {n: m for n, m in model.named_modules() if isinstance(m, QModuleMixin)}
        if not groups:
            for m in layers.values():
                m.weight_group_size = None
        with torch.no_grad(), Calibration():
            for batch in inputs.split(w4a8.BATCH):
                model(batch)
        freeze(model)
        weights = {n: m.weight.dequantize().detach() for n, m in layers.items()}
        facts = {"layers_that_read_8_bit": reading(model, layers, inputs[: w4a8.BATCH])}
        return Quantized(run=run(model), weights=weights, facts=facts)

    return make


def reading(model: Any, layers: Mapping[str, Any], inputs: Tensor) -> int:
    """How many of the layers are given quantized inputs: Quanto quantizes what a layer puts out,
    and a batch norm or an addition behind it makes floats of that."""
    found: set[str] = set()

    def watch(name: str) -> Any:
        def before(module: Any, args: Any) -> None:
            if isinstance(args[0], QTensor):
                found.add(name)

        return before

    hooks = [m.register_forward_pre_hook(watch(n)) for n, m in layers.items()]
    with torch.no_grad():
        model(inputs)
    for h in hooks:
        h.remove()
    return len(found)


def run(model: Any) -> Any:
    def forward(x: Tensor) -> Tensor:
        out = model(x)
        return out if type(out) is Tensor else out.dequantize()

    return forward


SETTINGS = {
    "channel": Setting(
        said="qint4 with zero point, group size taken away so that scales are per channel; qint8",
        make=quantized(groups=False),
    ),
    "groups": Setting(
        said="qint4 with zero point and Quanto's own groups of up to 128 weights; qint8",
        make=quantized(groups=True),
    ),
}

if __name__ == "__main__":
    w4a8.main("Hugging Face Quanto", SETTINGS, ("optimum-quanto", "torch", "numpy"))
