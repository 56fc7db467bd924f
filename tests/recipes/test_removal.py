"""Laws of removal: scores are what leaving one out does; nothing asked leaves the sampler as is."""

from __future__ import annotations

import pytest
import torch

from allot.errors import InputError
from allot.recipes.removal import block_scores, blocks_removed, without
from allot.sampling.spans import RESIDUAL, Span
from tests.sampling import nets

SPANS = tuple(Span(name=str(i), modules=(f"blocks.{i}",), keeps=RESIDUAL) for i in range(4))
COSTS = (1.0, 2.0, 1.0, 4.0)


def test_nothing_left_out_is_the_sampler() -> None:
    s = nets.blocks(4)
    x = nets.seeds(3, s)
    assert torch.equal(nets.sample(without(s, []).sampler, x), nets.sample(s, x))


def test_a_block_left_out_is_the_network_without_it() -> None:
    s = nets.blocks(4)
    x = nets.seeds(3, s)
    found = nets.sample(without(s, SPANS[1:2]).sampler, x)
    del s.denoiser.blocks[1]  # type: ignore[operator, union-attr]
    torch.testing.assert_close(found, nets.sample(s, x))


def test_scores_are_what_one_block_does_by_its_cost() -> None:
    s = nets.blocks(4)
    x = nets.seeds(3, s)
    whole = nets.sample(s, x)
    found = block_scores(s, x, spans=SPANS, costs=COSTS)
    assert [f.value for f in found] == sorted(f.value for f in found)
    for f in found:
        cut = nets.sample(without(s, [f.span]).sampler, x)
        assert f.harm == pytest.approx(float((cut - whole).pow(2).flatten(1).sum(1).mean()))
        assert f.value == f.harm / COSTS[SPANS.index(f.span)]


def test_as_much_is_removed_as_is_asked_for() -> None:
    s = nets.blocks(4)
    x = nets.seeds(3, s)
    assert blocks_removed(s, x, spans=SPANS, costs=COSTS, share=0.0).found["saved"] == 0.0
    found = blocks_removed(s, x, spans=SPANS, costs=COSTS, share=0.4)
    assert 0.4 <= found.found["saved"] < 1.0
    first = block_scores(s, x, spans=SPANS, costs=COSTS)[0].span
    left = found.sampler.steps[0].way.reuse  # type: ignore[union-attr]
    assert first in left  # type: ignore[operator]


def test_more_than_all_is_refused() -> None:
    s = nets.blocks(4)
    with pytest.raises(InputError, match="share"):
        blocks_removed(s, nets.seeds(2, s), spans=SPANS, costs=COSTS, share=1.5)
