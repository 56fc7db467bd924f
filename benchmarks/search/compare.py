"""Are the plans that the search finds near the best there are, and nearer than others' plans?

Every entry on every enumerated space; runs are kept, so that an interrupted comparison goes on.
`python -m benchmarks.search.compare` runs all and writes table and plots.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import binomtest

from allot.search import Effort, search
from allot.searchers.knapsack import open_loop, verified
from allot.table import Table
from allot.trials import Trials
from benchmarks.figures import Figure, at_most
from benchmarks.search import opponents, plots
from benchmarks.search.contest import PASSES, Entry
from benchmarks.search.contest import run as contest
from benchmarks.search.enumerate import Case, cases
from benchmarks.search.networks import DIGITS
from benchmarks.search.signals import MEASURED, Scenes
from benchmarks.search.weights import cache

SEEDS = range(5)
# the search of a user ends where little is expected; here it goes on to the last pass
EFFORT = Effort(rounds=10_000, tolerance=0.0)
OURS, PLAIN, OPEN = "allot", "one at a time, verified", "Fisher, open loop"
JOINT = ("digits-joint", "vit", "language")
SKIPS = ("digits-joint", "language")
Run = dict[str, Any]


def closed_loop(trials: Trials, *, harm: Sequence[Table], seed: int) -> None:
    """The search of the package, to the last pass."""
    search(trials, harm=harm, seed=seed, effort=EFFORT)


def entries(case: Case) -> tuple[Entry, ...]:
    """The search, the strongest plain baseline, open loop, and the opponents.

    Opponents whose signals take derivatives or data of their own are run on the recovered digits
    of one network alone, where those are made in a minute.
    """
    ours = (
        Entry(name=OURS, signals=("fisher",), searcher=closed_loop, drawn=True),
        Entry(name=PLAIN, signals=("one_at_a_time",), searcher=verified, drawn=False),
        Entry(name=OPEN, signals=("fisher_open",), searcher=open_loop, drawn=True),
    )
    on_digits = case.network == DIGITS[0] and case.variant.name == "recovered"
    others = (
        Entry(name=o.name, signals=o.signals, searcher=o.searcher, drawn=not o.signals)
        for o in opponents.ALL
        if not o.single_level
        and o.name != "one at a time + knapsack"
        and (on_digits or all(s in MEASURED or s == "fisher" for s in o.signals))
    )
    return (*ours, *others)


def runs(
    chosen: Iterable[Case], folder: Path, *, seeds: Sequence[int] = SEEDS, opposed: bool = True
) -> list[Run]:
    """Every entry on every case that is enumerated; kept in the folder, one line each.

    opposed: with the opponents beside the search, the baseline and the open loop.
    """
    path, scenes = folder / "runs.jsonl", Scenes(folder)
    done = (
        {_key(r): r for r in map(json.loads, path.read_text().splitlines())}
        if path.exists()
        else {}
    )
    found = []
    for case in chosen:
        if not case.path(folder).exists():
            continue
        for entry in entries(case) if opposed else entries(case)[:3]:
            for seed in seeds if entry.drawn else seeds[:1]:
                key = (case.name, entry.name, seed)
                if key not in done:
                    done[key] = contest(case, entry, seed, folder=folder, scenes=scenes)
                    with path.open("a") as f:
                        f.write(json.dumps(done[key]) + "\n")
                found.append(done[key])
    return found


def _key(run: Run) -> tuple[str, str, int]:
    return (run["case"], run["entry"], run["seed"])


def space_of(run: Run) -> str:
    """Family and variant: "digits-joint, recovered"."""
    family, *_, variant = run["case"].split("_")
    return f"{family}, {variant}"


def excess(found: Sequence[Run], entry: str, passes: int, space: str) -> np.ndarray:
    """Excess of every run of an entry on a space at so many F: [networks x seeds]."""
    at = PASSES.index(passes)
    return np.array(
        [r["excess"][at] for r in found if r["entry"] == entry and space_of(r) == space]
    )


def spaces(found: Sequence[Run], *, networks: int = 1) -> list[str]:
    """The spaces that at least so many networks were searched on."""
    cases: dict[str, set[str]] = {}
    for r in found:
        cases.setdefault(space_of(r), set()).add(r["case"])
    return sorted(s for s, names in cases.items() if len(names) >= networks)


def figures(found: Sequence[Run]) -> dict[str, Figure]:
    """The rows of the issue's table that enumerated spaces decide."""
    named: dict[str, Figure] = {}
    whole = 3 if len({r["case"] for r in found}) > 3 else 1
    complete = spaces(found, networks=whole)
    found = [r for r in found if space_of(r) in complete]
    for space in complete:
        for passes, bar in ((64, 1.02), (128, 1.005)):
            x = excess(found, OURS, passes, space)
            name = f"{space}: excess at {passes} F, mean"
            named[name] = _mean(x, bar)
        x = excess(found, OURS, 128, space)
        named[f"{space}: excess at 128 F, worst run"] = at_most(
            float(x.max()), 1.03, n=len(x), seeds=list(SEEDS)
        )
        for passes in (64, 128):
            ours, plain = (excess(found, e, passes, space) for e in (OURS, PLAIN))
            named[f"{space}: mean excess over the plain baseline's at {passes} F"] = at_most(
                float(ours.mean() / plain.mean()), 1.0, n=len(ours), seeds=list(SEEDS),
                ours=float(ours.mean()), baseline=float(plain.mean()),
            )  # fmt: skip
        x = excess(found, OPEN, 128, space)
        destructive = space.startswith(SKIPS) or space.startswith("vit")
        named[f"{space}: open loop, mean excess"] = _mean(x, 1.25 if destructive else 1.15)
    return named | _signs(found) | _skips(found)


def _mean(x: np.ndarray, bar: float) -> Figure:
    half = 1.96 * float(x.std(ddof=1)) / np.sqrt(len(x)) if len(x) > 1 else 0.0
    mean = float(x.mean())
    return at_most(mean, bar, n=len(x), seeds=list(SEEDS), interval=(mean - half, mean + half))


def _signs(found: Sequence[Run]) -> dict[str, Figure]:
    """Paired sign test of the search against the plain baseline, per joint space."""
    named = {}
    for space in [s for s in spaces(found) if s.startswith(JOINT)]:
        better = worse = 0
        for passes in (64, 128):
            at = PASSES.index(passes)
            plain = {r["case"]: r["excess"][at] for r in found if r["entry"] == PLAIN}
            for r in found:
                if r["entry"] == OURS and space_of(r) == space:
                    gap = r["excess"][at] - plain[r["case"]]
                    better, worse = better + (gap < -1e-9), worse + (gap > 1e-9)
        n = better + worse
        p = float(binomtest(better, n, alternative="greater").pvalue) if n else 1.0
        named[f"{space}: sign test against the plain baseline, p"] = at_most(
            p, 0.05, n=n, seeds=list(SEEDS), better=better, worse=worse
        )
    return named


def _skips(found: Sequence[Run]) -> dict[str, Figure]:
    """Where blocks can be skipped, pairs must not lead the search astray."""
    named = {}
    for space in [s for s in spaces(found) if s.startswith(SKIPS)]:
        x = excess(found, OURS, 128, space)
        named[f"{space}: block skip, worst mean of a network at 128 F"] = at_most(
            float(x.max()), 1.05, n=len(x), seeds=list(SEEDS)
        )
    return named


def table(found: Sequence[Run]) -> str:
    """Mean excess of every entry at 24, 64 and 128 F, a Markdown table per space."""
    lines = []
    for space in spaces(found):
        rows = []
        for entry in dict.fromkeys(r["entry"] for r in found if space_of(r) == space):
            x = [excess(found, entry, f, space) for f in (24, 64, 128)]
            held = [
                r["held_out"][-1] for r in found if r["entry"] == entry and space_of(r) == space
            ]
            cells = [f"{v.mean():.3f}" for v in x] + [f"{x[2].max():.3f}", f"{np.mean(held):.3f}"]
            rows.append((float(x[2].mean()), f"| {entry} | {' | '.join(cells)} |"))
        lines += [f"**{space}**", "", "| searcher | 24 F | 64 F | 128 F | worst | held out |"]
        lines += ["|---|--:|--:|--:|--:|--:|", *(row for _, row in sorted(rows)), ""]
    return "\n".join(lines)


def show(found: Sequence[Run], results: Path) -> None:
    """Writes table and plots of a comparison."""
    grouped = {s: [r for r in found if space_of(r) == s] for s in spaces(found)}
    results.joinpath("search_spaces.md").write_text(table(found) + "\n")
    plots.excess(grouped, results / "search_excess.svg")
    plots.hypervolume(grouped, results / "search_hypervolume.svg")


if __name__ == "__main__":
    torch.set_num_threads(1)
    every = runs(cases(False), cache())
    show(every, Path(__file__).parents[1] / "results")
    for name, f in figures(every).items():
        print(f"{'ok  ' if f['holds'] else 'MISS'} {f['value']:.4f} {f['bar']:g} n={f['n']} {name}")
