"""Laws of the two programs: budgets hold, only weights change, scores decide."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from allot.recipes.decoupled import _program, mixdq, of_content
from tests.searchers.tiny_scene import harm, space, trials


def weights() -> list[int]:
    return [i for i, c in enumerate(space().choices) if c.options[0].kind == "weight"]


def test_layers_of_content_are_told_by_their_names() -> None:
    assert of_content("denoiser.model.blocks.0.attn2.to_k.weight")
    assert of_content("denoiser.model.blocks.0.ff.net.0.weight")
    assert not of_content("denoiser.model.blocks.0.attn1.to_k.weight")
    assert not of_content("denoiser.model.offset.weight")


@pytest.mark.parametrize("share", [0.9, 0.75, 0.6])
def test_a_program_is_the_best_of_all_plans(share: float) -> None:
    t, group = trials(share), weights()[:4]
    g = np.random.default_rng(0)
    scores = {i: np.array([0.0, 0.0, g.uniform(0.1, 1.0)]) for i in group}
    z, bill = harm().mild, t.bills["bitops"]
    least = bill.of(tuple(2 if i in group else o for i, o in enumerate(z)))
    limit = least + share * (bill.of(z) - least)
    best = np.inf
    for options in itertools.product((1, 2), repeat=len(group)):
        chosen = dict(zip(group, options, strict=True))
        point = tuple(chosen.get(i, o) for i, o in enumerate(z))
        if bill.of(point) <= limit * (1 + 1e-9):
            best = min(best, sum(scores[i][o] for i, o in chosen.items()))
    found = _program(t, z, group, scores, limit)
    assert sum(scores[i][found[i]] for i in group) == pytest.approx(best, rel=0.02)
    assert bill.of(found) <= limit * (1 + 1e-6)


def test_only_weights_change_and_the_level_holds() -> None:
    # samples of 6 x 6 are too small for the similarity of content, of which there is none here
    t = trials(0.8, 0.6, 0.2)
    mixdq(t, harm=[], seed=0, samples=4)
    assert t.best(t.levels[0]) is not None and t.best(t.levels[2]) is None
    for p in t.plans:
        at = weights()
        assert all(o == m or i in at for i, (o, m) in enumerate(zip(p, harm().mild, strict=True)))
