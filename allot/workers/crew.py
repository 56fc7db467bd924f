"""Crew: the seam to whatever runs workers, and the schedule that gives lost work out again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from allot import errors
from allot.errors import AllotError, JobError
from allot.in_process import Span, Values
from allot.space import Point

CHUNK = 4  # plans that go to a worker at once: neighbours share what they have in common
ATTEMPTS = 3


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Some plans to be measured on some samples."""

    points: tuple[Point, ...]
    span: Span


@dataclass(frozen=True, kw_only=True)
class Lost:
    """A worker is gone, with what it was at; why: what is known of it."""

    why: str


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A worker's error on purpose: the name of its class in allot.errors, and what it says."""

    kind: str
    text: str

    def error(self) -> AllotError:
        kind = getattr(errors, self.kind, JobError)
        return kind(self.text) if issubclass(kind, AllotError) else JobError(self.text)


Answer = list[Values] | Lost | Refused


class Crew(Protocol):
    """Workers by number, each at one piece at a time."""

    @property
    def size(self) -> int: ...

    def send(self, worker: int, piece: Piece) -> None:
        """Gives a piece to an idle worker; one that was lost is replaced first."""

    def wait(self) -> list[tuple[int, Answer]]:
        """Blocks until a worker that is at something answers or is lost."""

    def close(self) -> None:
        """Ends the workers."""


def cut(points: Sequence[Point], span: Span) -> list[Piece]:
    """Sorted points cut into pieces, in the same way for any number of workers."""
    starts = range(0, len(points), CHUNK)
    return [Piece(points=tuple(points[i : i + CHUNK]), span=span) for i in starts]


def carry_out(
    crew: Crew, pieces: Sequence[Piece], *, done: Callable[[Piece, list[Values]], None]
) -> None:
    """Every piece measured by some worker; `done` is told of each as it comes.

    A lost worker's piece is given out again.  Raises JobError once a piece was lost three times,
    and what a worker raised on purpose.
    """
    waiting = list(reversed(range(len(pieces))))
    lost = [0] * len(pieces)
    at: dict[int, int] = {}
    while waiting or at:
        for worker in range(crew.size):
            if worker not in at and waiting:
                at[worker] = waiting.pop()
                crew.send(worker, pieces[at[worker]])
        for worker, answer in crew.wait():
            i = at.pop(worker)
            if isinstance(answer, Refused):
                raise answer.error()
            if not isinstance(answer, Lost):
                done(pieces[i], answer)
                continue
            lost[i] += 1
            if lost[i] >= ATTEMPTS:
                raise JobError(
                    f"a worker was lost {ATTEMPTS} times at the same plans: {answer.why}"
                )
            waiting.append(i)
