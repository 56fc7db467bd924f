"""How often does the certificate miss, and how far above the truth does it lie?

Populations of paired samples are known exactly: a share `up` on which only the original is
right, a share `down` on which only the compressed network is.  Certify sets are drawn from them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from allot.num.paired import drop_bound, share_bound

N = 4000
SETS = 500
MISSES = 33
WIDTH = 1.4
WIDTHS = (0.01, 0.02, 0.05)
# share of the discordant samples on which the original is right
SPLITS = (0.0, 0.5, 0.75, 1.0)
bound = cache(drop_bound)


@dataclass(frozen=True, kw_only=True)
class Sets:
    """Certify sets of one population: true drop, observed drops [sets], bounds [sets]."""

    share: float
    split: float
    truth: float
    seen: NDArray[np.float64]
    bounds: NDArray[np.float64]


def draw(share: float, split: float, *, generator: np.random.Generator) -> Sets:
    """500 certify sets of a population in which `share` of the samples is discordant."""
    up, down = share * split, share * (1 - split)
    counts = generator.multinomial(N, [up, down, 1 - up - down], size=SETS)
    bounds = np.array([bound(int(b), int(c), N) for b, c, _ in counts])
    seen = (counts[:, 0] - counts[:, 1]) / N
    return Sets(share=share, split=split, truth=up - down, seen=seen, bounds=bounds)


def misses(populations: list[Sets], *, seed: int) -> dict[str, Any]:
    """The most misses in the 500 sets of any population."""
    counts = [int((p.bounds < p.truth).sum()) for p in populations]
    worst = max(counts)
    low = SETS * (1 - share_bound(SETS - worst, SETS, confidence=0.975))
    high = SETS * share_bound(worst, SETS, confidence=0.975)
    verdict = {"value": worst, "bar": MISSES, "holds": worst <= MISSES, "interval": [low, high]}
    return {**verdict, "n": SETS, "seeds": [seed], "all": counts}


def width(populations: list[Sets], *, seed: int) -> dict[str, Any]:
    """Mean of bound - truth over 1.645 sqrt(p/n), for the worst split of p.

    The observed drop has the truth as its mean, so bound - observed has the same mean as
    bound - truth and scatters less; the quantile is that of bound - truth.
    """
    rows = []
    for p in populations:
        unit = 1.645 * math.sqrt(p.share / N)
        ratio = (p.bounds - p.seen) / unit
        half = 1.96 * float(ratio.std(ddof=1)) / math.sqrt(SETS)
        high = float(np.quantile((p.bounds - p.truth) / unit, 0.9))
        rows.append((float(ratio.mean()), half, high))
    value, half, high = max(rows)
    verdict = {"value": value, "bar": WIDTH, "holds": value <= WIDTH}
    scatter = {"interval": [value - half, value + half], "quantile_90": high}
    return {**verdict, **scatter, "n": SETS, "seeds": [seed], "all": [r[0] for r in rows]}


def run(quick: bool, seed: int) -> dict[str, dict[str, Any]]:
    """The figures of the certificate; `quick` looks at fewer splits of the discordant share."""
    generator = np.random.default_rng(seed)
    splits = (0.5, 1.0) if quick else SPLITS
    drawn = {p: [draw(p, s, generator=generator) for s in splits] for p in WIDTHS}
    figures = {f"certificate misses in {SETS} sets": misses([*chain(*drawn.values())], seed=seed)}
    for share, populations in drawn.items():
        name = f"certificate width over 1.645 sqrt(p/n) at p = {100 * share:g} %"
        figures[name] = width(populations, seed=seed)
    return figures


def main() -> None:
    for name, f in run(quick=False, seed=0).items():
        low, high = f["interval"]
        extra = f"  90 % of sets below {f['quantile_90']:.3f}" if "quantile_90" in f else ""
        print(
            f"{name:60s} {f['value']:7.3f} [{low:.3f}, {high:.3f}]  bar {f['bar']}  "
            f"{'holds' if f['holds'] else 'FAILS'}  all {np.round(f['all'], 3).tolist()}{extra}"
        )


if __name__ == "__main__":
    main()
