"""Scheme: a post-training recipe as a list of passes, and the network that it makes.

rewrite -> format and ranges -> rounding -> reconstruction -> compensation, the same for every
weight and every tensor between layers; what differs from place to place is what a search decides.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

from allot import bill
from allot.bank import Bank
from allot.calibrate import calibrate, needed
from allot.errors import InputError
from allot.option import Effect, Option
from allot.options.precision import Activation, Weight
from allot.recover import Recovery, moments
from allot.repair import repaired
from allot.rewrites.rewrite import Rewrite, rewritten
from allot.site import Graph, Site
from allot.space import Choice, Space
from allot.task import Task
from allot.trace import trace

# stages of the work and the share of it that is done
Progress = Callable[[str, float], None]
# what a site gets where that hangs on the site
Rule = Callable[[Site, Graph], Option | None]


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """What is done to a network, pass by pass.

    rewrites: function-preserving changes, in order.  weight: how every weight is stored, or a rule
    that says it of each; None leaves them in float.  activation: the same of every tensor that a
    layer reads.  places: (a pattern of site names, option) that differ, the first that fits and is
    of the site's kind; an original option leaves a place as it is.  recovery: rounding in execution
    order, statistics, codes learned by units.
    """

    rewrites: tuple[Rewrite, ...] = ()
    weight: Option | Rule | None = None
    activation: Option | Rule | None = None
    places: tuple[tuple[str, Option], ...] = ()
    recovery: Recovery = Recovery(samples=512, in_order=True)  # noqa: RUF009 - frozen

    def options(self, graph: Graph) -> dict[str, Option]:
        """Site -> option, for every site that is changed.

        Raises InputError for a pattern that fits no site.
        """
        names = [s.name for s in graph.sites]
        for pattern, _ in self.places:
            if not fnmatch.filter(names, pattern):
                raise InputError(f"no site fits {pattern!r}; the sites are {', '.join(names)}")
        found = {}
        for site in graph.sites:
            if site.kind not in ("weight", "activation"):
                continue
            option = self.at(site, graph)
            if option is not None and not option.is_original and not site.fixed:
                found[site.name] = option
        return found

    def at(self, site: Site, graph: Graph) -> Option | None:
        """The option of one site, None for one that stays as it is."""
        placed = [
            o for p, o in self.places if o.kind == site.kind and fnmatch.fnmatch(site.name, p)
        ]
        usual = self.weight if site.kind == "weight" else self.activation
        option = placed[0] if placed else usual
        return option if option is None or isinstance(option, Option) else option(site, graph)


@dataclass(frozen=True, kw_only=True, eq=False)
class Quantized:
    """What a scheme made. task: with the rewritten network.  options: site -> option.  standins:
    module -> what stands in for it."""

    task: Task
    graph: Graph
    bank: Bank
    options: Mapping[str, Option]
    standins: Mapping[str, nn.Module]

    def network(self) -> nn.Module:
        """A copy of the quantized network, in eval mode."""
        return self.bank.copy(self.standins).eval()

    @property
    def bytes(self) -> float:
        """Bytes of all weights, biases and scales, as they are packed, without a header."""
        space = _space(self.graph, self.options)
        return bill.size(space, header=0).of((1,) * len(space.choices))

    @property
    def weight_bits(self) -> float:
        """Bits per element of the weights of all layers, scales and all that is shared counted."""
        sites = [s for s in self.graph.sites if s.kind == "weight"]
        stored = sum(_bits(self.options.get(s.name), s) for s in sites)
        return stored / sum(math.prod(s.shape) for s in sites)


def quantized(
    task: Task, scheme: Scheme, *, seed: int = 0, progress: Progress = lambda stage, share: None
) -> Quantized:
    """The network after all passes of a scheme; the task's own is left as it is.

    Raises InputError and its kinds where a format, a rank or a pattern does not fit the network,
    ModelError where a rewrite changes what it computes.
    """
    progress("rewrite", 0.0)
    task = rewritten(task, scheme.rewrites)
    graph = trace(task.model, task.forward, task.example())
    options = scheme.options(graph)
    space = _space(graph, options)
    stats = calibrate(task, task.model, needed(space), progress=lambda s: progress("calibrate", s))
    bank = Bank(task.model, graph=graph, stats=stats)
    recovery = scheme.recovery
    original = (
        moments(task, bank.skeleton, graph, samples=recovery.samples) if recovery.matched else {}
    )
    standins = repaired(
        bank, task, options, recovery=recovery, original=original, seed=seed,
        progress=lambda s: progress("repair", s),
    )  # fmt: skip
    return Quantized(task=task, graph=graph, bank=bank, options=options, standins=standins)


def _space(graph: Graph, options: Mapping[str, Option]) -> Space:
    """The original or the option at every site that is changed."""
    originals = {"weight": Weight(bits=32), "activation": Activation(bits=32)}
    choices = [
        Choice(site=name, options=(originals[graph.site(name).kind], option))
        for name, option in options.items()
    ]
    return Space(graph=graph, choices=tuple(choices))


def _bits(option: Option | None, site: Site) -> float:
    """Stored bits of a weight [out, k], its scales among them."""
    rows, k = site.shape[0], math.prod(site.shape[1:])
    effect = Effect() if option is None else option.effect(site)
    if effect.stores is not None:
        return 8.0 * effect.stores.stored_bytes(rows, k)
    return rows * k * effect.stored_bits + 8 * rows * effect.row_bytes
