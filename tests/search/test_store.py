"""Laws of the store: 16-bit losses, spaces as data, files whole or refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from allot.errors import ArtefactError, InputError
from allot.num.rounding import Gptq
from allot.trace import trace
from benchmarks.search import digits, spaces, store
from benchmarks.search.store import Enumeration, Measured
from tests import small, toys


def stored(*, units: int = 1, seed: int = 0) -> Enumeration:
    """A space of 2 x 3 x 2 points with losses drawn by seed on 7 and 5 samples."""
    rng = np.random.default_rng(seed)
    k = small.kit()
    cut = [(c, n) for c, n in zip(k.space.choices[:3], (2, 3, 2), strict=True)]
    choices = tuple(type(c)(site=c.site, options=c.options[:n]) for c, n in cut)

    def measured(n: int) -> Measured:
        return Measured(
            codes=store.encoded(np.exp(rng.uniform(-12, 2, (12, n)))),
            hits=rng.integers(0, units + 1, (12, n)).astype(np.uint8),
            original=rng.integers(0, units + 1, n).astype(np.uint8),
            units=units,
        )

    return Enumeration(
        family="toy",
        network="chain",
        variant="plain",
        weights="0123",
        recovery="no recovery",
        bill="size",
        space=type(k.space)(graph=k.graph, choices=choices),
        costs=rng.uniform(1, 2, 12),
        search=measured(7),
        held_out=measured(5),
        calibration=3,
    )


def same(a: Measured, b: Measured) -> bool:
    names = ("codes", "hits", "original")
    return a.units == b.units and all(np.array_equal(getattr(a, n), getattr(b, n)) for n in names)


def test_a_stored_divergence_is_near_the_true_one_however_small_or_large() -> None:
    x = np.concatenate([np.geomspace(store.LEAST, store.MOST, 100_001), [2.5e-5, 6.1e-8]])
    error = np.abs(store.divergences(store.encoded(x)) / x - 1)
    assert error.max() < 4e-4, f"largest relative error {error.max()} at {x[error.argmax()]}"


def test_no_divergence_stays_none_and_a_larger_one_is_never_stored_smaller() -> None:
    x = np.sort(np.random.default_rng(0).lognormal(-5, 6, 10_000).clip(0, 1e6))
    assert store.divergences(store.encoded(np.array([0.0, 1e-13]))).tolist() == [0.0, 0.0]
    assert bool(np.all(np.diff(store.divergences(store.encoded(x))) >= 0))


def test_storing_what_was_stored_changes_nothing() -> None:
    codes = np.arange(65536, dtype=np.uint16)
    assert np.array_equal(codes, store.encoded(store.divergences(codes)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1e-9, 2e6])
def test_what_is_no_divergence_is_refused(bad: float) -> None:
    with pytest.raises(InputError, match="outside"):
        store.encoded(np.array([0.1, bad]))


@pytest.mark.parametrize("build", [f.build for f in spaces.FAMILIES if "digits" in f.name])
def test_a_space_comes_back_from_json_as_it_was(build: object) -> None:
    model = digits.initial(0).eval()
    graph = trace(model, lambda m, x: m(x), toys.images(2, channels=1, size=16))
    space = build(graph, Gptq())  # type: ignore[operator]
    assert space == store.load_space(json.loads(json.dumps(store.dump_space(space))))


@pytest.mark.parametrize("units", [1, 48])
def test_a_file_holds_all_that_was_written(tmp_path: Path, units: int) -> None:
    e = stored(units=units)
    store.write(e, tmp_path / "x.npz")
    back = store.read(tmp_path / "x.npz")
    for name in (
        "family",
        "network",
        "variant",
        "weights",
        "recovery",
        "bill",
        "space",
        "calibration",
    ):
        assert getattr(e, name) == getattr(back, name), name
    assert np.array_equal(e.costs, back.costs)
    assert same(e.search, back.search)
    assert same(e.held_out, back.held_out)


def test_a_loss_is_the_point_s_own_row_cut_to_the_first_samples() -> None:
    e = stored(units=4)
    loss = e.search.loss(5, 3)
    assert np.array_equal(store.divergences(e.search.codes[5, :3]), loss.divergences)
    assert np.array_equal(e.search.hits[5, :3] / 4, loss.scores)
    assert np.isclose(e.search.loss(5, 7).divergence, e.search.means[5], rtol=1e-12)


def test_index_and_point_are_inverse_and_strangers_are_refused() -> None:
    e = stored()
    points = list(np.ndindex(2, 3, 2))
    assert points == [e.point(e.index(p)) for p in points]
    assert list(range(12)) == [e.index(p) for p in points]
    for stranger in ((0, 3, 0), (0, 0), (-1, 0, 0)):
        with pytest.raises(InputError, match="no point"):
            e.index(stranger)


def test_a_missing_file_names_the_command_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    with pytest.raises(ArtefactError, match=r"benchmarks\.search\.enumerate"):
        store.read(path)
    store.write(stored(), path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ArtefactError, match="damaged"):
        store.read(path)


def test_a_file_of_another_version_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "VERSION", store.VERSION + 1)
    store.write(stored(), tmp_path / "x.npz")
    monkeypatch.undo()
    with pytest.raises(ArtefactError, match="version"):
        store.read(tmp_path / "x.npz")
