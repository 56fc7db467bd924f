"""Feature error: how differently a judge sees two samples of one noise, per sample."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from allot.errors import DataError
from allot.judging.judge import Judge, readings


def feature_errors(judge: Judge, original: Tensor, samples: Tensor) -> Tensor:
    """Distance of inner tensors per sample, averaged over layers: [n, ...] twice -> [n], float64.

    Of every layer, the squared distance of channels normalized to length 1, averaged over places,
    over `judge.far`.  After Zhang et al. 2018, without their learned weights of channels: the
    judge need not be one that they were learned for.
    """
    return _by_layer(judge, original, samples).mean(1)


def bounded_errors(judge: Judge, original: Tensor, samples: Tensor) -> Tensor:
    """The same with each layer's share cut at 1: [n] in [0, 1], 0 for equal samples."""
    return _by_layer(judge, original, samples).clamp(max=1).mean(1)


def fitted(judge: Judge, samples: Tensor) -> Judge:
    """The judge whose errors are 1 on average for unrelated samples [n, ...], n >= 2.

    Every sample is compared with the one after it, so that the error reads as a share of what
    two samples of different noises differ by.  Give samples of the original that are not those to
    be judged: conditions in mixed order, as `noises.drawn` gives them.
    """
    if len(samples) < 2:
        raise DataError(f"unrelated samples are at least two; {len(samples)} was given")
    plain = replace(judge, far=(1.0,) * len(judge.layers))
    far = _by_layer(plain, samples, samples.roll(1, dims=0)).mean(0)
    if not bool((far > 0).all()):
        names = [n for n, v in zip(judge.layers, far.tolist(), strict=True) if not v > 0]
        raise DataError(f"all samples are alike to the judge at {', '.join(names)}")
    return replace(judge, far=tuple(far.tolist()))


def _by_layer(judge: Judge, original: Tensor, samples: Tensor) -> Tensor:
    """Error over `far` per sample and layer: [n, layers]."""
    if original.shape != samples.shape or not len(original):
        raise DataError(
            "feature errors compare samples of the same noises one by one, so both sets need one "
            f"shape [n, ...], n >= 1; {list(original.shape)} and {list(samples.shape)} were given"
        )
    rows = []
    for a, b in zip(readings(judge, original), readings(judge, samples), strict=True):
        apart = [(x - y).pow(2).sum(1).mean(1) for x, y in zip(a.layers, b.layers, strict=True)]
        rows.append(torch.stack(apart, 1))
    return torch.cat(rows) / rows[0].new_tensor(judge.far)
