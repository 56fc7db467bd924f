"""torchao at W4A8 on ResNet-20: graph quantization (PT2E) with 4-bit weights, and `quantize_`.

    PEER/bin/python benchmarks/peers/w4a8_torchao.py --out benchmarks/results/peer_w4a8.json

with w4a8_torchao.requirements.txt.  `quantize_` changes linear layers alone, so the convolutions
stay in float there; PT2E with the quantizer for x86 takes convolutions, whose weights are given 16
levels of int8.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
import w4a8
from torch import Tensor, fx, nn
from torchao.quantization import Int8DynamicActivationIntxWeightConfig, PerAxis, quantize_
from torchao.quantization.pt2e import HistogramObserver, MinMaxObserver
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
    X86InductorQuantizer,
    get_default_x86_inductor_quantization_config,
)
from w4a8 import Quantized, Setting

from allot.task import Task

MULTIPLYING = ("conv2d", "linear")


def config(observer: Any) -> Any:
    """The configuration for x86 with weights in 16 levels and ranges of tensors by an observer."""
    usual = get_default_x86_inductor_quantization_config()
    tensor = replace(
        usual.input_activation, observer_or_fake_quant_ctr=observer.with_args(eps=2**-12)
    )
    return replace(
        usual,
        input_activation=tensor,
        output_activation=tensor,
        weight=replace(usual.weight, quant_min=-8, quant_max=7),
    )


def graph(observer: Any) -> Any:
    def make(task: Task, inputs: Tensor) -> Quantized:
        batch = inputs[: w4a8.BATCH]
        shapes = ({0: torch.export.Dim("n", min=2, max=1000)},)
        model = torch.export.export(task.model, (batch,), dynamic_shapes=shapes).module()
        quantizer = X86InductorQuantizer().set_global(config(observer))
        prepared = prepare_pt2e(model, quantizer)
        for x in inputs.split(w4a8.BATCH):
            prepared(x)
        made = convert_pt2e(prepared)
        quantizers = sum("quantize_per_tensor" in str(n.target) for n in made.graph.nodes)
        # each is followed by one that gives floats again
        facts = {"activation_quantizers": quantizers // 2}
        return Quantized(run=made, weights=weights(made), facts=facts)

    return make


def weights(model: fx.GraphModule) -> dict[str, Tensor]:
    """What stands for the weight of every convolution and matrix product, output first."""
    found = {}
    for node in model.graph.nodes:
        if node.op != "call_function" or node.target.__name__.split(".")[0] not in MULTIPLYING:
            continue
        value = node.args[1]
        # a scale per output channel changes no count of distinct values in it
        held = value if value.op == "get_attr" else value.args[0]
        found[node.name] = held_by(model, held)
    return found


def held_by(model: fx.GraphModule, node: fx.Node) -> Tensor:
    value: Any = model
    for part in str(node.target).split("."):
        value = getattr(value, part)
    tensor: Tensor = value
    return tensor.detach()


def linears(task: Task, inputs: Tensor) -> Quantized:
    """`quantize_` with every layer that it takes: int4 per output channel, int8 at run time."""
    model = copy.deepcopy(task.model)
    quantize_(
        model,
        Int8DynamicActivationIntxWeightConfig(
            weight_dtype=torch.int4, weight_granularity=PerAxis(0)
        ),
    )
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    changed = {n for n, m in layers.items() if type(m.weight.data) is not Tensor}
    found = {n: m.weight.dequantize() if n in changed else m.weight for n, m in layers.items()}
    return Quantized(run=model, weights=found, facts={"layers_quantized": len(changed)})


SETTINGS = {
    "graph_histogram": Setting(
        said="PT2E for x86: weights per channel in -8..7, tensors by HistogramObserver",
        make=graph(HistogramObserver),
    ),
    "graph_min_max": Setting(
        said="PT2E for x86: weights per channel in -8..7, tensors by MinMaxObserver",
        make=graph(MinMaxObserver),
    ),
    "quantize_": Setting(
        said="quantize_ with Int8DynamicActivationIntxWeightConfig, int4 per channel: it takes "
        "linear layers alone",
        make=linears,
    ),
}

if __name__ == "__main__":
    w4a8.main("torchao", SETTINGS, ("torchao", "torch", "numpy"))
