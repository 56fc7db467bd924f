"""CLADO: how any two options meet, measured two at a time."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np

from allot.errors import InputError
from allot.harm.single import measured, only
from allot.scene import Scene
from allot.table import Array, Table, Term


def clado(
    scene: Scene,
    *,
    progress: Callable[[float], None] = lambda share: None,
    psd: bool = False,
    most: int = 5000,
) -> Table:
    """Pairwise forward differences L(i,j) - L(i) - L(j) + L(0) of the divergence [nats], for all
    pairs of options of two choices (Deng et al. 2025).

    Losses are those after the evaluator's recovery, where the authors measure the loss on labels
    without any; any kind of option takes part, where they quantize weights.  Signed as measured:
    a plan may be foretold to lose less than nothing.  psd: the whole matrix Omega (twice the
    singles on its diagonal) is replaced by the nearest positive semidefinite one, as they do.

    Raises InputError where this would take more than `most` measurements.
    """
    counts = scene.space.counts
    where = [(i, o) for i, n in enumerate(counts) for o in range(1, n)]
    pairs = [(a, b) for a, b in combinations(where, 2) if a[0] != b[0]]
    _check(1 + len(where) + len(pairs), most)
    base = scene.space.original
    # neighbours first, so that a batch shares its beginnings: all that starts with one option
    points = [base]
    for k, a in enumerate(where):
        points.append(only(base, dict([a])))
        points += [only(base, dict([a, b])) for b in where[k + 1 :] if a[0] != b[0]]
    divergences = measured(scene, points, progress=progress)
    loss = dict(zip(points, divergences, strict=True))
    omega = np.zeros((len(where), len(where)))
    at = {a: k for k, a in enumerate(where)}
    start = loss[base]
    own = [loss[only(base, dict([a]))] - start for a in where]
    omega[np.diag_indices(len(where))] = 2 * np.array(own)
    for a, b in pairs:
        both = loss[only(base, dict([a, b]))] - start
        omega[at[a], at[b]] = omega[at[b], at[a]] = both - own[at[a]] - own[at[b]]
    if psd:
        omega = nearest_psd(omega)
    origin = f"pairwise differences, {scene.evaluator.recovery}{', psd' if psd else ''}"
    return Table(unit="nat", origin=origin, constant=start, terms=_terms(omega, counts))


def nearest_psd(matrix: Array) -> Array:
    """The symmetric matrix [n, n] with its negative eigenvalues set to 0."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    found: Array = (vectors * np.maximum(values, 0.0)) @ vectors.T
    return found


def _check(evaluations: int, most: int) -> None:
    if evaluations > most:
        raise InputError(
            f"all pairs of options take {evaluations} measurements, more than {most}; "
            "tie sites, leave options out, or take a signal that needs no pairs measured"
        )


def _terms(omega: Array, counts: tuple[int, ...]) -> tuple[Term, ...]:
    """Terms of half x^T Omega x: rows are the options but the first of every choice, in order."""
    starts = np.cumsum([0, *(n - 1 for n in counts)])
    rows = [slice(starts[i], starts[i + 1]) for i in range(len(counts))]
    terms = []
    for i in range(len(counts)):
        alone = 0.5 * np.diag(omega)[rows[i]]
        terms.append(Term(at=(i,), values=np.concatenate([[0.0], alone])))
    for i, j in combinations(range(len(counts)), 2):
        meet = np.zeros((counts[i], counts[j]))
        meet[1:, 1:] = omega[rows[i], rows[j]]
        terms.append(Term(at=(i, j), values=meet))
    return tuple(terms)
