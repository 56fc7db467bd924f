"""Qualcomm AIMET at W4A8 on ResNet-20: nearest, cross-layer equalization, AdaRound, SeqMSE.

    PEER/bin/python benchmarks/peers/w4a8_aimet.py --out benchmarks/results/peer_w4a8.json

with w4a8_aimet.requirements.txt.  aimet-torch imports torchvision, whose wheel for this torch
asks for operators that the CPU build of torch does not have; their names are declared first.
"""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

import torch
import w4a8
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from w4a8 import Quantized, Setting

from allot.task import Task

torch.library.define("torchvision::nms", "(Tensor dets, Tensor scores, float threshold) -> Tensor")
torch.library.define("torchvision::qnms", "(Tensor dets, Tensor scores, float threshold) -> Tensor")

from aimet_torch import QuantizationSimModel  # noqa: E402
from aimet_torch.adaround.adaround_weight import Adaround, AdaroundParameters  # noqa: E402
from aimet_torch.batch_norm_fold import fold_all_batch_norms  # noqa: E402
from aimet_torch.common.defs import QuantScheme  # noqa: E402
from aimet_torch.common.quantsim_config.utils import (  # noqa: E402
    get_path_for_per_channel_config,
)
from aimet_torch.cross_layer_equalization import equalize_model  # noqa: E402
from aimet_torch.model_preparer import prepare_model  # noqa: E402
from aimet_torch.seq_mse import apply_seq_mse  # noqa: E402

# AIMET's own default for weights below 8 bits is the larger; the smaller takes minutes here
SHORT, FULL = 1_000, 15_000


def prepared(task: Task, inputs: Tensor, *, equalize: bool) -> nn.Module:
    """The network with its batch norms folded, equalized or not."""
    model = prepare_model(copy.deepcopy(task.model))
    if equalize:
        equalize_model(model, dummy_input=inputs[:1])
    else:
        fold_all_batch_norms(model, None, dummy_input=inputs[:1])
    return model


def quantized(
    scheme: QuantScheme, *, equalize: bool = False, adaround: int = 0, seq_mse: bool = False
) -> Any:
    def make(task: Task, inputs: Tensor) -> Quantized:
        torch.manual_seed(0)  # AIMET draws its batches from the global generator
        model = prepared(task, inputs, equalize=equalize)
        with tempfile.TemporaryDirectory() as folder:
            if adaround:
                model = rounded(model, inputs, scheme, adaround, folder)
            sim = QuantizationSimModel(
                model, inputs[:1], quant_scheme=scheme, default_param_bw=4, default_output_bw=8,
                config_file=get_path_for_per_channel_config(),
            )  # fmt: skip
            if adaround:
                sim.set_and_freeze_param_encodings(str(Path(folder) / "rounded.encodings"))
        if seq_mse:
            apply_seq_mse(sim, loader(inputs), forward_fn=first)
        sim.compute_encodings(lambda m: [m(b) for b in inputs.split(w4a8.BATCH)])
        return opened(sim.model)

    return make


def rounded(
    model: nn.Module, inputs: Tensor, scheme: QuantScheme, iterations: int, folder: str
) -> nn.Module:
    """The network with learned rounding, its weight encodings in the folder."""
    batches = loader(inputs)
    found: nn.Module = Adaround.apply_adaround(
        model, inputs[:1],
        AdaroundParameters(
            batches, len(batches), default_num_iterations=iterations, forward_fn=first
        ),
        path=folder, filename_prefix="rounded", default_param_bw=4, default_quant_scheme=scheme,
        default_config_file=get_path_for_per_channel_config(),
    )  # fmt: skip
    return found


def loader(inputs: Tensor) -> DataLoader[Any]:
    return DataLoader(TensorDataset(inputs), batch_size=w4a8.BATCH)


def first(model: nn.Module, batch: Any) -> Tensor:
    """AIMET hands a batch over as it comes from the loader, or its first tensor."""
    out: Tensor = model(batch if isinstance(batch, Tensor) else batch[0])
    return out


def opened(model: nn.Module) -> Quantized:
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    with torch.no_grad():
        weights = {
            n: m.param_quantizers["weight"](m.weight).as_subclass(Tensor) for n, m in layers.items()
        }
    modules = [m for m in model.modules() if hasattr(m, "output_quantizers")]
    quantizers = [q for m in modules for q in (*m.input_quantizers, *m.output_quantizers) if q]
    facts = {"activation_quantizers": len(quantizers)}
    return Quantized(run=lambda x: model(x).as_subclass(Tensor), weights=weights, facts=facts)


MIN_MAX, ENHANCED = QuantScheme.min_max, QuantScheme.post_training_tf_enhanced
FOLDED, EQUALIZED = "batch norms folded", "cross-layer equalization"
SETTINGS = {
    "equalized": Setting(
        said=f"{EQUALIZED}, ranges min_max", make=quantized(MIN_MAX, equalize=True)
    ),
    "equalized_enhanced": Setting(
        said=f"{EQUALIZED}, ranges tf_enhanced", make=quantized(ENHANCED, equalize=True)
    ),
    "min_max": Setting(said=f"{FOLDED}, ranges min_max", make=quantized(MIN_MAX)),
    "enhanced": Setting(said=f"{FOLDED}, ranges tf_enhanced", make=quantized(ENHANCED)),
    "seq_mse": Setting(
        said=f"{FOLDED}, sequential MSE ranges, activations min_max",
        make=quantized(MIN_MAX, seq_mse=True),
    ),
    "adaround": Setting(
        said=f"{FOLDED}, AdaRound of {SHORT} iterations a layer, ranges tf_enhanced",
        make=quantized(ENHANCED, adaround=SHORT),
    ),
    "adaround_full": Setting(
        said=f"{FOLDED}, AdaRound of {FULL} iterations a layer, ranges tf_enhanced",
        make=quantized(ENHANCED, adaround=FULL),
    ),
}

if __name__ == "__main__":
    w4a8.main("Qualcomm AIMET", SETTINGS, ("aimet-torch", "torch", "torchvision", "numpy"))
