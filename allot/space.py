"""Space: a product of choices over one graph; spaces over different axes add."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from allot.errors import InputError
from allot.option import Option
from allot.site import Graph, Site

# index of the option taken, one per choice of a space, in its order
Point = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Exactly one of `options` for a site (and those tied to it). options[0] is the original.

    struck: (label, reason) of options that the target cannot run or that can never pay.
    """

    site: str
    options: tuple[Option, ...]
    tied: tuple[str, ...] = ()
    struck: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Space:
    graph: Graph
    choices: tuple[Choice, ...]

    def __add__(self, other: Space) -> Space:
        return replace(self, choices=self.choices + other.choices)

    @property
    def counts(self) -> tuple[int, ...]:
        return tuple(len(c.options) for c in self.choices)

    @property
    def original(self) -> Point:
        return (0,) * len(self.choices)

    def position(self, site: str) -> int:
        """Where the choice of a site stands; raises InputError for a site without one."""
        for i, c in enumerate(self.choices):
            if site == c.site or site in c.tied:
                return i
        names = ", ".join(c.site for c in self.choices[:6])
        raise InputError(f"nothing is chosen at {site!r}; there are choices at {names} ...")

    def options(self, point: Sequence[int]) -> dict[str, Option]:
        """Site name -> option, for every site incl. tied ones."""
        out: dict[str, Option] = {}
        for c, i in zip(self.choices, point, strict=True):
            out |= {name: c.options[i] for name in (c.site, *c.tied)}
        return out

    def only(self, can: Callable[[Option, Site], str]) -> Space:
        """The space cut to what `can` allows ("" = yes, otherwise the reason why not)."""
        return replace(self, choices=tuple(self._cut(c, can) for c in self.choices))

    def _cut(self, choice: Choice, can: Callable[[Option, Site], str]) -> Choice:
        site = self.graph.site(choice.site)
        reasons = [("" if o.is_original else can(o, site)) for o in choice.options]
        kept = tuple(o for o, r in zip(choice.options, reasons, strict=True) if not r)
        struck = tuple((o.label, r) for o, r in zip(choice.options, reasons, strict=True) if r)
        return replace(choice, options=kept, struck=choice.struck + struck)

    def pin(self, name: str, label: str) -> Space:
        """The space with one site fixed to the option of that label; raises InputError."""
        at = self.position(name)
        found = [o for o in self.choices[at].options if o.label == label]
        if not found:
            labels = ", ".join(o.label for o in self.choices[at].options)
            raise InputError(f"{name} has no option {label!r}; it has {labels}")
        return self._with(at, (found[0],))

    def exclude(self, pattern: str) -> Space:
        """The space with every matching site left as it is; 're:' starts a regular expression.

        Sites tied to a matching one stay as well.  Raises InputError.
        """
        test = _matcher(pattern)
        hits = [i for i, c in enumerate(self.choices) if any(map(test, (c.site, *c.tied)))]
        if not hits:
            raise InputError(f"--exclude {pattern} matches no site of {len(self.choices)}")
        space = self
        for i in hits:
            space = space._with(i, space.choices[i].options[:1])
        return space

    def _with(self, at: int, options: tuple[Option, ...]) -> Space:
        new = replace(self.choices[at], options=options)
        return replace(self, choices=(*self.choices[:at], new, *self.choices[at + 1 :]))


def _matcher(pattern: str) -> Callable[[str], object]:
    """Tells whether a site's name is meant by the pattern of an exclusion."""
    if not pattern.startswith("re:"):
        return pattern.__eq__
    try:
        return re.compile(pattern[3:]).search
    except re.error as e:
        raise InputError(f"--exclude {pattern} is no regular expression: {e}") from e
