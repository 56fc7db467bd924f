"""The search heart's table: spaces with known truth, opponents, solver, shared beginnings, scale.

`allot bench search --json FILE` runs all of it; `--quick` a version under five minutes.
"""

from __future__ import annotations

from benchmarks.figures import Figure
from benchmarks.main import origin as origin
from benchmarks.search import compare, enumerate, resnet_joint, scaling, solver, trie
from benchmarks.search.weights import cache


def run(quick: bool, seed: int) -> dict[str, Figure]:
    """All figures; what is enumerated or was run before is read from the cache."""
    found = enumerated(quick) | solver.run(quick, seed) | trie.run(quick, seed)
    if not quick:
        found |= resnet_joint.run(quick, seed) | scaling.run(quick, seed)
    return found


def enumerated(quick: bool) -> dict[str, Figure]:
    """What enumerated spaces say of the search and of its opponents."""
    wanted = enumerate.cases(quick)
    enumerate.make(wanted, cache(), say=lambda text: None)
    runs = compare.runs(wanted, cache(), seeds=range(2) if quick else compare.SEEDS)
    return compare.figures(runs)
