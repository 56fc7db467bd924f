"""The search heart's table: spaces with known truth, opponents, solver, shared beginnings, scale.

`allot bench search --json FILE` runs all of it; `--quick` a version under five minutes.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.figures import Figure
from benchmarks.main import origin as origin


def run(quick: bool, seed: int) -> dict[str, Figure]:
    """All figures; what is enumerated or was run before is read from the cache."""
    # the parts are scripts of this package too, and may not be imported with it
    from benchmarks.search import resnet_joint, scaling, solver, trie

    found = enumerated(quick) | solver.run(quick, seed) | trie.run(quick, seed)
    if not quick:
        found |= resnet_joint.run(quick, seed) | scaling.run(quick, seed)
    return found


def enumerated(quick: bool) -> dict[str, Figure]:
    """What enumerated spaces say of the search and of its opponents; a full run writes the table
    and the plots of all searchers too."""
    from benchmarks.search import compare, enumerate
    from benchmarks.search.weights import cache

    wanted = [c for c in enumerate.cases(quick) if not quick or "mild" not in c.name]
    enumerate.make(wanted, cache(), say=lambda text: print(text, file=sys.stderr, flush=True))
    seeds = range(2) if quick else compare.SEEDS
    found = compare.runs(wanted, cache(), seeds=seeds, opposed=not quick)
    if not quick:
        compare.show(found, Path(__file__).parents[1] / "results")
    return compare.figures(found)
