"""Curves: the polynomial by which a probe's change foretells the change of what a span gives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from allot.errors import InputError
from allot.sampling.features import Features
from allot.sampling.probes import Probe, relative_change
from allot.sampling.spans import Span


@dataclass(frozen=True, kw_only=True)
class Curve:
    """coefficients: constant first.  r2: share of the variance explained; published coefficients
    carried over to other networks explain next to none."""

    coefficients: tuple[float, ...]
    r2: float
    count: int


def fitted_curve(seen: Features, span: Span, probe: Probe, *, degree: int = 4) -> Curve:
    """Least squares over samples, steps and conditions; the changes are from step to step.

    TeaCache (Liu et al. 2024) fits the change of the whole network's output; here it is that of
    what the span keeps, which is what is taken again.  Raises InputError for fewer pairs than
    coefficients.
    """
    x, y = [], []
    for condition in seen.outputs:
        values, entries = seen.probes[probe, condition], seen.spans[span, condition]
        for i in range(1, len(entries)):
            x.append(relative_change(values[i], values[i - 1]))
            y.append(relative_change(entries[i].values[0], entries[i - 1].values[0]))
    a, b = (torch.cat(v).cpu().numpy() for v in (x, y))
    if len(a) <= degree:
        raise InputError(
            f"a curve of degree {degree} needs more than {degree} changes, there are {len(a)}; "
            "calibrate on more samples"
        )
    scale = float(a.max()) or 1.0
    # columns of one size, so that powers of small changes do not get lost
    table = np.vander(a / scale, degree + 1, increasing=True)
    found, *_ = np.linalg.lstsq(table, b, rcond=None)
    left = float(((table @ found - b) ** 2).sum())
    spread = float(((b - b.mean()) ** 2).sum())
    return Curve(
        coefficients=tuple(float(c) / scale**k for k, c in enumerate(found)),
        r2=1 - left / spread if spread else 1.0,
        count=len(a),
    )
