"""Runtimes: how fast, how small and how true the exported files are in the real runtimes.

`allot bench runtime --json FILE` runs all of it; `--quick` a version under five minutes.
"""

from __future__ import annotations

from benchmarks.figures import Figure
from benchmarks.main import origin as origin


def run(quick: bool, seed: int) -> dict[str, Figure]:
    """All figures; a quick run takes fewer networks, plans, samples and rounds."""
    # the parts are scripts of this package too, and may not be imported with it
    from benchmarks.runtime import blocks, integer_only, latency, searched, size, speed

    found: dict[str, Figure] = {}
    for part in (speed, blocks, latency, searched, size, integer_only):
        found |= part.run(quick, seed)
    return found
