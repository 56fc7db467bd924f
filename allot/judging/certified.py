"""Certified: what is proven of the feature error of samples from noises that nobody has seen."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from allot.certify import ERROR, Statement
from allot.errors import InputError
from allot.judging.feature_error import bounded_errors
from allot.judging.judge import Judge
from allot.num.paired import mean_bound


def certified(
    judge: Judge,
    original: Tensor,
    samples: Tensor,
    *,
    max_error: float,
    confidence: float = 0.95,
    data: str = "",
) -> Statement:
    """Statement on the mean over noises of the bounded feature error per sample: [n, ...] twice.

    The betting bound of a mean in [0, 1], in the order given: samples must come of noises drawn by
    themselves that no earlier step has seen, in the order in which they were drawn.  max_error
    [points]: 100 is what `judge.far` says.  data: name of what the noises were drawn from.  Raises
    DataError for sets of different shapes, InputError for an impossible confidence.
    """
    if not 0 < confidence < 1:
        raise InputError(f"a confidence lies between 0 and 1, as 0.95; {confidence} was given")
    errors = bounded_errors(judge, original, samples).numpy().astype(np.float64)
    return Statement(
        kind=ERROR,
        metric=f"feature error seen by judge {judge.digest}",
        n=len(errors),
        confidence=confidence,
        bound=100 * mean_bound(errors, confidence=confidence),
        drop=100 * float(errors.mean()),
        lost=int((100 * errors > max_error).sum()),
        gained=0,
        max_drop=max_error,
        data=data,
    )
