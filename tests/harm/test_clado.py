"""Laws of CLADO: with its pairs, every plan of two options has the loss that was measured.

Faults these laws must catch: a pair of the wrong orientation or counted twice; a single taken off
once too often; a constant forgotten; a projection that leaves a negative direction or changes a
matrix that has none; a size that is not refused before anything is measured.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from allot.errors import InputError
from allot.harm.clado import clado, nearest_psd
from allot.harm.fisher import fisher
from allot.harm.single import only, single
from allot.scene import Scene
from allot.table import Array, Table
from tests import toys
from tests.harm import laws, scenes

LABELS = ("float", "W4", "W2", "A4", "keep1", "keep0.5")


def scene() -> Scene:
    return scenes.scene(
        space=lambda g, sp: laws.cut(sp, ("weight", "activation", "channels"), LABELS)
    )


def where(s: Scene) -> list[tuple[int, int]]:
    return [(i, o) for i, n in enumerate(s.space.counts) for o in range(1, n)]


def matrix(s: Scene, table: Table) -> Array:
    """Twice the table's quadratic form over the options but the first of every choice."""
    options = where(s)
    terms = {t.at: t.values for t in table.terms}
    found = np.zeros((len(options), len(options)))
    for a, (i, o) in enumerate(options):
        found[a, a] = 2 * terms[(i,)][o]
        for b, (j, p) in enumerate(options):
            if i < j:
                found[a, b] = found[b, a] = terms[(i, j)][o, p]
    return found


@pytest.mark.parametrize("pin", (False, True))
def test_every_plan_of_two_options_is_told_exactly(pin: bool) -> None:
    s = scenes.pinned(scene(), conv1_weight="W4") if pin else scene()
    table = clado(s)
    base = s.space.original
    points = [base, *(only(base, dict([a])) for a in where(s))]
    points += [only(base, dict(p)) for p in combinations(where(s), 2) if p[0][0] != p[1][0]]
    for point, loss in zip(points, s.evaluator.losses(points), strict=True):
        assert table.of(point) == pytest.approx(loss.divergence, rel=1e-9, abs=1e-15)


def test_small_changes_meet_as_their_gradients_say() -> None:
    s = scenes.scene(space=scenes.nudges(0.003), recovery=scenes.NOT_REPAIRED, search=30)
    pairs, told = matrix(s, clado(s)), fisher(s, draws=8).vectors
    assert told is not None
    rows = np.cumsum([0, *s.space.counts])
    columns = [rows[i] + o for i, o in where(s)]
    gram = told.values[:, columns].T @ told.values[:, columns] / len(told.values)
    apart = np.array([[a[0] != b[0] for b in where(s)] for a in where(s)])
    assert float(np.abs(pairs - gram)[apart].max()) < 0.05 * float(np.abs(pairs).max())


def test_the_projection_leaves_no_negative_direction() -> None:
    s = scenes.pinned(scene(), conv1_weight="W2")
    plain, psd = clado(s), clado(s, psd=True)
    raw = matrix(s, plain)
    assert np.linalg.eigvalsh(raw)[0] < -1e-6
    assert psd.constant == plain.constant and "psd" in psd.origin
    whole = nearest_psd(raw)
    assert np.linalg.eigvalsh(whole)[0] > -1e-12
    got = matrix(s, psd)
    apart = np.array([[a == b or a[0] != b[0] for b in where(s)] for a in where(s)])
    assert got[apart] == pytest.approx(whole[apart], rel=1e-9, abs=1e-12)


def test_the_projection_is_the_nearest_and_keeps_what_needs_none() -> None:
    g = np.random.default_rng(0)
    a = g.normal(size=(6, 6))
    good, any_ = a @ a.T, a + a.T
    assert nearest_psd(good) == pytest.approx(good)
    found = nearest_psd(any_)
    best = np.linalg.norm(found - any_)
    for _ in range(50):
        other = found + 0.1 * (lambda b: b @ b.T)(g.normal(size=(6, 2)))
        assert np.linalg.norm(other - any_) >= best
    assert best**2 == pytest.approx(float((np.minimum(np.linalg.eigvalsh(any_), 0) ** 2).sum()))


def test_singles_are_those_of_one_at_a_time() -> None:
    s = scene()
    table, alone = clado(s), single(s)
    for t in alone.terms:
        assert np.maximum(table.single(t.at[0], len(t.values)), 0) == pytest.approx(t.values)


def test_it_measures_every_pair_once() -> None:
    s = scene()
    shares: list[float] = []
    clado(s, progress=shares.append)
    assert shares == sorted(shares) and shares[-1] == 1
    assert isinstance(s.evaluator, scenes.Plain)
    n = [c - 1 for c in s.space.counts]
    assert sum(s.evaluator.calls) == 1 + sum(n) + sum(a * b for a, b in combinations(n, 2))


def test_too_many_are_refused_before_anything_is_measured() -> None:
    s = scenes.scene(toys.residual)
    counts = [n - 1 for n in s.space.counts]
    needed = 1 + sum(counts) + sum(a * b for a, b in combinations(counts, 2))
    with pytest.raises(InputError, match=f"take {needed} measurements, more than 5000"):
        clado(s)
    assert s.evaluator.spent == 0
