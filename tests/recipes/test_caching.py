"""Laws of caching recipes: each has a row or a name of its own, its parts, and an answer.

What their oracles say is tested where the parts are: tests/sampling/test_policies.py (cuts against
all cuts, corrections), test_affine.py (least squares), test_passing.py and test_gates.py
(threshold 0, gates that never close, batches).
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from allot.recipes.caching import ALL
from allot.recipes.sampled import SamplerRecipe
from allot.sampling.gate_training import Training
from allot.sampling.probes import ADDED, IN, Probe
from tests.sampling import nets
from tests.small import hooks, identities

QUICK = Training(iterations=10, batch=4)
SETTINGS: dict[str, dict[str, Any]] = {
    "cachequant": {"span": nets.BLOCKS, "interval": 2, "layers": ("head",)},
    "lazydit": {"spans": nets.FEED, "training": QUICK, "share": 0.4},
    "deepcache": {"spans": (nets.BLOCKS,), "interval": 2},
    "fora": {"spans": (*nets.ATTENTION, *nets.FEED), "interval": 3, "last": True},
    "learning-to-cache": {
        "spans": nets.FEED, "training": Training(iterations=10, batch=4, looks=False), "share": 0.4,
    },
    "teacache": {
        "span": nets.ALL, "probe": Probe(module="blocks.0.attn", role=IN), "share": 0.3,
        "summed": True, "degree": 4, "last": True,
    },
    "first-block-cache": {
        "span": nets.BLOCKS, "probe": Probe(module="blocks.0", role=ADDED), "share": 0.3,
    },
}  # fmt: skip
EACH = pytest.mark.parametrize("recipe", ALL, ids=lambda r: r.name)


def test_every_recipe_is_tested_and_named_once() -> None:
    names = [r.name for r in ALL]
    assert sorted(names) == sorted(SETTINGS) and len(set(names)) == len(names)


@EACH
def test_a_recipe_says_what_it_is_made_of(recipe: SamplerRecipe) -> None:
    assert recipe.made_of and all("." in name for name in recipe.made_of)
    assert recipe.oracle and recipe.paper.title and 2023 <= recipe.paper.year <= 2026


@EACH
def test_a_plan_samples_the_same_twice_and_leaves_the_sampler(recipe: SamplerRecipe) -> None:
    original = nets.blocks()
    s, fresh = nets.seeds(8, original), nets.seeds(6, original, seed=1)
    before, whole = identities(original), nets.sample(original, fresh)
    plan = recipe.plan(original, s, **SETTINGS[recipe.name])
    assert before == identities(original) and hooks(original) == 0
    found = nets.sample(plan.sampler, fresh)
    assert found.isfinite().all() and not torch.equal(found, whole)
    assert torch.equal(found, nets.sample(plan.sampler, fresh))
    assert torch.equal(whole, nets.sample(original, fresh))
    assert plan.standins
    for name, module in plan.standins.items():
        assert name.startswith(("steps.", "denoiser."))
        assert isinstance(module, torch.nn.Module)


@EACH
def test_a_sample_alone_is_its_row_in_a_batch(recipe: SamplerRecipe) -> None:
    original = nets.blocks()
    s, fresh = nets.seeds(8, original), nets.seeds(8, original, seed=1)
    plan = recipe.plan(original, s, **SETTINGS[recipe.name]).sampler
    alone = torch.cat([nets.sample(plan, one) for one in fresh.batches(1)])
    torch.testing.assert_close(nets.sample(plan, fresh), alone, rtol=1e-9, atol=1e-9)
