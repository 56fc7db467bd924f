"""NVIDIA ModelOpt at W4A8 on ResNet-20: mtq.quantize, int4 per output channel, int8 per tensor.

    PEER/bin/python benchmarks/peers/w4a8_modelopt.py --out benchmarks/results/peer_w4a8.json

with modelopt_auto_quantize.requirements.txt.
"""

from __future__ import annotations

import copy
from typing import Any

import modelopt.torch.quantization as mtq
import w4a8
from torch import Tensor, nn
from w4a8 import Quantized, Setting

from allot.task import Task


def config(algorithm: Any) -> dict[str, Any]:
    return {
        "quant_cfg": [
            {"quantizer_name": "*", "enable": False},
            {"quantizer_name": "*weight_quantizer", "cfg": {"num_bits": 4, "axis": 0}},
            {"quantizer_name": "*input_quantizer", "cfg": {"num_bits": 8, "axis": None}},
        ],
        "algorithm": algorithm,
    }


def quantized(algorithm: Any) -> Any:
    def make(task: Task, inputs: Tensor) -> Quantized:
        def calibrate(model: nn.Module) -> None:
            for batch in inputs.split(w4a8.BATCH):
                model(batch)

        model = mtq.quantize(copy.deepcopy(task.model), config(algorithm), calibrate)
        layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
        acting = sum(m.input_quantizer.is_enabled for m in layers.values())
        weights = {n: m.weight_quantizer(m.weight).detach() for n, m in layers.items()}
        return Quantized(run=model, weights=weights, facts={"activation_quantizers": acting})

    return make


SETTINGS = {
    "max": Setting(said="algorithm max", make=quantized("max")),
    "mse": Setting(said="algorithm mse: weight ranges of least error", make=quantized("mse")),
    "smoothquant": Setting(said="algorithm smoothquant", make=quantized("smoothquant")),
    "gptq": Setting(said="algorithm gptq", make=quantized("gptq")),
}

if __name__ == "__main__":
    w4a8.main("NVIDIA ModelOpt", SETTINGS, ("nvidia-modelopt", "torch", "numpy"))
