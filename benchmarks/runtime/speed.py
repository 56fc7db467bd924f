"""Speed: 8-bit integers with the rest in bfloat16, in OpenVINO, against float in ONNX Runtime.

And against what NNCF and ONNX Runtime make of the same network, or why they make nothing. Uniform
W8A8 of every layer, no search; one thread; all files of a network take turns in this process.
`python -m benchmarks.runtime.speed NETWORK ...` measures some networks.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from allot.clock import repeated
from allot.errors import JobError, MissingError
from allot.runtimes import OpenVinoBf16
from allot.target import Session, Workload
from allot.task import Task
from allot.timing import Ratio, Timing, compare, paired
from benchmarks.figures import Figure
from benchmarks.runtime import rivals
from benchmarks.runtime.networks import NETWORKS, task
from benchmarks.runtime.sessions import OnnxSession, OpenVinoSession
from benchmarks.runtime.uniform import Files, uniform

TARGET = OpenVinoBf16()
# least speed over float in ONNX Runtime
BARS: Mapping[str, float] = {
    "ResNet-20": 2.4, "ResNet-18": 3.1, "MobileNetV2": 2.4, "ViT-tiny": 2.5, "DiT": 3.2,
    "UNet": 2.0,
}  # fmt: skip
TRANSFORMERS = ("ViT-tiny", "DiT")
QUICK = ("ResNet-20", "ResNet-18")
ROUNDS, FEW, SETTLE = 60, 20, 2
OURS, FLOAT, NNCF, ORT = "ours", "float", "NNCF", "ONNX Runtime's quantizer"


def run(quick: bool, seed: int) -> dict[str, Figure]:
    """All networks; a quick run takes two of them and fewer rounds."""
    found: dict[str, Figure] = {}
    for name in QUICK if quick else NETWORKS:
        found |= measured(name, seed, rounds=FEW if quick else ROUNDS)
    return found


def measured(name: str, seed: int, *, rounds: int) -> dict[str, Figure]:
    """Figures of one network at the first of its batch sizes; speeds at others stand beside."""
    network = task(name, seed=seed)
    files = uniform(network, TARGET)
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder)
        others, left_out = _others(network, files, where)
        timed = {
            n: _timed(network, files, others, batch=n, rounds=rounds)
            for n in NETWORKS[name].batches
        }
    first = NETWORKS[name].batches[0]
    bars = {FLOAT: BARS[name], NNCF: 1.0, ORT: 1.0}
    found = {
        f"{name} at batch {first}: speed over {what}": figure(
            {n: paired(t[what], t[OURS]) for n, t in timed.items()}, bar, seed=seed, first=first
        )
        for what, bar in bars.items()
        if what in timed[first]
    }
    if left_out:
        found[f"{name} at batch {first}: speed over {FLOAT}"]["left_out"] = "; ".join(left_out)
    return found


# an OpenVINO file, or an ONNX file in bytes
Other = Path | bytes


def _others(network: Task, files: Files, folder: Path) -> tuple[dict[str, Other], list[str]]:
    """Files of other quantizers, and why there is none of some."""
    found: dict[str, Other] = {}
    left_out = []
    try:
        found[NNCF] = rivals.nncf(network, folder, transformer=network.name in TRANSFORMERS)
    except (MissingError, JobError) as e:
        left_out.append(str(e))
    other = rivals.onnxruntime(network, files.original, folder)
    why = rivals.unusable(other)
    if why:
        left_out.append(why)
    else:
        found[ORT] = other
    return found, left_out


def _timed(
    network: Task, files: Files, others: Mapping[str, Other], *, batch: int, rounds: int
) -> dict[str, Timing]:
    """Seconds of every file at one batch size.  NNCF's with the rest in bfloat16 as ours."""
    inputs = repeated(network.calibrate.inputs, batch)
    sessions: dict[str, Session] = {
        OURS: TARGET.open(files.quantized, workload=Workload(batch=batch)),
        FLOAT: OnnxSession(files.original, inputs),
    }
    for name, file in others.items():
        if isinstance(file, bytes):
            sessions[name] = OnnxSession(file, inputs)
        else:
            sessions[name] = OpenVinoSession(file, inputs, floats="bf16")
    return compare(sessions, inputs, rounds=rounds, settle=SETTLE)


def figure(ratios: Mapping[int, Ratio], bar: float, *, seed: int, first: int) -> Figure:
    """A speed that holds where its interval reaches the bar; speeds of other batch sizes as they
    are."""
    r = ratios[first]
    return {
        "value": r.value,
        "bar": bar,
        "holds": bool(r.high >= bar),
        "n": r.n,
        "interval": [r.low, r.high],
        "seeds": [seed],
        "batches": {str(n): x.value for n, x in ratios.items() if n != first},
    }


if __name__ == "__main__":
    for chosen in sys.argv[1:] or NETWORKS:
        print(json.dumps(measured(chosen, 0, rounds=ROUNDS), indent=1), flush=True)
