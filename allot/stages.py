"""Stages: the clock of a long job; says what runs, how far it is, and how the time was spent."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# called with the stage's name and the share of it that is done
Report = Callable[[str, float], None]


def silent(stage: str, share: float) -> None:
    """Reports nothing."""


class Stages:
    """Times the stages of one job.  seconds: by stage, in order.  limit: of the whole job."""

    def __init__(self, report: Report = silent, *, limit: float | None = None) -> None:
        self.report = report
        self.seconds: dict[str, float] = {}
        self._end = None if limit is None else time.monotonic() + limit

    @contextmanager
    def stage(self, name: str) -> Iterator[Callable[[float], None]]:
        """A stage while it runs; what it yields takes the share that is done."""
        start = time.monotonic()
        self.report(name, 0.0)
        try:
            yield lambda share: self.report(name, share)
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - start
        self.report(name, 1.0)

    def over(self) -> bool:
        """True where the time limit is used up."""
        return self._end is not None and time.monotonic() > self._end
