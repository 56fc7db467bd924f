"""NVIDIA ModelOpt auto_quantize on ResNet-20: the same images, seeds and bit accounting.

    PEER/bin/python benchmarks/peers/modelopt_auto_quantize.py --weights resnet20 \
        --bits 4.2 5.0 --seed 0 1 2 --out benchmarks/results/peer_modelopt.json

Every layer is offered W8A8 (ModelOpt's INT8_DEFAULT_CFG), W4A8 (int4 per output channel, int8
per tensor) and, as ModelOpt always adds it, no quantization. ModelOpt counts the weights
alone; its constraint is therefore searched for the plan that comes closest below the budget
with the scales counted.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import Any

import modelopt.torch.quantization as mtq
import torch
from torch import Tensor, nn

# the peer's environment has no allot installed, and benchmarks are files, not a package
sys.path[:0] = [str(Path(__file__).resolve().parents[i]) for i in (1, 2)]
import tasks  # noqa: E402

from allot.task import Data, Task  # noqa: E402

BATCH, CALIBRATE = 32, 512
SCALE_BITS = 32
FLOAT_BITS = 16
W4A8: dict[str, Any] = {
    "quant_cfg": [
        {"quantizer_name": "*", "enable": False},
        {"quantizer_name": "*weight_quantizer", "cfg": {"num_bits": 4, "axis": 0}},
        {"quantizer_name": "*input_quantizer", "cfg": {"num_bits": 8, "axis": None}},
    ],
    "algorithm": "max",
}
ACCOUNTING = (
    "bits of all convolution and linear weights, plus a 32-bit scale per output channel of each "
    "quantized one, over the number of these weights; a layer left unquantized counts 16 bits a "
    "weight and no scale, as ModelOpt itself counts (in float32 it would take 32); biases, batch "
    "norm and activation scales are not counted"
)


def layers(model: nn.Module) -> dict[str, Any]:
    """The convolutions and linear layers by name, with the quantizers that ModelOpt adds."""
    return {k: m for k, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}


def choices(model: nn.Module) -> dict[str, str]:
    """What each layer was given, read from the quantizers that act and not from the search."""
    found = {}
    for name, m in layers(model).items():
        parts: list[str] = []
        for letter, quantizer in (("W", m.weight_quantizer), ("A", m.input_quantizer)):
            if quantizer.is_enabled:
                axis = "per channel" if quantizer.axis == 0 else "per tensor"
                parts.append(f"{letter}{quantizer.num_bits} {axis}")
        found[name] = ", ".join(parts) or "none"
    return found


def bits_per_weight(model: nn.Module, *, scale_bits: int, float_bits: int) -> float:
    """Mean stored bits of a weight; see ACCOUNTING."""
    total, count = 0.0, 0
    for m in layers(model).values():
        n, rows = m.weight.numel(), m.weight.shape[0]
        on = m.weight_quantizer.is_enabled
        total += n * m.weight_quantizer.num_bits + rows * scale_bits if on else n * float_bits
        count += n
    return total / count


def quantized(
    task: Task, constraint: float, *, method: str, algorithm: str, memory: str
) -> nn.Module:
    """ModelOpt's model for its own constraint; `memory` keeps the sensitivity between calls."""
    data = task.calibrate.subset(slice(0, CALIBRATE))
    assert data.labels is not None
    batches = list(zip(data.batches(BATCH), data.labels.split(BATCH), strict=True))
    formats = [{**c, "algorithm": algorithm} for c in (mtq.INT8_DEFAULT_CFG, W4A8)]
    with redirect_stdout(sys.stderr):
        model, _ = mtq.auto_quantize(
            copy.deepcopy(task.model),
            constraints={"effective_bits": constraint},
            quantization_formats=formats,
            data_loader=batches,
            forward_step=lambda model, batch: model(batch[0]),
            loss_func=lambda output, batch: nn.functional.cross_entropy(output, batch[1]),
            num_calib_steps=len(batches),
            num_score_steps=len(batches),
            method=method,
            checkpoint=memory,
        )
    return model


def stored_bits(model: nn.Module) -> float:
    """What is held against the budget."""
    return bits_per_weight(model, scale_bits=SCALE_BITS, float_bits=FLOAT_BITS)


def closest(search: Callable[[float], nn.Module], budget: float) -> tuple[float, nn.Module]:
    """The constraint whose plan has the most bits within the budget, and the planned model.

    The bits with scales rise with the constraint, but for unquantized layers, which have no
    scales: halving brackets the last step to 0.002 bits, the best of all tried is taken.
    """
    low, high = budget - 0.12, budget
    tried = [(c, search(c)) for c in (low, high)]
    for _ in range(6):
        middle = (low + high) / 2
        tried.append((middle, search(middle)))
        low, high = (middle, high) if stored_bits(tried[-1][1]) <= budget else (low, middle)
    fitting = [(c, m) for c, m in tried if stored_bits(m) <= budget]
    if not fitting:
        raise SystemExit(f"no plan of ModelOpt's has at most {budget} bits per weight")
    return max(fitting, key=lambda x: stored_bits(x[1]))


def outputs(task: Task, model: nn.Module, data: Data) -> Tensor:
    with torch.no_grad():
        return torch.cat([task.forward(model, b) for b in data.batches(250)])


def quality(task: Task, model: nn.Module, *sets: Data) -> dict[str, float | int]:
    """Divergence from the original, agreement with it and top-1, with standard errors."""
    was, now = (torch.cat([outputs(task, m, d) for d in sets]) for m in (task.model, model))
    labels = torch.cat([d.labels for d in sets if d.labels is not None])
    nats = task.divergence(was, now)
    return {
        "n": len(nats),
        "kl_mean_nat": float(nats.mean()),
        "kl_standard_error_nat": float(nats.std() / len(nats) ** 0.5),
        "top1": float(task.score(now, labels).mean()),
        "top1_original": float(task.score(was, labels).mean()),
        "agreement": float((was.argmax(1) == now.argmax(1)).double().mean()),
    }


def record(task: Task, budget: float, *, seed: int, method: str, algorithm: str) -> dict[str, Any]:
    """One budget, one seed, one setting of ModelOpt: what was chosen and what it does."""
    with tempfile.TemporaryDirectory() as folder:

        def search(constraint: float) -> nn.Module:
            memory = str(Path(folder) / "search.pt")
            return quantized(task, constraint, method=method, algorithm=algorithm, memory=memory)

        start, cpu = time.perf_counter(), time.process_time()
        search(budget)
        first, first_cpu = time.perf_counter() - start, time.process_time() - cpu
        constraint, model = closest(search, budget)
    return {
        "seed": seed,
        "method": method,
        "algorithm": algorithm,
        "budget_bits": budget,
        "constraint_bits": constraint,
        "bits_per_weight": stored_bits(model),
        "bits_per_weight_without_scales": bits_per_weight(
            model, scale_bits=0, float_bits=FLOAT_BITS
        ),
        "bits_per_weight_unquantized_as_float32": bits_per_weight(
            model, scale_bits=SCALE_BITS, float_bits=32
        ),
        "certify": quality(task, model, task.certify),
        "all_test": quality(task, model, task.search, task.certify),
        "one_search_seconds": first,
        "one_search_cpu_seconds": first_cpu,
        "choices": choices(model),
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", default="resnet20", choices=tasks.RESNET20)
    parser.add_argument("--bits", type=float, nargs="+", default=[4.2, 5.0])
    parser.add_argument("--seed", type=int, nargs="+", default=[0])
    parser.add_argument("--method", default="gradient", choices=("gradient", "kl_div"))
    parser.add_argument("--algorithm", default="max", choices=("max", "mse"))
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


def command(given: argparse.Namespace) -> str:
    """What runs this again, without the places of this machine."""
    words = ["python benchmarks/peers/modelopt_auto_quantize.py"]
    for name in ("weights", "bits", "seed", "method", "algorithm"):
        value = getattr(given, name)
        words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return " ".join([*words, "--out", given.out.name])


def main() -> None:
    given = arguments()
    torch.set_num_threads(1)
    setting = {"method": given.method, "algorithm": given.algorithm}
    results = []
    for seed in given.seed:
        task = tasks.resnet20(given.weights, seed)
        for budget in given.bits:
            results.append(record(task, budget, seed=seed, **setting))
            r = results[-1]
            print(
                f"seed {seed}  <= {budget} bits: {r['bits_per_weight']:.4f} bits, "
                f"KL {r['certify']['kl_mean_nat']:.4f} nat, top-1 {r['certify']['top1']:.2%}",
                flush=True,
            )
    packages = ("nvidia-modelopt", "torch", "numpy", "pulp")
    report = {
        "peer": "NVIDIA ModelOpt, modelopt.torch.quantization.auto_quantize",
        "weights": given.weights,
        "command": command(given),
        "versions": {"python": platform.python_version(), **{p: version(p) for p in packages}},
        "threads": 1,
        "calibration_images": CALIBRATE,
        "batch": BATCH,
        "formats": {
            "W8A8": "INT8_DEFAULT_CFG: int8 per output channel, int8 per tensor",
            "W4A8": "custom: int4 per output channel, int8 per tensor",
            "none": "not quantized, weights or activations; ModelOpt always offers it",
        },
        "accounting": ACCOUNTING,
        "results": results,
    }
    given.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
