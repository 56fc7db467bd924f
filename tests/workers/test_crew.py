"""Laws of the schedule: every piece once, lost ones again, errors as they were raised."""

from __future__ import annotations

from pathlib import Path

import pytest

from allot.errors import InputError, JobError, ModelError
from allot.in_process import Values
from allot.workers.connect import check, connect
from allot.workers.crew import ATTEMPTS, Answer, Lost, Piece, Refused, carry_out, cut
from allot.workers.order import Factory, Order
from allot.workers.processes import Processes

POINTS = [(i, 0) for i in range(11)]


class Pretended:
    """A crew without processes: answers last asked first, loses what it is told to."""

    def __init__(self, size: int, lose: dict[tuple[int, ...], int]) -> None:
        self._size, self._lose = size, dict(lose)
        self._at: dict[int, Piece] = {}
        self.most = 0

    @property
    def size(self) -> int:
        return self._size

    def send(self, worker: int, piece: Piece) -> None:
        assert worker not in self._at
        self._at[worker] = piece
        self.most = max(self.most, len(self._at))

    def wait(self) -> list[tuple[int, Answer]]:
        worker = max(self._at)
        piece = self._at.pop(worker)
        if self._lose.get(piece.points[0], 0) > 0:
            self._lose[piece.points[0]] -= 1
            return [(worker, Lost(why="struck by lightning"))]
        return [(worker, [_values(p[0]) for p in piece.points])]

    def close(self) -> None:
        self._at.clear()


def _values(i: int) -> Values:
    return {"divergences": [float(i)], "scores": [1.0]}


@pytest.mark.parametrize("size", [1, 2, 8])
def test_every_plan_is_measured_once_whatever_is_lost(size: int) -> None:
    crew = Pretended(size, {(0, 0): ATTEMPTS - 1, (8, 0): 1})
    pieces = cut(POINTS, (0, 5))
    seen: dict[tuple[int, ...], Values] = {}

    def done(piece: Piece, found: list[Values]) -> None:
        assert not set(piece.points) & set(seen)
        seen.update(zip(piece.points, found, strict=True))

    carry_out(crew, pieces, done=done)
    assert seen == {p: _values(p[0]) for p in POINTS}
    assert crew.most == min(size, len(pieces))


def test_pieces_do_not_depend_on_who_takes_them_and_keep_the_order() -> None:
    pieces = cut(POINTS, (3, 9))
    assert [p for piece in pieces for p in piece.points] == POINTS
    assert {piece.span for piece in pieces} == {(3, 9)}


def test_what_is_lost_again_and_again_ends_the_job_with_the_last_words() -> None:
    crew = Pretended(2, {(4, 0): ATTEMPTS})
    with pytest.raises(JobError, match=r"3 times .* struck by lightning"):
        carry_out(crew, cut(POINTS, (0, 5)), done=lambda piece, found: None)


def test_an_error_on_purpose_comes_back_as_its_own_class() -> None:
    refused = Refused(kind="ModelError", text="NaN from layer x")
    assert type(refused.error()) is ModelError
    assert "layer x" in str(refused.error())
    assert type(Refused(kind="SystemExit", text="no").error()) is JobError


@pytest.mark.parametrize(
    "text",
    ["0", "-1", "", "four", "1.5", "ray://", "ray://host", "http://host:1", "ray://a:1/x", "²"],
)
def test_what_names_no_workers_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(InputError, match="number of processes"):
        check(text)


@pytest.mark.parametrize("text", ["1", "16", "ray", "ray://10.0.0.7:10001", "ray://head.local:1"])
def test_what_names_workers_passes(text: str) -> None:
    check(text)


def test_a_number_names_local_processes_that_start_with_their_first_piece(tmp_path: Path) -> None:
    given = Order(
        factory=Factory(source="digits-resnet"), folder=str(tmp_path), graph="", choices=(),
        recovery={}, samples=1, batch=1,
    )  # fmt: skip
    crew = connect("3", given, folder=tmp_path)
    assert isinstance(crew, Processes)
    assert crew.size == 3
    assert crew.ids == [None, None, None]
    crew.close()
