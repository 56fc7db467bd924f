"""Augmented Hessian: second-order harm plus how the error of one layer changes that of others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np

from allot.harm.hawq import hawq
from allot.harm.single import measured, only
from allot.harm.weights import weight_choices
from allot.scene import Scene
from allot.table import Array, Table, Term

Pair = tuple[int, int]
# of the second-order harm that stays where errors cancel, so that options keep their order
_LEAST = 0.1


def augmented(
    scene: Scene,
    *,
    most: int = 64,
    probes: int = 30,
    samples: int = 128,
    progress: Callable[[float], None] = lambda share: None,
) -> Table:
    """Harm [nats] of every option: that of `hawq` and its share in what pairs lose beyond the sum
    of their parts (after Schaefer et al. 2023).

    The paper orders tensors by the sum and lowers them along that order.  Choices are probed alone
    and in pairs at the option of largest second-order harm, measured by the evaluator.  What they
    lose alone sets the unit of the second-order harm of weights, by one factor.  The excess of a
    pair belongs to both halves alike, and to milder options in proportion to their second-order
    harm, of which a tenth remains where errors cancel.  most: pairs that are measured, those of
    largest second-order harm; with up to 11 choices that is all of them.

    Built from the paper's abstract: the authors published no code, and the form of the
    inter-layer term, the unit, the even split and the proportion are ours.
    """
    first = hawq(scene, probes=probes, samples=samples, progress=lambda share: progress(share / 2))
    harms = {t.at[0]: t.values for t in first.terms}
    worst = {i: int(np.argmax(v)) for i, v in harms.items()}
    pairs = _pairs(harms, worst, most)
    alone, excess = _probed(scene, worst, pairs, progress=lambda share: progress(0.5 + share / 2))
    harms = _in_unit(harms, alone, weight_choices(scene.space))
    terms = []
    for i, values in harms.items():
        extra = 0.5 * sum(e for p, e in excess.items() if i in p)
        top = float(values[worst[i]])
        factor = max(_LEAST, 1 + extra / top) if top > 0 else 1.0
        terms.append(Term(at=(i,), values=values * factor))
    origin = f"{first.origin}; {len(pairs)} pairs measured for what layers do to each other"
    return replace(first, origin=origin, terms=tuple(terms))


def _pairs(harms: Mapping[int, Array], worst: Mapping[int, int], most: int) -> list[Pair]:
    """Pairs of choices that can do harm beside their first option, the largest first."""
    able = [i for i in harms if worst[i]]
    size = {i: float(harms[i][worst[i]]) for i in able}
    return sorted(combinations(able, 2), key=lambda p: -size[p[0]] * size[p[1]])[:most]


def _probed(
    scene: Scene,
    worst: Mapping[int, int],
    pairs: list[Pair],
    *,
    progress: Callable[[float], None],
) -> tuple[dict[int, float], dict[Pair, float]]:
    """Measured divergence that choices add alone, and that pairs add beyond their parts."""
    first = scene.space.original
    single = sorted({i for p in pairs for i in p})
    points = [first, *(only(first, {i: worst[i]}) for i in single)]
    points += [only(first, {i: worst[i] for i in p}) for p in pairs]
    base, *found = measured(scene, points, progress=progress)
    alone = {i: d - base for i, d in zip(single, found, strict=False)}
    together = zip(pairs, found[len(single) :], strict=True)
    return alone, {(i, j): both - base - alone[i] - alone[j] for (i, j), both in together}


def _in_unit(
    harms: Mapping[int, Array], alone: Mapping[int, float], weights: Sequence[int]
) -> dict[int, Array]:
    """The harms with those of weights scaled so that they add up to what was measured alone."""
    probed = [i for i in weights if i in alone]
    said = float(sum(harms[i].max() - harms[i][0] for i in probed))
    lost = sum(alone[i] for i in probed)
    factor = lost / said if said > 0 and lost > 0 else 1.0
    return {i: v * factor if i in weights else v for i, v in harms.items()}
