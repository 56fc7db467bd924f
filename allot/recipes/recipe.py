"""Recipe: a published method as one expression over parts, with its paper and its oracle."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from allot.errors import InputError, MissingError
from allot.explore import Searcher, Signal
from allot.flow import Prepare
from allot.job import method


@dataclass(frozen=True, kw_only=True)
class Paper:
    """Where a recipe comes from."""

    authors: str
    year: int
    title: str

    @property
    def short(self) -> str:
        return f"{self.authors} {self.year}"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What `compress` composes when it is asked for a published method by name.

    row: the method's number in the survey of systems.  axes: what it decides.  signals: what
    harm it foresees, the main one first.  searcher: how it chooses plans.  prepare: what it
    makes of the task's data.  floor: it takes no budget, but lowers bills as far as the metric on
    the search data allows; its searcher has a keyword of that name, in points.  library: an
    optional one that it needs.  part: "complete",
    or which part of the method this is.  differs: in what it departs from the paper.  oracle: what
    its answer is checked against.
    """

    name: str
    row: str
    paper: Paper
    axes: tuple[str, ...]
    signals: tuple[Signal, ...]
    searcher: Callable[..., None]
    prepare: Prepare | None = None
    floor: bool = False
    library: str = ""
    part: str = "complete"
    differs: str = ""
    oracle: str

    @property
    def made_of(self) -> tuple[str, ...]:
        """Names of the shared parts, as they are imported from allot."""
        return method(self.prepare, *self.signals, self.searcher)

    def covered(self, axes: tuple[str, ...]) -> tuple[str, ...]:
        """The axes asked for, all of the recipe's where none are.

        Raises InputError for one that the recipe does not decide.
        """
        for axis in axes:
            if axis not in self.axes:
                raise InputError(
                    f"recipe {self.name!r} decides {', '.join(self.axes)}, not {axis}; leave "
                    f"{axis} out of --axes or choose another recipe"
                )
        return axes or self.axes

    def searched(self, *, budgets: Sequence[str], max_drop: float) -> Searcher:
        """The searcher for what was asked.

        Raises InputError for budgets that it does not take, MissingError without its library.
        """
        if self.library and find_spec(self.library) is None:
            raise MissingError(
                f"recipe {self.name!r} needs {self.library}: pip install 'allot[bench]'"
            )
        if not self.floor:
            return self.searcher
        if budgets:
            raise InputError(
                f"recipe {self.name!r} lowers bills as far as --max-drop allows and takes no "
                f"--budget ({', '.join(budgets)}); leave it out or choose another recipe"
            )
        return functools.partial(self.searcher, floor=max_drop)
