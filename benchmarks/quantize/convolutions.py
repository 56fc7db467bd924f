"""ResNet-20 at W4A8 against peers, at W2A4 with and without dropping, and the time it takes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from allot.num.adaround import AdaRound
from allot.num.freecodes import FreeCodes
from allot.num.rounding import Nearest
from allot.options.precision import Activation, Weight
from allot.recipes.bits import Bits
from allot.recipes.reconstruction import qdrop
from allot.reconstruct.setting import Reconstruction
from allot.recover import Recovery
from allot.scheme import Scheme
from allot.task import Data, Task
from benchmarks.figures import Figure, at_most, mean_interval
from benchmarks.quantize.judged import Judged, judged
from benchmarks.tasks import CALIBRATE, RESNET20, resnet20

PEERS = Path(__file__).parents[1] / "results" / "peer_w4a8.json"
SEEDS = (0, 1, 2)
W2A4 = Bits(weight=2, activation=4)
# every weight up or down, then moved over the whole grid, in order; then blocks learned; all on the
# calibration images and their mirror images
LEARNED = Scheme(
    weight=Weight(bits=4, rounding=FreeCodes(start=AdaRound())),
    activation=Activation(bits=8),
    recovery=Recovery(
        samples=2 * CALIBRATE,
        in_order=True,
        learning=Reconstruction(steps=400, samples=2 * CALIBRATE),
    ),
)
# of a block at W2A4
STEPS = 500


def run(quick: bool, seed: int) -> dict[str, Figure]:
    """All rows of the table that ResNet-20 decides."""
    names = RESNET20[:1] if quick else RESNET20
    found: dict[str, Figure] = {}
    for name in names:
        found |= against_peers(name, seed, quick=quick)
    return found | dropped(RESNET20[0], SEEDS[:1] if quick else SEEDS, quick=quick)


def unseen(task: Task, *, quick: bool) -> Data:
    """Test images that calibrate nothing: the search and the certify set, or some of them."""
    return task.certify.subset(slice(0, 1000)) if quick else task.certify


def against_peers(name: str, seed: int, *, quick: bool) -> dict[str, Figure]:
    """KL at W4A8, every convolution in 4 bits, over a tenth of the best peer's; accuracy; time."""
    task = mirrored(resnet20(name, seed=seed))
    found = judged(task, steps(LEARNED, quick=quick), unseen(task, quick=quick), seed=seed)
    peers = json.loads(PEERS.read_text())
    best = min(_peer_kls(peers, name))
    label = f"{name} W4A8"
    low, high = mean_interval(found.kl)
    accuracy = mean_interval(-found.gained)
    return {
        f"{label}: KL over the best peer's": at_most(
            found.mean / best, 0.1, n=len(found.kl), seeds=[seed],
            interval=(low / best, high / best), kl=found.mean, peer=best, bits=found.bits,
        ),
        f"{label}: points of top-1 below the original": at_most(
            found.lost, 0.5, n=len(found.kl), seeds=[seed], interval=accuracy
        ),
        f"{label}: minutes of all passes": at_most(
            found.seconds / 60, 3.0, n=1, seeds=[seed]
        ),
    }  # fmt: skip


def mirrored(task: Task) -> Task:
    """The task with every calibration image [c, h, w] followed, behind all, by its mirror image.

    Codes learned on the images alone fit what is particular to these: the divergence on them fell
    to a third of that on others.
    """
    images = task.calibrate.inputs
    assert isinstance(images, Tensor)
    return replace(task, calibrate=Data(inputs=torch.cat([images, images.flip(-1)])))


def _peer_kls(peers: Any, name: str) -> list[float]:
    """KL of every peer that ran to its end with all convolutions truly in 4 bits."""
    rows = [r for peer in peers["peers"].values() for r in peer["results"]]
    return [float(r["kl"]) for r in rows if r["weights"] == name and r.get("truly_4_bit")]


def dropped(name: str, seeds: tuple[int, ...], *, quick: bool) -> dict[str, Figure]:
    """Blocks learned with activation quantizers left out at random, against all of them on."""
    with_drop, without, nearest = [], [], []
    for seed in seeds:
        task = resnet20(name, seed=seed)
        data = unseen(task, quick=quick)
        scheme = steps(longer(qdrop(W2A4)), quick=quick)
        with_drop.append(judged(task, scheme, data, seed=seed))
        without.append(judged(task, drop(scheme, 0.0), data, seed=seed))
        nearest.append(judged(task, plain(scheme), data, seed=seed))
    gap = np.concatenate([a.kl - b.kl for a, b in zip(with_drop, without, strict=True)])
    low, high = mean_interval(gap)
    label = f"{name} W2A4"
    base = _lost(nearest)
    return {
        f"{label}: KL with dropping less KL without": at_most(
            float(gap.mean()), 0.0, n=len(gap), seeds=seeds, interval=(low, high),
            kl=float(np.mean([j.mean for j in with_drop])),
            without=float(np.mean([j.mean for j in without])),
        ),
        **{
            f"{label}: points lost over nearest rounding's, {how}": at_most(
                _lost(found) / base, 0.5, n=len(gap), seeds=seeds, lost=_lost(found), nearest=base
            )
            for how, found in (("with dropping", with_drop), ("without", without))
        },
    }  # fmt: skip


def _lost(found: list[Judged]) -> float:
    return float(np.mean([j.lost for j in found]))


def drop(scheme: Scheme, share: float) -> Scheme:
    """The scheme with another share of quantizers left out while blocks are learned."""
    setting = scheme.recovery.learning
    assert isinstance(setting, Reconstruction)
    setting = replace(setting, drop=share, float_inputs=share)
    return replace(scheme, recovery=replace(scheme.recovery, learning=setting))


def longer(scheme: Scheme) -> Scheme:
    """The scheme with the steps that a block is learned for here."""
    setting = scheme.recovery.learning
    assert isinstance(setting, Reconstruction)
    setting = replace(setting, steps=STEPS)
    return replace(scheme, recovery=replace(scheme.recovery, learning=setting))


def steps(scheme: Scheme, *, quick: bool) -> Scheme:
    """The scheme with few steps of learning where it has to be quick."""
    setting = scheme.recovery.learning
    if not quick or not isinstance(setting, Reconstruction):
        return scheme
    setting = replace(setting, steps=60, samples=256)
    return replace(scheme, recovery=replace(scheme.recovery, learning=setting))


def plain(scheme: Scheme) -> Scheme:
    """The same ranges, every weight rounded to nearest, nothing repaired."""
    assert isinstance(scheme.weight, Weight)
    weight = replace(scheme.weight, rounding=Nearest())
    return replace(scheme, weight=weight, recovery=Recovery(matched=False))
