"""Proof: which plans of a sampler's front are proven on noises that nothing has seen."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from allot import ledger
from allot.certify import Statement, fixed_sequence
from allot.finalists import fits
from allot.front import Front, Measured
from allot.judging.certified import certified
from allot.ledger import Use, sample_digests
from allot.samplers.run import SamplerRun


def statements(run: SamplerRun, front: Front, progress: Callable[[float], None]) -> list[Statement]:
    """Learn then test along the front, safest first, each noise used once."""
    text = json.dumps([run.job.weights, [p.point for p in front.points]])
    by = hashlib.sha256(text.encode()).hexdigest()[:16]
    digests = sample_digests(run.task.certify.inputs)
    book = ledger.read(run.folder)
    book.check_fresh(digests, by=by)
    ledger.write(book.record(Use(purpose="certify", by=by, digests=digests)), run.folder)
    original = run.samples(None)

    def evidence() -> Any:
        for i, m in enumerate(front.points):
            progress(i / len(front.points))
            yield certified(
                run.family.judge, original, run.samples(m), max_error=run.job.max_drop,
                data=f"{run.task.name}, started from noise",
            )  # fmt: skip

    return list(fixed_sequence(evidence()))


def chosen(
    front: Front,
    found: Mapping[int, Statement],
    preferred: Measured | None,
    limits: Mapping[str, float],
) -> Measured | None:
    """The preferred plan where it is proven; without budgets the proven one of fewest BitOPs."""
    proven = [front.points[i] for i, s in found.items() if s.certified]
    if limits:
        return preferred if preferred in proven else None
    return min(proven, key=lambda m: m.bills["bitops"], default=None)


def verdict(run: SamplerRun, front: Front, found: Mapping[int, Statement]) -> str:
    """Why there is no artefact."""
    if not found:
        return "no plan was measured; allow more evaluations or time"
    within = [p for p in front.points if fits(p, run.limits)]
    if not within:
        return (
            "no plan within the budgets was measured: harm and search took "
            f"{run.evaluator.spent:.0f} runs over the search noises; allow more --evaluations "
            "or time, or a larger budget"
        )
    last = max(found)
    s = found[last]
    return (
        f"no plan within the budgets is proven to have a feature error of at most "
        f"{run.job.max_drop:g} points: the test, safest plan first, came to point {last} of "
        f"{len(front.points)}: seen {s.drop:.2f}, bound {s.bound:.2f} on {s.n} noises. Allow "
        f"--max-drop above {s.bound:.2f}, a larger budget or more noises"
    )
