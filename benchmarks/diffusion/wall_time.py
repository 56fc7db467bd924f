"""Wall time: sampling with every second of 50 steps in 8-bit integers, against the float original.

Networks from their configurations (speed depends on shapes alone), batches of 4, one thread; the
plan in OpenVINO with the rest in bfloat16, the original with all its steps in ONNX Runtime.  Whole
runs take turns in this process, and with them single evaluations, of which a run's time is
predicted.  `python -m benchmarks.diffusion.wall_time NETWORK ...` measures some networks.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from allot.clock import repeated
from allot.families.diffusion import sampler_of
from allot.families.diffusion_runner import Opened, runner
from allot.families.diffusion_variants import Variant
from allot.runtimes import OpenVinoBf16
from allot.sampling.sampler import Sampler, Way
from allot.target import Arrays, Session, Workload
from allot.task import Data, Task
from allot.timing import Ratio, Timing, compare, paired
from benchmarks.figures import Figure
from benchmarks.runtime import libraries
from benchmarks.runtime.networks import task
from benchmarks.runtime.sessions import OnnxSession
from benchmarks.runtime.uniform import uniform

TARGET = OpenVinoBf16()
# least speed over the float original
BARS: Mapping[str, float] = {"DiT": 6.0, "UNet": 3.8}
STEPS, KEPT, BATCH = 50, 25, 4
# of the predicted time
ERROR = 0.1
ROUNDS, FEW = 9, 2
# evaluations in a row that are timed together, so that caches are as warm as in a run
ROW = 8
NAMES = {"sample": "x", "step": "time", "label": "class_labels"}


class Sampling:
    """A whole run as a session."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler

    def run(self, inputs: Arrays) -> dict[str, NDArray[np.generic]]:
        told = {k: torch.from_numpy(np.asarray(v)) for k, v in inputs.items()}
        noise, _ = told.pop("x"), told.pop("time")
        with torch.inference_mode():
            return {"output": self.sampler(noise, **told).numpy()}


class Row:
    """Evaluations in a row."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def run(self, inputs: Arrays) -> dict[str, NDArray[np.generic]]:
        for _ in range(ROW):
            found = self.session.run(inputs)
        return found


class Nothing:
    """Takes no time: what it returns is there."""

    def __init__(self, output: NDArray[np.generic]) -> None:
        self.output = output

    def run(self, inputs: Arrays) -> dict[str, NDArray[np.generic]]:
        return {"output": self.output}


def run(quick: bool, seed: int) -> dict[str, Figure]:
    """Speed and predicted time of both networks."""
    found: dict[str, Figure] = {}
    for name in BARS:
        found |= measured(name, seed, rounds=FEW if quick else ROUNDS)
    return found


def measured(name: str, seed: int, *, rounds: int) -> dict[str, Figure]:
    """Figures of one network."""
    sides, inputs = built(name, seed)
    t = compare(sides, inputs, rounds=rounds, warmup=1)
    speed = paired(t["float run"], t["planned run"])
    planned = paired(predicted(t, "planned", KEPT), t["planned run"])
    original = paired(predicted(t, "float", STEPS), t["float run"])
    what = f"{name} at batch {BATCH}, {KEPT} of {STEPS} steps in int8"
    return {
        f"{what}: sampling speed over float": figure(
            speed.value, BARS[name], speed, holds=speed.high >= BARS[name], seed=seed,
            seconds={k: x.median_s for k, x in t.items()},
        ),
        f"{what}: error of the predicted sampling time": figure(
            abs(planned.value - 1), ERROR, planned, holds=abs(planned.value - 1) <= ERROR,
            seed=seed, original=original.value,
        ),
    }  # fmt: skip


def built(name: str, seed: int) -> tuple[dict[str, Session], Arrays]:
    """Sessions by name, and the inputs of an evaluation."""
    network = task(name, seed=seed)
    scheduler = libraries.diffusers().DDIMScheduler()
    inner = network.model.get_submodule("inner")
    sampler = sampler_of(inner, scheduler, STEPS)
    files = uniform(_as_denoiser(network, sampler), TARGET)
    inputs = repeated(_as_denoiser(network, sampler).calibrate.inputs, BATCH)
    sides = {
        "float": OnnxSession(files.original, inputs),
        "planned": TARGET.open(files.quantized, workload=Workload(batch=BATCH)),
    }
    kept = {"float": range(STEPS), "planned": range(0, STEPS, STEPS // KEPT)}
    runs = {f"{k} run": _sampling(sampler, s, kept[k]) for k, s in sides.items()}
    still = Nothing(np.zeros_like(inputs["x"]))
    return {
        **runs,
        **{k: Row(s) for k, s in sides.items()},
        "nothing": _sampling(sampler, still, kept["float"]),
    }, inputs


def _as_denoiser(network: Task, sampler: Sampler) -> Task:
    """The task of the network alone, told as samplers tell it."""

    def named(data: Data) -> Data:
        assert not isinstance(data.inputs, Tensor)
        found = {NAMES[k]: x for k, x in data.inputs.items()}
        found["time"] = found["time"].float()
        return replace(data, inputs=found)

    return replace(
        network,
        model=sampler.denoiser,
        calibrate=named(network.calibrate),
        search=named(network.search),
        certify=named(network.certify),
    )


def _sampling(sampler: Sampler, session: Session, steps: range) -> Sampling:
    opened = Opened(variant=Variant(), session=session, given={}, told={})
    return Sampling(runner(sampler.grid, {i: Way() for i in steps}, [opened]))


def predicted(t: Mapping[str, Timing], name: str, steps: int) -> Timing:
    """Seconds of a run: steps times an evaluation and what a step takes besides, round by round."""
    besides = np.asarray(t["nothing"].samples) / STEPS
    one = np.asarray(t[name].samples) / ROW
    return Timing(samples=tuple(steps * (one + besides)), clock=t[name].clock)


def figure(value: float, bar: float, r: Ratio, *, holds: bool, seed: int, **more: object) -> Figure:
    return {
        "value": value,
        "bar": bar,
        "holds": bool(holds),
        "n": r.n,
        "interval": [r.low, r.high],
        "seeds": [seed],
        **more,
    }


if __name__ == "__main__":
    for chosen in sys.argv[1:] or BARS:
        print(json.dumps(measured(chosen, 0, rounds=ROUNDS), indent=1), flush=True)
