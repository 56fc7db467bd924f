"""Laws of a sampler's own judge: it sees what is there, a sample at a time, and is a copy."""

from __future__ import annotations

import torch

from allot.judging.feature_error import bounded_errors
from allot.judging.judge import read
from allot.samplers.own_judge import own_judge
from tests import tiny_sampler as tiny


def samples(n: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, *tiny.SHAPE, generator=torch.Generator().manual_seed(seed))


def test_equal_samples_are_alike_and_others_are_not() -> None:
    judge = own_judge(tiny.sampler(), {"label": torch.arange(tiny.CLASSES)})
    x = samples()
    assert float(bounded_errors(judge, x, x).max()) < 1e-6
    near, far = bounded_errors(judge, x, x + 0.05), bounded_errors(judge, x, -x)
    assert 0 < float(near.mean()) < float(far.mean()) <= 1


def test_a_sample_is_judged_alone() -> None:
    judge = own_judge(tiny.sampler(), {"label": torch.arange(tiny.CLASSES)})
    x = samples()
    alone = torch.cat([read(judge, row[None]).features for row in x])
    assert torch.allclose(read(judge, x).features, alone, atol=1e-6)


def test_the_judge_stays_what_it_was_when_the_sampler_changes() -> None:
    sampler = tiny.sampler()
    judge = own_judge(sampler, {"label": torch.arange(tiny.CLASSES)})
    before = judge.digest
    with torch.no_grad():
        sampler.denoiser.get_parameter("enter.weight").zero_()
    assert judge.digest == before


def test_a_sampler_without_spans_is_judged_by_the_middle_of_its_blocks() -> None:
    sampler = tiny.sampler()
    sampler.spans = ()
    judge = own_judge(sampler, {"label": torch.arange(tiny.CLASSES)})
    assert judge.network.deep == "blocks.1"
    assert read(judge, samples()).features.shape == (6, 8)
