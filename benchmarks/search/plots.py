"""Plots of the comparison: excess over the true front and hypervolume, along the passes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.search.contest import PASSES

Run = dict[str, Any]


def excess(spaces: dict[str, list[Run]], path: Path) -> None:
    """One panel a space: mean excess less 1 of the best searchers, and our worst run, dashed."""
    _panels(spaces, path, "excess", "excess over the true front - 1")


def hypervolume(spaces: dict[str, list[Run]], path: Path) -> None:
    """One panel a space: what is missing of the true front's hypervolume."""
    _panels(spaces, path, "hypervolume", "missing hypervolume")


def _panels(
    spaces: dict[str, list[Run]], path: Path, key: str, label: str, *, top: int = 7
) -> None:
    from matplotlib.figure import Figure  # an extra of the benchmarks

    columns = 3
    rows = -(-len(spaces) // columns)
    figure = Figure(figsize=(13, 3.4 * rows), layout="constrained")
    for at, (space, runs) in enumerate(spaces.items()):
        axes = figure.add_subplot(rows, columns, at + 1)
        for entry, values in _best(runs, key, top).items():
            ours = entry == "allot"
            missing = _missing(values, key)
            width, order = (2.4, 5) if ours else (1.1, 1)
            color = "crimson" if ours else None
            axes.plot(PASSES, missing.mean(0), label=entry, lw=width, zorder=order, color=color)
            if ours:
                axes.plot(PASSES, missing.max(0), ls="--", lw=1.0, color="0.35", label="worst run")
        axes.set_yscale("log")
        axes.set_ylim(bottom=1e-4)
        axes.set_title(space, fontsize=10)
        axes.set_xlabel("forward passes, signals included")
        axes.set_ylabel(label, fontsize=8)
        axes.legend(fontsize=6)
    figure.savefig(path, metadata={"Date": None})


def _missing(values: np.ndarray, key: str) -> np.ndarray:
    """How far from the truth, at least 1e-4 so that a logarithm can show it."""
    return np.maximum(values - 1 if key == "excess" else 1 - values, 1e-4)


def _best(runs: Sequence[Run], key: str, top: int) -> dict[str, np.ndarray]:
    """Values [runs, passes] of the searchers that end nearest to the truth."""
    found = {
        entry: np.array([r[key] for r in runs if r["entry"] == entry])
        for entry in dict.fromkeys(r["entry"] for r in runs)
    }
    order = sorted(found, key=lambda e: float(_missing(found[e], key)[:, -1].mean()))
    return {e: found[e] for e in order[:top]}
