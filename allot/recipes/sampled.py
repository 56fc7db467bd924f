"""Sampled: recipes for samplers; each is a function from a sampler to the same, planned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from allot.job import method
from allot.recipes.recipe import Paper
from allot.samplers.planned import Planned


@dataclass(frozen=True, kw_only=True)
class SamplerRecipe:
    """A published method for samplers.

    row: its number in the survey of systems, "" where it has none.  plan: called with the sampler,
    seeds to calibrate on, and settings by name.  parts: the shared functions and classes that it
    composes.  differs: in what it departs from the paper.  oracle: what its answer is checked
    against.
    """

    name: str
    row: str
    paper: Paper
    plan: Callable[..., Planned]
    parts: tuple[object, ...]
    part: str = "complete"
    differs: str = ""
    oracle: str

    @property
    def made_of(self) -> tuple[str, ...]:
        """Names of the shared parts, as they are imported from allot."""
        return method(*self.parts)
