"""Laws of many workers: the same answers, costs and memo as one, whoever computes or dies."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from allot.errors import JobError, PlanError
from allot.in_process import InProcess
from allot.measure import Loss
from allot.memo import Memo
from allot.recover import Recovery
from allot.space import Point
from allot.workers import Distributed, Factory, Order, order
from allot.workers.crew import Answer, Crew, Piece
from allot.workers.order import load
from allot.workers.processes import Processes
from tests import small, toys
from tests.workers.tasks import task

RECOVERY = Recovery(samples=16)
SOURCE = "tests.workers.tasks:task"


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Workers run with one thread, and sums depend on it in their last digits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def kit() -> small.Kit:
    return small.kit(toys.chain)


@pytest.fixture(scope="module")
def points(kit: small.Kit) -> list[Point]:
    found = [small.random_point(kit.space, seed) for seed in range(9)]
    return [kit.space.original, *found, found[0]]


def inner(kit: small.Kit, memo: Memo | None = None) -> InProcess:
    return InProcess(
        space=kit.space, task=kit.task, bank=kit.bank, data=kit.task.search, recovery=RECOVERY,
        memo=Memo() if memo is None else memo, key="search", batch=7,
    )  # fmt: skip


@pytest.fixture(scope="module")
def given(kit: small.Kit, tmp_path_factory: pytest.TempPathFactory) -> Order:
    folder = tmp_path_factory.mktemp("bank")
    factory = Factory(source=SOURCE, arguments=("chain",))
    return order(
        inner(kit), factory=factory, recovery=RECOVERY, bank=kit.bank, folder=folder, batch=7
    )


@pytest.fixture(scope="module")
def alone(kit: small.Kit, points: list[Point]) -> tuple[list[Loss], float]:
    """Losses and F of the points in process, a part of the samples first."""
    evaluator = inner(kit)
    evaluator.losses(points[:5], share=0.3)
    return evaluator.losses(points), evaluator.spent


class Fragile:
    """A crew of processes of which some are killed as soon as they are given something."""

    def __init__(self, crew: Processes, kills: int) -> None:
        self._crew, self.kills = crew, kills

    @property
    def size(self) -> int:
        return self._crew.size

    def send(self, worker: int, piece: Piece) -> None:
        self._crew.send(worker, piece)
        if self.kills > 0:
            self.kills -= 1
            found = self._crew.ids[worker]
            assert found is not None
            os.kill(found, signal.SIGKILL)

    def wait(self) -> list[tuple[int, Answer]]:
        return self._crew.wait()

    def close(self) -> None:
        self._crew.close()


class Nobody:
    """A crew that must not be asked."""

    size = 1

    def send(self, worker: int, piece: Piece) -> None:
        raise AssertionError("asked for what is in the memo")

    def wait(self) -> list[tuple[int, Answer]]:
        raise AssertionError("asked for what is in the memo")

    def close(self) -> None: ...


def measured(
    kit: small.Kit, crew: Crew, points: list[Point], memo: Memo | None = None
) -> tuple[list[Loss], float]:
    evaluator = Distributed(inner(kit, memo), crew)
    try:
        evaluator.losses(points[:5], share=0.3)
        return evaluator.losses(points), evaluator.spent
    finally:
        evaluator.close()


def test_one_worker_and_many_of_which_one_dies_answer_as_none_does(
    kit: small.Kit,
    points: list[Point],
    given: Order,
    alone: tuple[list[Loss], float],
    tmp_path: Path,
) -> None:
    one = Processes(given, workers=1, folder=tmp_path)
    assert measured(kit, one, points) == alone
    memo = Memo(tmp_path / "memo.jsonl")
    many = Fragile(Processes(given, workers=3, folder=tmp_path), kills=1)
    assert measured(kit, many, points, memo) == alone
    assert many.kills == 0
    resumed = Memo(tmp_path / "memo.jsonl")
    assert measured(kit, Nobody(), points, resumed) == alone


def test_a_plan_that_kills_every_worker_ends_the_job(
    kit: small.Kit, points: list[Point], given: Order, tmp_path: Path
) -> None:
    crew = Fragile(Processes(given, workers=1, folder=tmp_path), kills=99)
    with pytest.raises(JobError, match="lost 3 times"):
        measured(kit, crew, points)


def test_a_factory_of_another_network_is_refused_by_the_worker(
    kit: small.Kit, points: list[Point], given: Order, tmp_path: Path
) -> None:
    other = replace(given, factory=Factory(source=SOURCE, arguments=("residual",)))
    with pytest.raises(PlanError, match="another network"):
        measured(kit, Processes(other, workers=1, folder=tmp_path), points)


def test_a_task_that_fails_ends_the_job_with_what_it_said(
    kit: small.Kit, points: list[Point], given: Order, tmp_path: Path
) -> None:
    wrong = replace(given, factory=Factory(source=SOURCE, arguments=("no_such_toy",)))
    with pytest.raises(JobError, match="no_such_toy"):
        measured(kit, Processes(wrong, workers=1, folder=tmp_path), points)


def test_an_order_survives_its_message(given: Order) -> None:
    assert load(given.dump()) == given


def test_a_factory_makes_what_its_function_makes() -> None:
    made = Factory(source=SOURCE, arguments=("chain",)).task()
    assert torch.equal(made.search.inputs, task("chain").search.inputs)


def test_a_ray_cluster_answers_as_one_process_does(
    kit: small.Kit,
    points: list[Point],
    given: Order,
    alone: tuple[list[Loss], float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ray = pytest.importorskip("ray", reason="Ray is not installed (extra: cluster)")
    from allot.workers.cluster import Cluster

    crew = Cluster(given, address="", workers=2)
    sent = []

    class Dying:
        """The first piece's worker is killed while it is at it."""

        size = crew.size

        def send(self, worker: int, piece: Piece) -> None:
            crew.send(worker, piece)
            if not sent:
                ray.kill(crew._actors[worker])
            sent.append(piece)

        def wait(self) -> list[tuple[int, Answer]]:
            return crew.wait()

        def close(self) -> None:
            crew.close()

    assert measured(kit, Dying(), points) == alone
    assert len(sent) > len({p.points + p.span for p in sent})
