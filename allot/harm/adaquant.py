"""AdaQuant: measured loss of one option after its own repair, never below a small number."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from allot.harm.alone import alone
from allot.scene import Scene
from allot.table import Table, Term

# as in the authors' integer program: what helps or does nothing still costs a little
_FLOOR = 1e-6


def adaquant(scene: Scene, *, progress: Callable[[float], None] = lambda share: None) -> Table:
    """Divergence [nats] that every option adds alone after local repair, at least 1e-6 (Hubara et
    al. 2021, section 4).

    All kinds of options, tied sites together, all by the evaluator.  Local repair is the bank's
    rounding for least output error of the layer and the evaluator's recovery, where the authors
    learn step sizes and weights for the same aim by gradient descent.  The loss is the divergence
    from the original, where they take cross-entropy of labels: the label-free form.  Every choice
    stands alone, where they tie the bits of a layer's weight and input.

    First options are the reference, with 0; what they lose together against the float original
    is the constant.
    """
    base, found = alone(scene, range(len(scene.space.counts)), progress=progress)
    terms = []
    for i, values in found.items():
        clipped = np.maximum(values, _FLOOR)
        clipped[0] = 0.0
        terms.append(Term(at=(i,), values=clipped))
    origin = f"one at a time, {scene.evaluator.recovery}, at least {_FLOOR:g}"
    return Table(unit="nat", origin=origin, constant=base, terms=tuple(terms))
