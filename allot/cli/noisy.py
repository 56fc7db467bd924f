"""Noisy: a compressed network under mismatches of deployment, tried, written down and shown."""

from __future__ import annotations

from allot import runtimes
from allot.artefact import Artefact, add_documents
from allot.cli.tables import grid
from allot.document import add_report
from allot.noise.measured import Deployed, Noise, noise
from allot.report.data import NOISE
from allot.report.noise import SHOWN, cells
from allot.run import Run

SAMPLES = 500


def tried(run: Run, artefact: Artefact) -> Noise:
    """What mismatches change on search samples, in every runtime that is installed.

    It is written into the artefact's folder and its report.
    """
    timed = (t for t in runtimes.USUAL if "latency" in t.bills and t.name != run.target.name)
    others = [t for t in timed if not t.missing()]
    deployed = Deployed(
        onnx=artefact.onnx(),
        target=run.target,
        workload=run.workload,
        task=run.task,
        data=run.task.search.subset(slice(0, SAMPLES)),
    )
    found = noise(deployed, others=others)
    add_documents(artefact.folder, {NOISE: found.dump()})
    add_report(artefact.folder)
    return found


def table(found: Noise) -> str:
    """Every mismatch alone, the worst pairs, what was not tried, and the verdict."""
    data = found.dump()
    head = (f"on {found.n} samples", f"{found.metric} lost, points", "95 % interval", "divergence")
    rows = cells([*data["singles"], *data["pairs"][:SHOWN]])
    skipped = [f"not tried: {s.label}: {s.why}" for s in found.skipped]
    return "\n".join([grid(head, rows), *skipped, found.verdict])
