"""A made-up run of ResNet-20, random but plausible, as the JSON files of a run folder."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

from allot.report import ReportData

SIZE, BITOPS, LATENCY = 1078312, 41.8e9, 0.0146
KEPT_FLOAT = ("conv1", "linear")
BLOCKS = [f"layer{s}.{b}.conv{c}" for s in (1, 2, 3) for b in range(3) for c in (1, 2)]
NAMES = ["conv1", *BLOCKS, "linear"]


def layers(seed: int = 3) -> list[dict[str, Any]]:
    """The twenty layers with random bits; the first of every block is made narrower."""
    rng, out, whole_in, kept_in = random.Random(seed), [], 3, 3
    for name in NAMES:
        stage = int(name[5]) if name in BLOCKS else 1
        whole = 10 if name == "linear" else 8 * 2**stage
        kept = whole * rng.choice([4, 5, 6, 7, 8]) // 8 if name.endswith("conv1") else whole
        kept = whole if name in KEPT_FLOAT else kept
        window = [] if name == "linear" else [3, 3]
        shape = [whole, whole_in, *window]
        bits = 8 if name in KEPT_FLOAT else rng.choice([2, 3, 3, 3, 4, 4, 5])
        stored = math.prod(window) * kept * kept_in * bits // 8 + 8 * kept
        out.append(
            {
                "name": name,
                "op": "linear" if name == "linear" else "conv2d",
                "weight_shape": shape,
                "macs": math.prod(shape) * (1 if name == "linear" else 1024 // 4 ** (stage - 1)),
                "bits": bits,
                "activation": 8,
                "kept_in": kept_in,
                "in": whole_in,
                "kept_out": kept,
                "out": whole,
                "bytes": stored,
                "original_bytes": 4 * (math.prod(shape) + whole),
            }
        )
        whole_in, kept_in = whole, kept
    return out


def labels(t: float, rng: random.Random) -> dict[str, str]:
    """A plan at share t of the way from gentle to harsh."""
    found = {}
    for name in NAMES:
        bits = max(2, min(8, round(8.2 - 6.2 * t + rng.gauss(0, 0.8))))
        found[f"{name}.weight"] = f"W{8 if name in KEPT_FLOAT else bits}"
        found[f"{name}.input"] = "A8"
        if name in BLOCKS and name.endswith("conv1"):
            kept = max(0.5, min(1.0, round(8 * (1.05 - 0.4 * t + rng.gauss(0, 0.1))) / 8))
            found[f"{name}.channels"] = f"keep{kept:g}"
    return found


def front(n: int, seed: int = 5) -> dict[str, Any]:
    """n plans by ascending divergence; the last quarter is not certified, or not tested."""
    rng, points, failed = random.Random(seed), [], round(0.75 * n)
    for i in range(n):
        t = (i + 0.6 * rng.random()) / n
        divergence = 0.0021 * math.exp(4.6 * t)
        points.append(
            {
                "point": [rng.randrange(7) for _ in range(49)],
                "labels": labels(t, rng),
                "bills": {
                    "size": round(270000 * math.exp(-1.5 * t) * rng.uniform(0.97, 1.03)),
                    "bitops": 2.6e9 * (1.05 - 0.8 * t) * rng.uniform(0.96, 1.04),
                    "latency": 0.0078 * (1.02 - 0.4 * t) * rng.uniform(0.95, 1.05),
                },
                "divergence": divergence,
                "interval": [0.88 * divergence, 1.13 * divergence],
                "metric": 0.882 - 0.03 * t**2 + rng.gauss(0, 0.001),
                "predicted": divergence * rng.uniform(0.8, 1.2),
                "gap": 0.002 + 0.02 * rng.random(),
                "latency_from": "measured" if i % 3 else "table",
            }
        )
    return {
        "version": 1,
        "points": points,
        "original": {"size": SIZE, "bitops": BITOPS, "latency": LATENCY},
        "certified": {str(i): i < failed for i in range(min(failed + 1, n))},
        "bounds": {str(i): 0.35 + 0.028 * i for i in range(min(failed + 1, n))},
    }


def harm(seed: int = 7) -> dict[str, Any]:
    """Every option alone at every site, harsher ones doing more."""
    rng, rows = random.Random(seed), []
    for name in NAMES:
        weak = rng.lognormvariate(0, 0.9)
        found = [("weight", "weight", f"W{b}", 0.5 * weak * 4.0 ** (2 - b)) for b in range(2, 9)]
        found += [("activation", "input", f"A{b}", 0.09 * weak * 4.0 ** (4 - b)) for b in (4, 6, 8)]
        if name in BLOCKS and name.endswith("conv1"):
            kept = [(k / 8, 0.004 * weak * 2.0 ** (7 - k)) for k in range(4, 8)]
            found += [("channels", "channels", f"keep{k:g}", harm) for k, harm in kept]
        rows += [
            {"site": f"{name}.{last}", "label": label, "kind": kind, "divergence": value}
            for kind, last, label, value in found
        ]
    return {"unit": "nat", "rows": rows}


def certificate(bound: float = 0.92, max_drop: float = 1.0) -> dict[str, Any]:
    """What certify.Statement.dump() writes for a metric drop."""
    return {
        "version": 1,
        "kind": "metric drop",
        "metric": "top-1",
        "n": 4000,
        "confidence": 0.95,
        "bound": bound,
        "drop": 0.35,
        "lost": 71,
        "gained": 57,
        "max_drop": max_drop,
        "certified": bound <= max_drop,
        "text": f"Certified with 95 % confidence: top-1 falls by at most {bound} points on data "
        "drawn like the 4000 samples. It says nothing about another data distribution.",
    }


def summary(points: int, chosen: int) -> dict[str, Any]:
    """What the flow writes at the end."""
    return {
        "version": 1,
        "task": "resnet20-cifar10",
        "target": "openvino-cpu",
        "workload": {"batch": 32, "threads": 1},
        "seed": 0,
        "metric": "top-1",
        "created": "2026-02-11 14:03",
        "budgets": {
            "size": {"limit": 129397, "asked": "12%"},
            "latency": {"limit": 0.00657, "asked": "45%"},
        },
        "max_drop": 1.0,
        "original": {
            "metric": 0.8806,
            "size": SIZE,
            "bitops": BITOPS,
            "latency": LATENCY,
            "n": 5000,
        },
        "compressed": {
            "metric": 0.8772,
            "metric_interval": [-0.82, 0.14],
            "divergence": 0.0234,
            "size": 127911,
            "bitops": 1.42e9,
            "latency": 0.00612,
            "latency_interval": [0.00604, 0.00621],
        },
        "inputs": [{"name": "image", "shape": [32, 3, 32, 32], "dtype": "float32"}],
        "outputs": [{"name": "logits", "shape": [32, 10], "dtype": "float32"}],
        "preprocess": "RGB in [0, 1], minus the mean and by the deviation of the training images.",
        "forward_passes": 1234.5,
        "seconds": {
            "trace": 1.2,
            "calibrate": 48.0,
            "harm": 182.4,
            "latency": 61.0,
            "search": 240.7,
            "certify": 22.1,
            "export": 9.8,
        },
        "chosen": chosen if points else None,
        "runtimes": {
            "openvino-cpu": {
                "median_s": 0.00612,
                "original_s": 0.0146,
                "ratio": 0.4192,
                "ratio_interval": [0.413, 0.426],
                "n": 200,
            },
            "onnxruntime-cpu": {
                "median_s": 0.00871,
                "original_s": 0.0171,
                "ratio": 0.5094,
                "ratio_interval": [0.5, 0.519],
                "n": 200,
            },
        },
        "unknown": [["head.gate", "GatedThing", 1280]],
        "notes": ["Activations of conv1 are left in float: openvino-cpu reads the image as it is."],
        "layers": layers(),
    }


def sample(points: int = 30, chosen: int = 17) -> ReportData:
    """A whole run."""
    return ReportData(
        name="mine",
        summary=summary(points, chosen),
        front=front(points),
        certificate=certificate(),
        harm=harm(),
    )


def write(data: ReportData, folder: Path) -> None:
    """The files of a run folder."""
    for name in ("summary", "front", "certificate", "harm"):
        (folder / f"{name}.json").write_text(json.dumps(getattr(data, name)))
