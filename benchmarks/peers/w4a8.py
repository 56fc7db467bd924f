"""What every W4A8 peer shares: the same images and seeds, quality, a check of the levels, the file.

A peer's script hands `main` its settings, functions (task, calibration inputs) -> Quantized.  Each
is run on both ResNet-20 weights; its result replaces its former one in the file.  A setting that
fails is recorded with the error it raised.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# the peer's environment has no allot installed, and benchmarks are files, not a package
sys.path[:0] = [str(Path(__file__).resolve().parents[i]) for i in (1, 2)]
import tasks  # noqa: E402

from allot.task import Data, Task  # noqa: E402

BATCH, CALIBRATE = 32, 512
LAYERS = 20
MEANING = {
    "kl": "nats, KL(original || quantized) per certify image; interval: -+ 1.96 standard errors",
    "levels": "most distinct values of a weight in one output channel, over all convolutions and "
    "the linear layer, as the peer computes with them; at most 16 where all are truly 4-bit "
    "per output channel",
    "seconds": "wall time of the quantization alone, with calibration, on a shared machine; "
    "cpu_seconds beside it",
}


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """A peer's network.  run: inputs -> logits.  weights: what each layer multiplies by, by name,
    [out, ...].  facts: anything else that belongs in the record."""

    run: Callable[[Tensor], Tensor]
    weights: Mapping[str, Tensor]
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One way to use a peer.  said: in words.  make: (task, inputs to calibrate on) -> network."""

    said: str
    make: Callable[[Task, Tensor], Quantized]


def levels(weights: Mapping[str, Tensor]) -> int:
    """The most distinct values in any output channel of any layer."""
    rows = (row for w in weights.values() for row in w.detach().flatten(1))
    return max(len(row.unique()) for row in rows)


def outputs(run: Callable[[Tensor], Tensor], data: Data) -> Tensor:
    with torch.no_grad():
        return torch.cat([run(b) for b in data.batches(250)])


def quality(task: Task, was: Tensor, now: Tensor) -> dict[str, Any]:
    """KL to the original with its interval, agreement with it, top-1, on the certify images."""
    assert task.certify.labels is not None
    nats = task.divergence(was, now)
    mean, error = float(nats.mean()), float(nats.std() / len(nats) ** 0.5)
    return {
        "n": len(nats),
        "kl": mean,
        "interval": [mean - 1.96 * error, mean + 1.96 * error],
        "top1": float(task.score(now, task.certify.labels).mean()),
        "top1_original": float(task.score(was, task.certify.labels).mean()),
        "agreement": float((was.argmax(1) == now.argmax(1)).double().mean()),
    }


def record(task: Task, was: Tensor, setting: Setting) -> dict[str, Any]:
    """One setting on one network: what it does, or why it does not run.  was: what the original
    puts out for the certify images."""
    inputs = task.calibrate.inputs
    assert isinstance(inputs, Tensor)
    start, cpu = time.perf_counter(), time.process_time()
    try:
        with redirect_stdout(sys.stderr):
            made = setting.make(task, inputs[:CALIBRATE])
    except Exception as e:  # whatever another library raises is the answer to record
        return {"failed": f"{type(e).__name__}: {e}"}
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    most = levels(made.weights)
    return {
        "levels": most,
        "layers": len(made.weights),
        "truly_4_bit": most <= 16 and len(made.weights) == LAYERS,
        "seconds": seconds,
        "cpu_seconds": cpu,
        **made.facts,
        **quality(task, was, outputs(made.run, task.certify)),
    }


def write(file: Path, peer: str, versions: dict[str, str], result: dict[str, Any]) -> None:
    """Puts a result in the file, in place of a former one of the same network, seed and setting."""
    report = json.loads(file.read_text()) if file.exists() else {}
    peers = report.get("peers", {})
    former = peers.get(peer, {"results": []})["results"]
    kept = [r for r in former if any(r[k] != result[k] for k in ("weights", "seed", "setting"))]
    results = sorted([*kept, result], key=lambda r: (r["weights"], r["seed"], r["setting"]))
    entry = {"script": Path(sys.argv[0]).name, "versions": versions, "results": results}
    report = {
        "task": "ResNet-20, W4A8: 4-bit weights per output channel, 8-bit activations per tensor",
        "calibration_images": CALIBRATE,
        "batch": BATCH,
        "threads": 1,
        "meaning": MEANING,
        "peers": dict(sorted({**peers, peer: entry}.items())),
    }
    file.write_text(json.dumps(report, indent=1) + "\n")


def main(peer: str, settings: Mapping[str, Setting], packages: Sequence[str]) -> None:
    """Runs the settings asked for and writes what each gave as soon as it has."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--weights", nargs="+", default=list(tasks.RESNET20))
    parser.add_argument("--seed", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", default=list(settings), choices=list(settings))
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    versions = {"python": platform.python_version(), **{p: version(p) for p in packages}}
    for weights in given.weights:
        for seed in given.seed:
            task = tasks.resnet20(weights, seed)
            was = outputs(task.model, task.certify)
            for name in given.only:
                said = {"weights": weights, "seed": seed, "setting": name}
                said["said"] = settings[name].said
                r = {**said, **record(task, was, settings[name])}
                write(given.out, peer, versions, r)
                print(f"{weights} seed {seed} {name}: {line(r)}", flush=True)


def line(r: Mapping[str, Any]) -> str:
    if "failed" in r:
        return f"failed: {r['failed']}"
    low, high = r["interval"]
    return (
        f"KL {r['kl']:.4f} [{low:.4f}, {high:.4f}], top-1 {r['top1']:.2%} "
        f"({r['top1_original']:.2%}), {r['levels']} levels in {r['layers']} layers, "
        f"{r['seconds']:.0f} s"
    )
