"""What depends on time alone, quantized and learned over the steps there are.

Faults these laws must catch: a unit that is learned on latents or on steps that never come; other
layers touched; a learned unit worse than what it began with; outputs compared under other names.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from allot.errors import InputError
from allot.num.rounding import Nearest
from allot.options.precision import Weight
from allot.reconstruct.setting import Reconstruction
from allot.samplers.time_block import Embeddings, Inside, time_quantized, time_task
from allot.sampling.features import Seeds
from allot.sampling.sampler import Sampler
from allot.scheme import Quantized
from tests.sampling import nets

NAMES = ("time", "classes", *(f"blocks.{i}.modulation" for i in range(4)))
LAYERS = {"time", *(f"blocks.{i}.modulation" for i in range(4))}
COARSE = Weight(bits=3, rounding=Nearest())


def made() -> tuple[Sampler, Seeds]:
    sampler = nets.blocks()
    sampler.denoiser.float()
    seeds = nets.seeds(8, sampler)
    return sampler, Seeds(noise=seeds.noise.float(), conditions=seeds.conditions)


def loss(made: Quantized) -> float:
    task = made.task
    with torch.no_grad():
        inputs = task.calibrate.inputs
        want, got = (task.forward(m, inputs) for m in (task.model, made.network()))
    return float(task.divergence(want, got).mean())


def test_its_data_are_every_step_with_every_class() -> None:
    sampler, seeds = made()
    task = time_task(sampler, NAMES, seeds, by="label")
    inputs = task.calibrate.inputs
    pairs = set(zip(inputs["time"].tolist(), inputs["label"].tolist(), strict=True))
    times = [float(t) for t in torch.tensor(sampler.grid.times)]
    assert len(task.calibrate) == 12 and pairs == {(t, k) for t in times for k in (0, 1)}
    assert isinstance(task.forward, Embeddings) and task.forward.read == NAMES[2:]
    with torch.no_grad():
        out = task.forward(sampler.denoiser, inputs)
        other = task.forward(sampler.denoiser, {**inputs, "x": inputs["x"] * 7 - 1})
    assert out.shape == (12, 4 * 16) and torch.equal(out, other)
    assert float(out.square().mean()) == pytest.approx(1, rel=1e-5)


def test_learning_the_unit_lowers_its_loss_and_touches_nothing_else() -> None:
    sampler, seeds = made()
    setting = Reconstruction(steps=150, batch=6)
    given = {"weight": COARSE, "activation": None, "by": "label"}
    plain = time_quantized(sampler, NAMES, seeds, learned=None, **given)
    found = time_quantized(sampler, NAMES, seeds, learned=setting, **given)
    assert set(plain.standins) == set(found.standins) == LAYERS
    assert 0 < loss(found) < 0.8 * loss(plain)
    again = time_quantized(sampler, NAMES, seeds, learned=setting, **given)
    assert loss(again) == loss(found)


def test_one_option_inside_and_another_outside() -> None:
    sampler, seeds = made()
    task = time_task(sampler, NAMES, seeds, by="label")
    plain = time_quantized(
        sampler, NAMES, seeds, weight=COARSE, activation=None, learned=None, by="label"
    )
    within, outside = (
        Inside(option=COARSE, names=NAMES),
        Inside(option=replace(COARSE, bits=8), names=NAMES, outside=True),
    )
    for site in plain.graph.sites:
        if site.kind == "weight":
            both = [rule(site, plain.graph) for rule in (within, outside)]
            assert both.index(None) == (1 if site.reach[0] in LAYERS else 0)
    assert task.model is sampler.denoiser
    with pytest.raises(InputError, match="no layer lies in classes"):
        time_quantized(sampler, ("classes",), seeds, weight=COARSE, activation=None, by="label")
