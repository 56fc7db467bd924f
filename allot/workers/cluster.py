"""Cluster: workers on the machines of a Ray cluster."""

from __future__ import annotations

import os
from typing import Any

from allot.errors import AllotError, MissingError
from allot.in_process import Span, Values
from allot.workers.crew import Answer, Lost, Piece, Refused
from allot.workers.order import Order, Worker, load

INSTALL = 'pip install "allot[cluster]"'


class Cluster:
    """The `Crew` of Ray actors (Moritz et al. 2018).

    address: "ray://host:port" of a running cluster, or "" for one on this machine that lives as
    long as the crew.  workers: 0 for as many as the cluster has processors.  The machines need
    the same Python, allot, the task's code, and the bank's folder.  Raises MissingError without
    Ray.
    """

    def __init__(self, given: Order, *, address: str, workers: int = 0) -> None:
        self._ray = ray = _ray()
        self._given = given.dump()
        self._own = not ray.is_initialized()
        if self._own:
            where = {"address": address} if address else {"include_dashboard": False}
            ray.init(log_to_driver=False, configure_logging=False, **where)
        processors = int(ray.cluster_resources().get("CPU", 1))
        self._actors: list[Any] = [None] * (workers or processors)
        self._kind = ray.remote(num_cpus=1, max_restarts=0)(Actor)
        self._at: dict[Any, int] = {}

    @property
    def size(self) -> int:
        return len(self._actors)

    def send(self, worker: int, piece: Piece) -> None:
        if self._actors[worker] is None:
            self._actors[worker] = self._kind.remote(self._given)
        points = [list(p) for p in piece.points]
        self._at[self._actors[worker].measured.remote(points, piece.span)] = worker

    def wait(self) -> list[tuple[int, Answer]]:
        ready, _ = self._ray.wait(list(self._at), num_returns=1)
        return [(self._at[r], self._answer(r)) for r in ready]

    def close(self) -> None:
        for actor in self._actors:
            if actor is not None:
                self._ray.kill(actor)
        if self._own:
            self._ray.shutdown()

    def _answer(self, ready: Any) -> Answer:
        worker = self._at.pop(ready)
        try:
            data = self._ray.get(ready)
        except self._ray.exceptions.RayError as e:
            actor, self._actors[worker] = self._actors[worker], None
            self._ray.kill(actor)
            return Lost(why=f"worker {worker}: {str(e).strip().splitlines()[-1]}")
        if "error" in data:
            return Refused(kind=data["error"], text=data["text"])
        return list(data["found"])


class Actor:
    """A worker as Ray runs it; errors on purpose come back as data."""

    def __init__(self, given: dict[str, Any]) -> None:
        self._given = given
        self._worker: Worker | None = None

    def measured(self, points: list[list[int]], span: Span) -> dict[str, Any]:
        try:
            if self._worker is None:
                self._worker = Worker(load(self._given))
            found: list[Values] = self._worker.measured(points, span)
        except AllotError as e:
            return {"error": type(e).__name__, "text": str(e)}
        return {"found": found}


def _ray() -> Any:
    # otherwise it reports what runs here to its makers
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as e:
        raise MissingError(f"workers on a cluster need Ray: {INSTALL}") from e
    return ray
