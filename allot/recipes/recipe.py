"""Recipe: a published method as one expression over parts, with its paper and its oracle."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from allot.errors import InputError, MissingError
from allot.explore import Searcher, Signal
from allot.flow import Axis, Prepare
from allot.harm.fisher import fisher
from allot.job import method
from allot.part import Part
from allot.recipes import offered
from allot.recipes.bits import Bits, parsed
from allot.recipes.offered import Passes
from allot.scheme import Scheme
from allot.searchers.asked import as_asked


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

    row: the method's number in the survey of systems, "" where it has none.  axes: what it decides.
    signals: what harm it foresees, the main one first.  searcher: how it chooses plans, None for
    allot's own search.  prepare: what it makes of the task's data.  passes: what it makes of a
    network for the precision asked for; its precision axis is then its own.  bits, widths: the
    precision where none is asked for, and the bits of weights that are then offered.  floor: it
    takes no budget, but lowers bills as far as the metric on the search data allows; its searcher
    has a keyword of that name, in points.  library: an optional one that it needs.  part:
    "complete", or which part of the method this is.  differs: in what it departs from the paper.
    oracle: what its answer is checked against.
    """

    name: str
    row: str
    paper: Paper
    axes: tuple[str, ...]
    signals: tuple[Signal, ...] = (fisher,)
    searcher: Callable[..., None] | None = None
    prepare: Prepare | None = None
    passes: Passes | None = None
    bits: str = Bits().text
    widths: tuple[int, ...] = offered.WIDTHS
    floor: bool = False
    library: str = ""
    part: str = "complete"
    differs: str = ""
    oracle: str

    @property
    def made_of(self) -> tuple[str, ...]:
        """Names of the shared parts, as they are imported from allot."""
        return method(self.prepare, *self._passes, *self.signals, self.searcher)

    @property
    def _passes(self) -> tuple[object, ...]:
        """Classes of the parts that a network goes through."""
        if self.passes is None:
            return ()
        scheme = self.passes(parsed(self.bits))
        inside = [getattr(scheme.weight, name, None) for name in ("ranges", "rounding")]
        found = [*scheme.rewrites, *inside, scheme.activation, scheme.recovery.learning]
        return tuple(dict.fromkeys(_kind(x) for x in found if x is not None))

    def axis(self, bits: str) -> Axis:
        """The precision axis of its own; bits: "W4A8", or "" for every width of weights.

        Raises InputError for a recipe that quantizes as any other, and for bits that are none.
        """
        if self.passes is None:
            raise InputError(
                f"recipe {self.name!r} decides how many bits there are; leave --bits out, or take "
                "a recipe that quantizes in a way of its own"
            )
        given = parsed(bits or self.bits)
        widths = (given.weight,) if bits else self.widths
        return functools.partial(offered.space, passes=self.passes, bits=given, widths=widths)

    def scheme(self, bits: str) -> Scheme | None:
        """What a network goes through, None for a recipe that only chooses."""
        if self.passes is None:
            return None
        return self.passes(parsed(bits or self.bits))

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

    def searched(
        self, *, budgets: Sequence[str], max_drop: float, bits: str = ""
    ) -> Searcher | None:
        """The searcher for what was asked; None for allot's own.

        Raises InputError for budgets that it does not take, MissingError without its library.
        """
        if self.library and find_spec(self.library) is None:
            raise MissingError(
                f"recipe {self.name!r} needs {self.library}: pip install 'allot[bench]'"
            )
        if bits:
            return as_asked
        if not self.floor or self.searcher is None:
            return self.searcher
        if budgets:
            raise InputError(
                f"recipe {self.name!r} lowers bills as far as --max-drop allows and takes no "
                f"--budget ({', '.join(budgets)}); leave it out or choose another recipe"
            )
        return functools.partial(self.searcher, floor=max_drop)


def _kind(part: object) -> object:
    """The class of a part; a rule stands for itself."""
    return type(part) if isinstance(part, Part) else part
