"""Fisher: what outputs feel of every option's local change, and so of every pair of options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from allot.harm.atoms import atoms, repair
from allot.harm.draws import Curved, curved, signs
from allot.harm.repaired import Corrections, Felt, corrections, merged
from allot.harm.tape import Tape
from allot.harm.walk import Columns, Directions, columns, replays, walk
from allot.scene import Scene
from allot.table import Table, Term, Vectors

# calibration samples that each option's own repair sees: it costs that share of a pass per option
_REPAIRED_ON = 32


def fisher(
    scene: Scene,
    *,
    progress: Callable[[float], None] = lambda share: None,
    draws: int = 2,
    samples: int | None = None,
    matched: bool = True,
    batch: int = 64,
) -> Table:
    """Harm [nats] to second order from one forward and `draws` backward passes, with all pairs.

    Row (s, j) of the vectors holds, for every option, <xi_sj, J_s dz>: dz is what the option does
    to its tensor on the original's inputs, J the network's derivative, xi random with the
    divergence's curvature as second moment (see `draws`).  Half the mean square of a plan's summed
    columns is the divergence to second order in the changes.  The pairwise matrix of CLADO (Deng
    et al. 2025) and the diagonal of MPQCO, without their passes.

    samples: of the search data, the first so many; half of them by default, but at least 128 and at
    most 256.  matched: what the evaluator's
    recovery corrects with the option alone, in its own tensor and in all after it, counts as part
    of the change (one recovery per option, `repaired`).  Dropped blocks, and options that change
    no tensor of equal shape, are run through the whole network and felt at its outputs (`atoms`,
    one F each).  All is counted from the float original, whatever the first options are.
    """
    few = min(256, max(128, len(scene.data) // 2)) if samples is None else samples
    data = scene.data.subset(slice(0, few))
    table, whole = columns(scene)
    table, corrected = _repaired(scene, table, matched=matched)
    felt = Felt(scene, corrected)
    values = np.zeros((len(data) * draws, sum(scene.space.counts)))

    def add(rows: slice, column: int, found: Tensor) -> None:
        at = slice(rows.start * draws, rows.stop * draws)
        values[at, column] += found.double().T.reshape(-1).cpu().numpy()

    def each(rows: slice, column: int, gradients: Tensor, change: Tensor) -> None:
        add(rows, column, (gradients * change).flatten(2).double().sum(2))

    def look(rows: slice, tape: Tape) -> None:
        for column, found in felt.of(tape).items():
            add(rows, column, found)

    walk(
        scene, table, data=data, directions=_along(scene, draws), each=each, batch=batch,
        also=felt.dims, look=look, progress=progress,
    )  # fmt: skip
    share = len(data) / len(scene.data)
    scene.evaluator.charge(share * (1 + 2 * draws + replays(scene, table)))
    # the same draws again, for what is felt at the outputs
    for column, atom in atoms(
        scene, whole, data=data, directions=_along(scene, draws), batch=batch
    ).items():
        values[:, column] = atom.rows.cpu().numpy()
    vectors = Vectors(values=values, counts=scene.space.counts)
    terms = tuple(Term(at=(i,), values=vectors.half_squares(i)) for i in range(len(vectors.counts)))
    origin = f"Fisher, {draws} draws, {len(data)} samples, {len(whole)} options measured"
    return Table(unit="nat", origin=origin, terms=terms, vectors=vectors)


def fisher_diagonal(
    scene: Scene,
    *,
    progress: Callable[[float], None] = lambda share: None,
    draws: int = 2,
    samples: int | None = None,
    matched: bool = True,
    batch: int = 64,
) -> Table:
    """`fisher` without its pairs: every option's half mean square alone (cf. MPQCO).

    An expert of its own: with options that destroy much, pairs to second order can mislead.
    """
    table = fisher(
        scene, progress=progress, draws=draws, samples=samples, matched=matched, batch=batch
    )
    return replace(table, origin=f"{table.origin}, no pairs", vectors=None)


def _along(scene: Scene, draws: int) -> Directions:
    """Directions in output space by the scene's seed: the same each time it is asked for."""
    generator = torch.Generator().manual_seed(scene.seed)
    kinds: list[Curved] = []

    def directions(output: Tensor, rows: slice) -> Tensor:
        if not kinds:
            own = torch.Generator().manual_seed(scene.seed)
            kinds.append(curved(scene.task, output, own))
        return kinds[0].directions(output, signs(output.shape, draws, generator).to(output.device))

    return directions


def _repaired(
    scene: Scene, table: Columns, *, matched: bool
) -> tuple[Columns, Mapping[int, Corrections]]:
    """The changes after matching, where the evaluator's recovery matches, and its other effects."""
    recovery = repair(scene.evaluator.recovery)
    if not matched or not recovery.matched:
        return table, {}
    every = [(c, o) for c in scene.space.choices for o in c.options]
    wanted = {k: dict.fromkeys((every[k][0].site, *every[k][0].tied), every[k][1]) for k in table}
    samples = min(recovery.samples, _REPAIRED_ON)
    return merged(table, corrections(scene, wanted, samples=samples))
