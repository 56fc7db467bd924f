"""Export: the files of a chosen plan, opened in the target and run from the certify noises."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from allot.certify import Statement
from allot.errors import ParityError
from allot.front import Front, Measured
from allot.judging.certified import certified
from allot.judging.fidelity import psnr, squared_error
from allot.samplers.run import SamplerRun
from allot.sampling.sampler import Sampler

FOLDER = "sampler"
# PSNR of the files' samples to the simulation's below which something else than rounding differs:
# codes that flip where a value lies between two of them grow over the steps
LEAST = 30.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Ran:
    """What the files put out. samples: of the certify noises, [n, ...].  psnr: to the simulation's
    [dB]."""

    samples: Tensor
    psnr: float


def ran(run: SamplerRun, m: Measured) -> Ran | None:
    """The plan's files written into the run's folder, and run; None where a target runs nothing or
    the sampler has no form of files.

    Raises ParityError where they sample something else than what was measured.
    """
    if run.family.written is None or not run.target.timed:
        return None
    planned = run.bank.copy(run.bank.standins(run.space.options(m.point)))
    assert isinstance(planned, Sampler)
    example = run.task.example()
    assert isinstance(example, dict)
    workload = run.job.workload
    opened = run.family.written(
        run.folder / FOLDER, planned, run.space.graph, example,
        target=run.target, workload=workload,
    )  # fmt: skip
    with torch.no_grad():
        rows = [run.task.forward(opened, b) for b in run.task.certify.batches(workload.batch)]
    samples = torch.cat(rows)
    near = psnr(float(squared_error(run.samples(m), samples).mean()))
    if near < LEAST:
        raise ParityError(
            f"files sample {near:.1f} dB from the plan that was measured in {run.target.name}: "
            f"rounding alone leaves more than {LEAST:g}"
        )
    return Ran(samples=samples, psnr=near)


def restated(
    run: SamplerRun, front: Front, m: Measured, found: Ran, statements: Mapping[int, Statement]
) -> dict[int, Statement]:
    """The statements, that of the chosen plan from what its files put out."""
    at = front.points.index(m)
    said = certified(
        run.family.judge, run.samples(None), found.samples, max_error=run.job.max_drop,
        data=statements[at].data,
    )  # fmt: skip
    return {**statements, at: replace(said, place=statements[at].place)}
