"""Documents: what a job found, as the JSON files and the report of its folder."""

from __future__ import annotations

import hashlib
import math
import platform
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from allot import bill, card
from allot.artefact import SUMMARY, add_documents
from allot.clock import repeated
from allot.embeddings import left_in_float
from allot.front import Measured
from allot.measure import paired_interval
from allot.num.paired import drop_interval
from allot.processor import device, instructions
from allot.report import page
from allot.report.data import read
from allot.run import Run
from allot.target import Target
from allot.timing import compare, ratio
from allot.verify import Parity
from allot.versions import versions

if TYPE_CHECKING:
    from allot.deliver import Delivery

VERSION = 1


def common(d: Delivery, original: Tensor) -> dict[str, Any]:
    """front.json, harm.json, summary.json and, where it was measured, latency.json."""
    run = d.run
    found = {"front.json": front(d), "harm.json": harm(run), SUMMARY: summary(d, original)}
    return found | ({"latency.json": dict(run.latency)} if run.latency else {})


def whole(
    d: Delivery,
    original: Tensor,
    *,
    times: Mapping[str, Mapping[str, Any]],
    parities: Mapping[str, Parity],
    io: Mapping[str, Any],
) -> dict[str, Any]:
    """All documents of the chosen plan, with what was stated of it."""
    found = common(d, original)
    assert d.chosen is not None and d.run_outputs is not None
    index = d.front.points.index(d.chosen)
    report = {
        **found[SUMMARY],
        **io,
        "chosen": index,
        "recovery": d.chosen.recovery,
        "compressed": compressed(d, d.chosen, original, d.run_outputs, times),
        "layers": layers(d.run, d.chosen),
        "runtimes": dict(times),
        "parity": {k: {**asdict(p), "holds": p.holds} for k, p in parities.items()},
    }
    if any(report["compressed"][k] > v for k, v in d.limits.items()):
        said = "timed again at delivery, the file lies above its latency budget: see its interval"
        report["notes"] = [said, *report["notes"]]
    found[SUMMARY] = report
    # a point past the end of the fixed sequence has nothing said of it
    if index in d.statements:
        found["certificate.json"] = d.statements[index].dump()
    found[card.FILE] = card.card(report, found.get("certificate.json"))
    return found


def add_report(folder: Path) -> None:
    """Renders the folder's report into it."""
    add_documents(folder, {"report.html": page.render(read(folder))})


def front(d: Delivery) -> dict[str, Any]:
    """The front, what the fixed sequence said of its points, and the solver's choices."""
    return {
        **d.front.dump(),
        "certified": {str(i): s.certified for i, s in d.statements.items()},
        "bounds": {str(i): s.bound for i, s in d.statements.items()},
        "statements": {str(i): s.dump() for i, s in d.statements.items()},
    }


def harm(run: Run) -> dict[str, Any]:
    """The divergence of every option alone."""
    rows = []
    for t in run.single.terms if run.single else ():
        choice = run.space.choices[t.at[0]]
        rows += [
            {"site": choice.site, "label": o.label, "kind": o.kind, "divergence": float(v)}
            for o, v in zip(choice.options, t.values, strict=True)
            if not o.is_original
        ]
    return {"version": VERSION, "unit": "nat", "rows": rows}


def summary(d: Delivery, original: Tensor) -> dict[str, Any]:
    """What every run says of itself, certified or not."""
    run, job = d.run, d.run.job
    scores = _scores(run, original)
    graph = run.space.graph
    return {
        "version": VERSION,
        "allot": metadata.version("allot"),
        "task": run.task.name,
        "source": job.task,
        "target": job.target,
        "target_part": run.target.dump(),
        "workload": asdict(job.workload),
        "seed": job.seed,
        "axes": list(job.axes),
        **({"rewrites": dict(run.tried)} if run.tried else {}),
        "metric": run.task.metric,
        "created": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "budgets": {k: {"limit": v, "asked": _asked(job.budgets, k)} for k, v in d.limits.items()},
        "max_drop": job.max_drop,
        "original": {**run.originals, "metric": float(scores.mean()), "n": len(scores)},
        "compressed": None,
        "chosen": None,
        "preprocess": run.task.preprocess,
        "classes": list(run.task.classes),
        "forward_passes": run.meter.passes,
        "seconds": {k: round(v, 3) for k, v in run.stages.seconds.items()},
        "unknown": [list(u) for u in graph.unknown],
        "notes": notes(run),
        "versions": versions(),
        "environment": environment(),
    }


def environment() -> dict[str, Any]:
    """The machine, as far as results may hang on it."""
    system = f"{platform.system()} {platform.machine()}"
    return {"system": system, "processor": device(), "instructions": list(instructions())}


def _asked(budgets: tuple[str, ...], bill: str) -> str:
    return next(b.partition("=")[2] for b in budgets if b.startswith(f"{bill}="))


def notes(run: Run) -> list[str]:
    """What a reader should know: what stayed in float, what could not be chosen, how sure."""
    graph = run.space.graph
    said = [*left_in_float(graph, {c.site for c in run.space.choices})]
    said += [
        f"{s.name} keeps its width: {s.fixed}"
        for s in graph.sites
        if s.kind == "channels" and s.fixed
    ]
    struck: dict[str, int] = {}
    for c in run.space.choices:
        for label, reason in c.struck:
            struck[f"{label}: {reason}"] = struck.get(f"{label}: {reason}", 0) + 1
    said += [f"struck out at {n} sites, {text}" for text, n in struck.items()]
    if run.stages.over():
        said.append("the time limit was reached: fewer plans were measured than could have been")
    if run.fit is not None:
        said.append(
            f"the latency model misses each of {run.fit.n} networks, fitted to the others, by "
            f"{100 * run.fit.error:.1f} % on average; finalists were timed"
        )
    return said


def compressed(
    d: Delivery, m: Measured, original: Tensor, found: Tensor, times: Mapping[str, Any]
) -> dict[str, Any]:
    """What the exported file is and does, measured on the certify samples in the target."""
    run = d.run
    a, b = _scores(run, original), _scores(run, found)
    low, high = change_interval(a, b)
    divergence = run.task.divergence(original, found).double()
    half = 1.96 * float(divergence.std()) / len(divergence) ** 0.5
    mean = float(divergence.mean())
    here = times.get(run.target.name)
    document = {
        **m.bills,
        "metric": float(b.mean()),
        "metric_interval": [100 * low, 100 * high],
        "divergence": mean,
        "divergence_interval": [mean - half, mean + half],
        "n": len(a),
        "optimality_gap": None if math.isnan(m.gap) else m.gap,
    }
    if here:
        # by the ratio of turns taken together, so that both sides of the summary fit each other
        original_s = run.originals.get("latency", here["original_s"])
        document["latency"] = here["ratio"] * original_s
        document["latency_interval"] = [v * original_s for v in here["ratio_interval"]]
    return document


def change_interval(a: Tensor, b: Tensor) -> tuple[float, float]:
    """95 % interval of mean(b - a) of paired scores [n]: exact where all are 0 or 1."""
    if not bool(torch.isin(torch.cat([a, b]), torch.tensor([0.0, 1.0]).double()).all()):
        return paired_interval(b, a)
    low, high = drop_interval(int((a > b).sum()), int((a < b).sum()), len(a))
    return -high, -low


def _scores(run: Run, found: Tensor) -> Tensor:
    labels = run.task.certify.labels
    if labels is None:
        labels = original_labels(run)
    return run.task.score(found, labels).double()


def original_labels(run: Run) -> Tensor:
    """What the original says of the certify set, where there are no labels."""
    from allot.deliver import original_outputs

    return run.task.said(original_outputs(run))


def layers(run: Run, m: Measured) -> list[dict[str, Any]]:
    """Bits, width and bytes of every layer of a plan; no bits and no width in a dropped block."""
    rows = []
    for layer in run.space.graph.layers:
        s = bill.state(run.space, layer, m.point)
        there = (s.stored_bits, s.input_bits, s.ins, s.outs)
        bits, entering, ins, outs = (None, None, 0, 0) if s.gone else there
        original = bill.state(run.space, layer, run.space.original)
        rows.append({
            "name": layer.module, "op": layer.op, "weight_shape": list(layer.weight),
            "macs": layer.macs, "bits": bits, "activation": entering,
            "kept_in": ins, "in": layer.ins, "kept_out": outs, "out": layer.weight[0],
            "bytes": s.stored_bytes, "original_bytes": original.stored_bytes,
        })  # fmt: skip
    return rows


def timed(run: Run, onnx: bytes, target: Target) -> dict[str, Any]:
    """The file beside the float original in one runtime, in turns; once per job."""
    name = f"timed/{target.name}/{hashlib.sha256(onnx).hexdigest()[:16]}"
    return dict(run.memo.get(name, lambda: _timed(run, onnx, target)))


def _timed(run: Run, onnx: bytes, target: Target) -> dict[str, Any]:
    sessions = {
        "file": target.open(onnx, workload=run.workload),
        "original": target.open(run.clock.original(), workload=run.workload),
    }
    inputs = repeated(run.task.calibrate.inputs, run.workload.batch)
    found = compare(sessions, inputs, rounds=40, threads=run.workload.threads)
    r = ratio(found["file"], found["original"])
    return {
        "median_s": found["file"].median_s,
        "original_s": found["original"].median_s,
        "ratio": r.value,
        "ratio_interval": [r.low, r.high],
        "n": r.n,
    }
