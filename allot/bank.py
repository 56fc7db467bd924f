"""Bank: every option encoded once, switched in place and back; the only object that remembers."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import nn

from allot.option import Option, Stats
from allot.site import Graph, Site, Touch

# one option at one touch, as it meets others in a module
Meeting = tuple[Option, Touch, Site]
# a module, and what meets in it
Key = tuple[str, tuple[Meeting, ...]]


class Bank:
    """Encoded modules of one network, keyed by module and the options of all sites touching it.

    skeleton: a private copy of the user's network; switching happens there.  An encoding depends
    on the original's weights and statistics alone, never on options elsewhere.
    """

    def __init__(self, model: nn.Module, *, graph: Graph, stats: Stats) -> None:
        self.graph = graph
        self.stats = stats
        self.skeleton = copy.deepcopy(model).eval().requires_grad_(False)
        self._originals = dict(self.skeleton.named_modules())
        self._encoded: dict[Key, nn.Module] = {}

    def module(self, name: str) -> nn.Module:
        """The original module of a name, as the skeleton holds it."""
        return self._originals[name]

    def standins(self, options: Mapping[str, Option]) -> dict[str, nn.Module]:
        """Module name -> stand-in, for every module that a site of `options` touches."""
        return {
            name: self.standin(name, meetings) for name, meetings in self._meetings(options).items()
        }

    def standin(self, name: str, meetings: tuple[Meeting, ...]) -> nn.Module:
        """The module with the given options applied, structure first; encoded at most once."""
        if not meetings:
            return self._originals[name]
        key = (name, meetings)
        if key not in self._encoded:
            option, touch, site = meetings[-1]
            inner = self.standin(name, meetings[:-1])
            self._encoded[key] = option.apply(
                inner, touch=touch, site=site, graph=self.graph, stats=self.stats
            )
        return self._encoded[key]

    def encoded(self) -> dict[Key, nn.Module]:
        """Everything encoded so far; the modules are the bank's own."""
        return dict(self._encoded)

    def keep(self, encoded: Mapping[Key, nn.Module]) -> None:
        """Takes encodings made elsewhere from the same weights and statistics."""
        self._encoded |= encoded

    def unrounded(self, name: str, options: Mapping[str, Option]) -> nn.Module:
        """The module with its structure changed but its numbers left in float."""
        meetings = self._meetings(options).get(name, ())
        return self.standin(name, tuple(m for m in meetings if m[0].level == 0))

    def _meetings(self, options: Mapping[str, Option]) -> dict[str, tuple[Meeting, ...]]:
        found: dict[str, list[Meeting]] = {}
        for site_name, option in options.items():
            site = self.graph.site(site_name)
            for touch in () if option.is_original else site.touches:
                found.setdefault(touch.module, []).append((option, touch, site))
        return {
            name: tuple(sorted(group, key=lambda m: (m[0].level, m[2].name, m[1].role)))
            for name, group in found.items()
        }

    @contextmanager
    def trial(self, standins: Mapping[str, nn.Module]) -> Iterator[nn.Module]:
        """The skeleton with stand-ins in place for a while; restored by identity at the end.

        Trials nest: an inner trial stands in for what the outer one put there.
        """
        done: list[tuple[nn.Module, str, nn.Module]] = []
        try:
            # a container keeps its modules when it is wrapped, so the inside goes first
            for name in sorted(standins, key=lambda n: -n.count(".")):
                parent_name, _, child = name.rpartition(".")
                parent = self._originals[parent_name]
                done.append((parent, child, parent._modules[child]))  # type: ignore[arg-type]
                parent._modules[child] = standins[name]
            yield self.skeleton
        finally:
            for parent, child, module in reversed(done):
                parent._modules[child] = module

    def copy(self, standins: Mapping[str, nn.Module]) -> nn.Module:
        """An independent network with the stand-ins in place; shares no storage with the bank."""
        with self.trial(standins) as model:
            return copy.deepcopy(model)
