"""How long does `make demo` take once installed, and how much does its installation weigh?"""

from __future__ import annotations

import os
import re
import subprocess
import time
from importlib import metadata
from pathlib import Path

from benchmarks.figures import Figure, at_most

ROOT = Path(__file__).parents[1]


def run(quick: bool, seed: int) -> dict[str, Figure]:
    """Seconds of the demo's job, and GB of what the package and its cpu extra install."""
    del quick, seed
    start = time.perf_counter()
    done = subprocess.run(["make", "demo"], cwd=ROOT, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"make demo failed with {done.returncode}: {done.stderr[-2000:]}")
    return {
        "make demo after installation, seconds": at_most(
            seconds, 90, n=1, seeds=[0], cores=os.cpu_count()
        ),
        "installation of the demo, GB": at_most(installed() / 1e9, 1.6, n=1, seeds=[]),
    }


def installed() -> int:
    """Bytes of all files that allot[cpu] and what it requires have installed."""
    wanted, seen, total = ["allot[cpu]"], set(), 0
    while wanted:
        found = re.match(r"([A-Za-z0-9._-]+)(?:\[(.*?)\])?", wanted.pop())
        assert found is not None
        name, extras = found[1].lower().replace("_", "-"), found[2] or ""
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            package = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # a requirement for another platform
        if (name, "counted") not in seen:
            seen.add((name, "counted"))
            files = (Path(str(package.locate_file(f))) for f in package.files or ())
            total += sum(f.stat().st_size for f in files if f.is_file())
        wanted += [r for r in package.requires or () if _applies(r, extras)]
    return total


def _applies(requirement: str, extras: str) -> bool:
    asked = re.search(r"extra\s*==\s*['\"](.*?)['\"]", requirement)
    return asked is None or asked[1] in extras.split(",")
