"""Kept: what the plan of the wall-time table does to samples: half of 50 steps, all in int8.

Speed does not depend on what a network has learned, quality does: so this is on the zoo's networks.
`python -m benchmarks.diffusion.kept NETWORK` measures one of them.
"""

from __future__ import annotations

import json
import sys

from allot.families.diffusion import load
from allot.judging.fidelity import psnr, squared_error
from allot.options.precision import Weight
from allot.samplers import space
from allot.samplers.quantizing import through
from allot.sampling.sampler import Dropped
from allot.scheme import Scheme
from benchmarks.diffusion.networks import NETWORKS
from benchmarks.diffusion.quantized import NOISES, PLAIN, QUICK_NOISES, RUNS, noises, samples
from benchmarks.diffusion.wall_time import KEPT, STEPS
from benchmarks.figures import Figure, at_least, mean_interval
from benchmarks.tasks import zoo

# same-noise PSNR in dB over the data range [-1, 1]
BAR = 28.0


def run(quick: bool, seed: int) -> dict[str, Figure]:
    """PSNR of the plan's samples to those of all steps in float."""
    found: dict[str, Figure] = {}
    for name in NETWORKS[:1] if quick else NETWORKS:
        found |= figure(name, quick=quick, seed=seed)
    return found


def figure(name: str, *, quick: bool, seed: int) -> dict[str, Figure]:
    """Of one network; one range for every tensor, as a file for all steps has."""
    sampler = load(zoo() / "fmnist" / name, steps=STEPS)
    test = noises(QUICK_NOISES if quick else NOISES, "certify", seed)
    original = samples(sampler, test)
    scheme = Scheme(weight=Weight(bits=8), activation=space.fixed(8), recovery=PLAIN)
    plan = through(sampler, noises(RUNS, "calibrate", seed), scheme)
    for i in range(STEPS):
        if i % (STEPS // KEPT):
            plan.sampler.steps[i] = Dropped()
    errors = squared_error(original, samples(plan.sampler, test))
    low, high = mean_interval(errors)
    label = f"{name}: {KEPT} of {STEPS} steps in int8, PSNR in dB"
    return {
        label: at_least(
            psnr(float(errors.mean())), BAR, n=len(test), seeds=[seed],
            interval=(psnr(high), psnr(max(low, 1e-12))), **plan.found,
        )
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(figure(sys.argv[1], quick=False, seed=0), indent=1), flush=True)
