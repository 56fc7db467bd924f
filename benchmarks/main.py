"""The main job's table: every figure it has to meet, measured in one run.

`allot bench main --json FILE` runs all of it; `--quick` a version under five minutes.
"""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from allot.processor import device
from allot.versions import versions
from benchmarks import against_modelopt, certificate, demo, joint, resnet20
from benchmarks.figures import Figure

ROOT = Path(__file__).parents[1]
PARTS: tuple[Callable[[bool, int], dict[str, Figure]], ...] = (
    certificate.run,
    against_modelopt.run,
    joint.run,
    resnet20.run,
    demo.run,
)

LONG = (joint.run, demo.run)


def run(quick: bool, seed: int) -> dict[str, Figure]:
    """All figures; a quick run takes fewer plans and images and leaves out what takes long."""
    found: dict[str, Figure] = {}
    for part in [p for p in PARTS if not (quick and p in LONG)]:
        found |= part(quick, seed)
    return found


def origin() -> dict[str, Any]:
    """Commit and machine that figures were measured on."""
    head = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True
    )
    machine = {"processor": device(), "cores": torch.get_num_threads(), **versions()}
    return {
        "commit": head.stdout.strip(),
        "machine": {**machine, "system": platform.system()},
    }


def table(figures: dict[str, Figure]) -> str:
    """The figures as a Markdown table."""
    rows = [
        "| figure | value | bar | holds | 95 % interval | n | seeds |",
        "|---|--:|--:|---|---|--:|---|",
    ]
    for name, f in figures.items():
        span = "" if not f["interval"] else "{:.4g} to {:.4g}".format(*f["interval"])
        holds = "yes" if f["holds"] else "**no**"
        seeds = ", ".join(map(str, f["seeds"]))
        rows.append(
            f"| {name} | {f['value']:.4g} | {f['bar']:g} | {holds} | {span} | {f['n']} | {seeds} |"
        )
    return "\n".join(rows)


def show(results: Path, page: Path, mark: str) -> None:
    """Writes the table of a full run's results into the page, between the two marks of a name."""
    document = json.loads(results.read_text())
    head, rest = page.read_text().split(f"<!-- {mark}:", 1)
    opening, tail = rest.split("-->", 1)
    machine = ", ".join(f"{k} {v}" for k, v in document["machine"].items())
    body = f"Commit {document['commit']}; {machine}.\n\n{table(document['figures'])}\n"
    closing = tail[tail.index(f"<!-- end {mark} -->") :]
    page.write_text(f"{head}<!-- {mark}:{opening}-->\n\n{body}\n{closing}")


if __name__ == "__main__":
    for name in ("main", "search", "quantize", "runtime", "diffusion"):
        show(ROOT / f"benchmarks/results/{name}.json", ROOT / "benchmarks/RESULTS.md", name)
