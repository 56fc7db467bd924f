"""Searched: one whole search of a zoo sampler, its long results kept, so that it can go on."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from allot.displaced import Displaced, Stretch
from allot.harm.displacement import displacement, mildest, table
from allot.harm.rollouts import eyes
from allot.memo import Memo
from allot.plan import weights_digest
from allot.samplers import bill
from allot.samplers.rolled import Rolled
from allot.samplers.task import Noises
from allot.scene import Scene
from allot.searchers.over_time import PACE, Pace, over_time
from allot.space import Point
from allot.table import Array
from allot.task import Data
from allot.trials import Trials
from benchmarks.diffusion.networks import STEPS, Network, network

# budgets, as shares of the BitOPs of all in 8 bits
SHARES = (0.5, 0.35, 0.25, 0.15)
FULL = Noises(calibrate=32, search=256, certify=1024)
QUICK = Noises(calibrate=16, search=32, certify=64)
QUICK_PACE = Pace(rounds=1, moves=500)
ATOMS, QUICK_ATOMS = 32, 8
QUICK_STEPS = 8
STAGES = ("calibrate", "displacement", "search")


@dataclass(frozen=True, kw_only=True)
class Store:
    """Arrays and figures of one network under a folder; folder None keeps them for this run."""

    folder: Path | None
    memo: Memo

    @staticmethod
    def of(folder: Path | None, name: str) -> Store:
        path = None if folder is None else folder / f"{name}.jsonl"
        return Store(folder=folder, memo=Memo(path))

    def array(self, key: str, made: Callable[[], Array]) -> Array:
        """An array of a key, made the first time; kept in float32."""
        if self.folder is None:
            return made()
        file = self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.npy"
        if not file.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            draft = file.with_suffix(".draft.npy")
            np.save(draft, made().astype(np.float32))
            draft.replace(file)
        return np.load(file).astype(np.float64)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Counts the processor time of a stage, all runs of it added up."""
        start = time.process_time()
        try:
            yield
        finally:
            runs = sum(f"seconds/{name}/{k}" in self.memo for k in range(1000))
            self.memo.put(f"seconds/{name}/{runs}", time.process_time() - start)

    def seconds(self, name: str) -> float:
        """Processor time of a stage so far."""
        found = 0.0
        for k in range(1000):
            if f"seconds/{name}/{k}" not in self.memo:
                break
            found += self.memo.get(f"seconds/{name}/{k}", lambda: 0.0)
        return found


@dataclass(frozen=True, kw_only=True, eq=False)
class Searched:
    """A search of one network, with what it measured."""

    network: Network
    harm: Displaced
    trials: Trials
    store: Store

    @property
    def seconds(self) -> dict[str, float]:
        """Processor time per stage."""
        return {stage: self.store.seconds(stage) for stage in STAGES}

    @property
    def eight(self) -> float:
        """BitOPs with everything in 8 bits."""
        return bill.eight_bit(self.network.space, self.network.costs)

    def features(self, point: Point, data: Data, name: str) -> Array:
        """What the judge sees of a plan's samples from noises named so, [n, d]; sampled once."""
        evaluator = self.trials.evaluator
        assert isinstance(evaluator, Rolled)
        key = f"{name}/{'.'.join(map(str, point))}"
        return self.store.array(key, lambda: self._look(evaluator.samples_of(point, data)))

    def of_samples(self, key: str, made: Callable[[], Tensor]) -> Array:
        """The same of samples that are made otherwise, the first time."""
        return self.store.array(key, lambda: self._look(made()))

    def _look(self, samples: Tensor) -> Array:
        return eyes(self.network.task)(samples)


def cache() -> Path | None:
    """Where results of long work are kept, from ALLOT_BENCH_CACHE; None keeps nothing."""
    found = os.environ.get("ALLOT_BENCH_CACHE")
    return None if not found else Path(found)


def displaced(scene: Scene, store: Store, *, atoms: int) -> Displaced:
    """The displacements of a scene's options, measured once."""
    file = None if store.folder is None else store.folder / f"atoms_{_digest(scene)}_{atoms}.npz"
    if file is not None and file.exists():
        return _loaded(scene, file)
    with store.stage("displacement"):
        found = displacement(scene, noises=atoms)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(
            file, features=found.features, atoms=found.atoms.astype(np.float32),
            alone=[(*k, v) for k, v in found.alone.items()],
            stretches=[(*s, v) for s, v in found.stretches.items()],
        )  # fmt: skip
    return found


def _digest(scene: Scene) -> str:
    """Of the network and all options."""
    options = [[c.site, [o.label for o in c.options]] for c in scene.space.choices]
    text = json.dumps([weights_digest(scene.bank.skeleton), options], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _loaded(scene: Scene, file: Path) -> Displaced:
    with np.load(file) as kept:
        alone = {(int(i), int(o)): int(v) for i, o, v in kept["alone"]}
        runs = {Stretch(*(int(x) for x in row[:-1])): int(row[-1]) for row in kept["stretches"]}
        return table(
            scene.space, mildest(scene.space), kept["features"].astype(np.float64),
            kept["atoms"].astype(np.float64), alone, runs,
        )  # fmt: skip


def measurable(name: str, *, quick: bool, seed: int) -> Searched:
    """A zoo network with its displacements measured, and trials that hold no plan yet."""
    noises = replace(QUICK if quick else FULL, seed=seed)
    store = Store.of(cache(), f"{name}_{'quick' if quick else 'full'}_{seed}")
    found = network(name, noises=noises, steps=QUICK_STEPS if quick else STEPS)
    with store.stage("calibrate"):
        bank = found.bank
    evaluator = Rolled(
        space=found.space, task=found.task, bank=bank, data=found.task.search, memo=store.memo
    )
    scene = Scene(
        space=found.space, task=found.task, bank=bank, data=found.task.search, evaluator=evaluator
    )
    harm = displaced(scene, store, atoms=QUICK_ATOMS if quick else ATOMS)
    eight = bill.eight_bit(found.space, found.costs)
    trials = Trials(
        evaluator=evaluator,
        bills={"bitops": found.costs.table(), "size": bill.size(found.space)},
        originals=bill.originals(found.graph, len(found.sampler.grid)),
        levels=[{"bitops": share * eight} for share in SHARES],
    )
    return Searched(network=found, harm=harm, trials=trials, store=store)


def searched(name: str, *, quick: bool, seed: int) -> Searched:
    """The search of a zoo network at all budgets, or what is kept of it."""
    found = measurable(name, quick=quick, seed=seed)
    with found.store.stage("search"):
        pace = QUICK_PACE if quick else PACE
        over_time(found.trials, harm=[found.harm], seed=seed, pace=pace)
    return found
