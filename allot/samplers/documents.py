"""Documents: what a sampler's job found, as the JSON files and the report of its folder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import torch
from torch import Tensor

from allot.artefact import SUMMARY
from allot.certify import Statement
from allot.document import environment
from allot.files import write_json, write_text
from allot.front import Front, Measured
from allot.judging import compared as compared_by
from allot.judging.fidelity import psnr, squared_error
from allot.judging.shown import names_of, shown
from allot.measure import paired_interval
from allot.options.steps import StepOption
from allot.report import page
from allot.report.data import SAMPLES, read
from allot.samplers.export import Ran
from allot.samplers.run import SamplerRun
from allot.space import Point
from allot.versions import versions

VERSION = 1
# the Frechet distance to the original, and a share of the squared feature error
UNIT = "squared features"
PLAN, FRONT, CERTIFICATE, REPORT = "plan.json", "front.json", "certificate.json", "report.html"


def write(
    run: SamplerRun,
    front: Front,
    chosen: Measured | None,
    statements: Mapping[int, Statement],
    ran: Ran | None = None,
) -> Mapping[str, Any]:
    """Writes front, summary, report and, of a chosen plan, plan and certificate; the summary.

    ran: what the plan's files put out, where there are some.
    """
    original = run.samples(None)
    found = summary(run, original)
    if chosen is not None:
        at = front.points.index(chosen)
        found = {
            **found,
            "chosen": at,
            "compressed": compressed(run, chosen, original),
            "files": None if ran is None else {"target": run.target.name, "psnr": ran.psnr},
            "steps": steps(run, chosen.point),
            "layers": layers(run, chosen.point),
        }
        write_json(run.folder / PLAN, run.plan(chosen).dump())
        write_json(run.folder / SAMPLES, pictures(run, chosen, original))
        write_json(run.folder / CERTIFICATE, statements[at].dump())
    write_json(run.folder / FRONT, _front(front, statements))
    write_json(run.folder / SUMMARY, found)
    write_text(run.folder / REPORT, page.render(read(run.folder)))
    return found


def _front(front: Front, statements: Mapping[int, Statement]) -> dict[str, Any]:
    return {
        **front.dump(),
        "certified": {str(i): s.certified for i, s in statements.items()},
        "bounds": {str(i): s.bound for i, s in statements.items()},
        "statements": {str(i): s.dump() for i, s in statements.items()},
    }


def summary(run: SamplerRun, original: Tensor) -> dict[str, Any]:
    """What every run says of itself, certified or not."""
    job, graph = run.job, run.space.graph
    texts = {b.partition("=")[0]: b.partition("=")[2] for b in job.budgets}
    return {
        "version": VERSION,
        "allot": metadata.version("allot"),
        "task": run.task.name,
        "source": job.task,
        "target": job.target,
        "target_part": run.target.dump(),
        "seed": job.seed,
        "axes": list(job.axes),
        "metric": run.task.metric,
        "unit": UNIT,
        "created": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "budgets": {k: {"limit": v, "asked": texts[k]} for k, v in run.limits.items()},
        "max_drop": job.max_drop,
        "original": {**run.originals, "metric": 1.0, "n": len(original)},
        "compressed": None,
        "chosen": None,
        "preprocess": run.task.preprocess,
        "forward_passes": run.evaluator.spent,
        "seconds": {k: round(v, 3) for k, v in run.stages.seconds.items()},
        "unknown": [list(u) for u in graph.unknown],
        "notes": notes(run),
        "versions": versions(),
        "environment": environment(),
        **dict(run.family.origin),
    }


def notes(run: SamplerRun) -> list[str]:
    """What a reader should know."""
    said = [f"samples are judged by network {run.family.judge.digest}"]
    if run.stages.over():
        said.append("the time limit was reached: fewer plans were measured than could have been")
    return said


def compressed(run: SamplerRun, m: Measured, original: Tensor) -> dict[str, Any]:
    """What the plan does from noises that the search never saw."""
    samples = run.samples(m)
    like = run.task.score(samples, original)
    low, high = paired_interval(like, torch.ones_like(like))
    far = run.task.divergence(original, samples).double()
    half = 1.96 * float(far.std()) / len(far) ** 0.5
    return {
        **m.bills,
        "metric": float(like.mean()),
        "metric_interval": [100 * low, 100 * high],
        "divergence": float(far.mean()),
        "divergence_interval": [float(far.mean()) - half, float(far.mean()) + half],
        "psnr": psnr(float(squared_error(original, samples).mean())),
        "n": len(like),
        "optimality_gap": None if math.isnan(m.gap) else m.gap,
    }


def pictures(run: SamplerRun, m: Measured, original: Tensor) -> dict[str, Any]:
    """What the report shows of the plan's samples, and how far they are from the original's."""
    samples, inputs = run.samples(m), run.task.certify.inputs
    assert isinstance(inputs, dict)
    enough = len(original) >= compared_by.LEAST
    found = compared_by.compare(run.family.judge, original, samples) if enough else None
    figures = {} if found is None else compared_by.figures(found)
    return shown(original, samples, names_of(inputs), figures=figures)


def steps(run: SamplerRun, point: Point) -> list[dict[str, Any]]:
    """What every step does, along the noise levels."""
    grid, found = run.task.model.grid, []
    macs = {x.module.removeprefix("denoiser."): x.macs for x in run.space.graph.layers}
    for c, i in zip(run.space.choices, point, strict=True):
        option = c.options[i]
        if isinstance(option, StepOption):
            assert hasattr(grid, "level")
            level = grid.level(int(c.site.rpartition(".")[2]))  # type: ignore[operator]
            found.append({
                "site": c.site, "time": level.time, "log_snr": level.log_snr,
                "label": option.label, "taken": option.taken, "bits": option.bits,
                "left": list(option.left),
                "computed": sum(n for k, n in macs.items() if option.computes(k))
                / sum(macs.values()),
            })  # fmt: skip
    return found


def layers(run: SamplerRun, point: Point) -> list[dict[str, Any]]:
    """Bits of every layer's weight."""
    options = run.space.options(point)
    rows = []
    for x in run.space.graph.layers:
        weight = options.get(f"{x.module}.weight")
        bits = 32.0
        if weight is not None:
            bits = weight.effect(run.space.graph.site(f"{x.module}.weight")).stored_bits
        ins, outs = x.ins, x.weight[0]
        whole = 4 * outs * math.prod(x.weight[1:])
        rows.append({
            "name": x.module, "op": x.op, "weight_shape": list(x.weight), "macs": x.macs,
            "bits": bits, "activation": None, "kept_in": ins, "in": ins, "kept_out": outs,
            "out": outs, "bytes": math.ceil(whole * bits / 32), "original_bytes": whole,
        })  # fmt: skip
    return rows
