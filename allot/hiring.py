"""Hiring: for a while, a job's plans are measured by workers instead of here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from allot.errors import InputError
from allot.in_process import InProcess
from allot.recover import STEADY
from allot.run import Run
from allot.workers.connect import check as check_name
from allot.workers.connect import connect
from allot.workers.distributed import Distributed
from allot.workers.order import Factory, order


def check(workers: str, *, source: str, prepare: object = None) -> None:
    """Raises InputError for what names no workers, or where they could not make the task.

    prepare: what changes the task's data here alone, if anything does.
    """
    if not workers:
        return
    check_name(workers)
    if not source:
        raise InputError(
            "workers make the task again from its source; give source= a name that they find too, "
            'like "package.module:function"'
        )
    if prepare is not None:
        raise InputError(
            "workers make the task again from its source, whose data are changed here before "
            "anything is calibrated; leave --workers out"
        )


@contextmanager
def hired(run: Run, *, workers: str, source: str) -> Iterator[None]:
    """The run's evaluator hands its plans to workers inside; nothing changes without any.

    Losses, counts and memo are those of the run's own evaluator, whoever measured them.
    """
    inner = run.evaluator
    if not workers:
        yield
        return
    assert isinstance(inner, InProcess)
    given = order(
        inner,
        factory=Factory(
            source=source,
            seed=run.job.seed,
            samples=None if run.job.calibration is None else run.job.calibration.index,
            rewrites=tuple(r.dump() for r in run.job.rewrites),
        ),
        recovery=STEADY,
        bank=run.bank,
        folder=run.folder / "bank",
    )
    crew = connect(workers, given, folder=run.folder / "workers")
    run.evaluator = distributed = Distributed(inner, crew)
    try:
        yield
    finally:
        distributed.close()
        run.evaluator = inner
