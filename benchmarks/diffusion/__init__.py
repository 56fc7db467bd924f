"""Diffusion: what samplers lose within budgets on bits, steps and reuse, and how fast they are.

`allot bench diffusion --json FILE` runs all of it; `--quick` a version under five minutes.  Long
results are kept in the folder that ALLOT_BENCH_CACHE names, so that a run can go on later.
"""

from __future__ import annotations

from benchmarks.figures import Figure
from benchmarks.main import origin as origin


def run(quick: bool, seed: int) -> dict[str, Figure]:
    """All figures; a quick run takes fewer networks, plans, noises and steps."""
    # the parts are scripts of this package too, and may not be imported with it
    from benchmarks.diffusion import budgets, kept, predicted, quantized, wall_time

    found: dict[str, Figure] = {}
    for part in (predicted, budgets, quantized, kept, wall_time):
        found |= part.run(quick, seed)
    return found
