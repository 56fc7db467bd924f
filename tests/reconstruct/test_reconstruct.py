"""Laws of reconstruction: never worse where it looked, by seed alone, nothing else touched.

Faults these laws must catch: a worse unit kept; a result that another run does not repeat; the
bank's encodings or the user's network changed; quantizers still dropped at the end; inputs of the
original taken where those of the planned network were meant; codes that learning does not reach.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from allot import part
from allot.errors import InputError
from allot.num.rounding import Nearest
from allot.option import Option
from allot.options.precision import Activation, Weight
from allot.options.standins import OnGrid, QuantizedLayer
from allot.options.width import Keep
from allot.reconstruct.learn import learned, loss_of
from allot.reconstruct.losses import FinalKL, FisherWeighted, InnerOutput, Loss
from allot.reconstruct.reconstruct import reconstructed, rematched, softened
from allot.reconstruct.setting import Reconstruction
from allot.reconstruct.soft import FreeRounding, SoftRounding
from allot.reconstruct.streams import run
from allot.reconstruct.units import Layers, Named
from allot.reconstruct.work import source, work
from allot.recover import moments
from allot.sweep import unwrapped
from allot.task import Data
from tests import attention, small, toys

QUICK = Reconstruction(
    steps=12, batch=8, samples=24, rounding=FreeRounding(rate=0.1), drop=0.5, float_inputs=0.5
)
SETTINGS = (
    QUICK,
    replace(QUICK, rounding=SoftRounding(rate=0.5), steps=24, drop=0.0),
    replace(QUICK, unit=Layers(), learn_biases=True, float_inputs=0.0),
    replace(QUICK, loss=FisherWeighted()),
    replace(QUICK, loss=InnerOutput(), drop=0.0),
    replace(QUICK, loss=FinalKL()),
)
CASES = (
    *((toys.chain, x) for x in SETTINGS),
    *((toys.residual, x) for x in (SETTINGS[0], SETTINGS[4])),
    *((attention.made(depth=1), x) for x in (SETTINGS[0], SETTINGS[3])),
)


def quantized(k: small.Kit, *, weights: int = 2, tensors: int = 4) -> dict[str, Option]:
    """Every weight and every tensor in few bits."""
    bits: dict[str, Option] = {
        "weight": Weight(bits=weights), "activation": Activation(bits=tensors)
    }  # fmt: skip
    return {s.name: bits[s.kind] for s in k.graph.sites if s.kind in bits and not s.fixed}


def states(standins: dict[str, nn.Module]) -> dict[str, dict[str, Tensor]]:
    return {n: small.state(m) for n, m in standins.items()}


def same(a: dict[str, nn.Module], b: dict[str, nn.Module]) -> bool:
    x, y = states(a), states(b)
    return x.keys() == y.keys() and all(small.same_state(x[n], y[n]) for n in x)


@pytest.mark.parametrize(("make", "setting"), CASES)
def test_no_unit_is_worse_than_its_start_and_some_is_better(
    make: object, setting: Reconstruction
) -> None:
    k = small.kit(make)  # type: ignore[arg-type]
    options = quantized(k)
    goal = moments(k.task, k.bank.skeleton, k.graph, samples=24)
    better = 0
    before = dict(k.bank.standins(options))
    given = source(k.bank, k.task, setting, seed=0)
    for unit in setting.unit.of(k.graph):
        one = replace(setting, unit=Named(units=(unit,)))
        after = reconstructed(k.bank, k.task, options, standins=before, setting=one, original=goal)
        doing = work(given, unit, before)
        old, new = loss_of(doing, before), loss_of(doing, after)
        assert new <= old, unit
        better += new < 0.999 * old
        before = after
    assert better


@pytest.mark.parametrize("setting", SETTINGS)
def test_network_bank_and_what_was_started_from_are_left_as_they_are(
    setting: Reconstruction,
) -> None:
    k = small.kit()
    options = quantized(k)
    encoded = k.bank.standins(options)
    before, user = states(encoded), small.state(k.task.model)
    whole, parts = small.state(k.bank.skeleton), small.identities(k.bank.skeleton)
    torch.manual_seed(7)
    random = torch.get_rng_state()
    found = reconstructed(k.bank, k.task, options, setting=setting)
    assert torch.equal(random, torch.get_rng_state())
    assert all(small.same_state(s, small.state(encoded[n])) for n, s in before.items())
    assert small.same_state(whole, small.state(k.bank.skeleton))
    assert small.same_state(user, small.state(k.task.model))
    assert parts == small.identities(k.bank.skeleton) and small.hooks(k.bank.skeleton) == 0
    assert not any(small.hooks(m) for m in (*encoded.values(), *found.values()))
    assert all(p.grad is None for m in found.values() for p in m.parameters())
    assert found.keys() >= encoded.keys()
    for name, module in encoded.items():
        assert type(found[name]) is type(module)
        layer = unwrapped(found[name])
        if isinstance(layer, OnGrid):
            codes, grid = layer.encoded().codes, layer.encoded().format.grid
            assert grid.lo <= codes.min() and codes.max() <= grid.hi


def test_the_same_seed_gives_the_same_and_another_one_another() -> None:
    k = small.kit(toys.residual)
    options = quantized(k)
    found = [reconstructed(k.bank, k.task, options, setting=QUICK, seed=s) for s in (0, 0, 1)]
    assert same(found[0], found[1]) and not same(found[0], found[2])


def test_what_is_found_computes_the_same_each_time() -> None:
    k = small.kit(toys.residual)
    found = reconstructed(k.bank, k.task, quantized(k), setting=QUICK)
    with k.bank.trial(found) as model:
        first, second = (small.forward(k.task, model, k.task.search) for _ in range(2))
    assert torch.equal(first, second)


def test_with_every_quantizer_dropped_and_float_inputs_weights_do_not_see_activations() -> None:
    k = small.kit(toys.residual)
    alone = replace(QUICK, drop=1.0, float_inputs=1.0, learn_steps=False)
    codes = []
    for tensors in (4, 6):
        options = quantized(k, tensors=tensors)
        standins, generator = k.bank.standins(options), torch.Generator().manual_seed(0)
        given = source(k.bank, k.task, alone, seed=0)
        unit = ("layer1.0",)
        soft = softened(given, options, unit, standins, generator)
        doing = work(given, unit, standins)
        found = learned(doing, standins, soft, start=0.1, generator=generator)
        layers = [unwrapped(found[f"layer1.0.conv{i}"]) for i in (1, 2)]
        codes.append([m.codes() for m in layers if isinstance(m, QuantizedLayer)])
    start = unwrapped(k.bank.standins(quantized(k))["layer1.0.conv1"])
    assert isinstance(start, QuantizedLayer) and not torch.equal(start.codes(), codes[0][0])
    assert all(torch.equal(a, b) for a, b in zip(*codes, strict=True))


def pooled() -> nn.Module:
    """12 numbers of an image, a linear of 16 rows, and a head."""
    layers = (nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 16), nn.ReLU())
    return toys.seeded(nn.Sequential(*layers, nn.Linear(16, 5)))


def test_rows_of_12_weights_are_rounded_about_as_well_as_by_trying_all() -> None:
    k = small.kit(pooled, calibrate=64)
    images = k.task.calibrate.inputs
    assert isinstance(images, Tensor)
    # channels tell much the same, so that errors can make up for each other
    images = images + 2 * images[:, :1]
    task = replace(k.task, calibrate=Data(inputs=images))
    options: dict[str, Option] = {"2.weight": Weight(bits=3, rounding=Nearest())}
    setting = Reconstruction(
        unit=Named(units=(("2",),)), rounding=SoftRounding(), steps=400, batch=64
    )
    found = unwrapped(reconstructed(k.bank, task, options, setting=setting)["2"])
    start = unwrapped(k.bank.standins(options)["2"])
    assert isinstance(found, QuantizedLayer) and isinstance(start, QuantizedLayer)
    w, scale = k.bank.unrounded("2", {}).weight.detach(), found.scale[:, None]  # type: ignore
    x = functional.adaptive_avg_pool2d(images, 2).flatten(1)
    gram = x.T @ x

    def lost(codes: Tensor) -> Tensor:
        """codes [..., 16, 12] -> [..., 16]."""
        error = codes * scale - w
        return (error @ gram * error).sum(-1)

    up = torch.tensor(list(itertools.product((0, 1), repeat=12))).float()
    every = ((w / scale).floor() + up[:, None]).clamp(-4, 3)
    best = float(lost(every).amin(0).sum())
    got, nearest = (float(lost(m.codes()).sum()) for m in (found, start))
    assert best * (1 - 1e-4) <= got <= best + 0.25 * (nearest - best), (best, got, nearest)


def test_a_single_sample_works_and_is_warned_of() -> None:
    k = small.kit(toys.residual)
    task = replace(k.task, calibrate=k.task.calibrate.subset(slice(0, 1)))
    goal = moments(task, k.bank.skeleton, k.graph, samples=1)
    with pytest.warns(UserWarning, match=r"samples \(1\)"):
        found = reconstructed(k.bank, task, quantized(k), setting=QUICK, original=goal)
    with k.bank.trial(found) as model:
        assert bool(small.forward(task, model, task.search).isfinite().all())


def test_what_has_nothing_to_learn_stays_and_progress_ends_at_1() -> None:
    k = small.kit()
    done: list[float] = []
    assert reconstructed(k.bank, k.task, {}, setting=QUICK, progress=done.append) == {}
    assert len(done) > 1 and done == sorted(done) and done[-1] == 1
    options: dict[str, Option] = {"conv1.weight": Weight(bits=2)}
    start = k.bank.standins(options)
    head = replace(QUICK, unit=Named(units=(("head",),)))
    found = reconstructed(k.bank, k.task, options, setting=head)
    assert found.keys() == start.keys() and found["conv1"] is start["conv1"]


@pytest.mark.parametrize("loss", (QUICK.loss, FinalKL()))
def test_matched_again_a_unit_has_the_moments_of_the_original(loss: Loss) -> None:
    k = small.kit(toys.residual)
    # batches of unequal size
    setting, unit = replace(QUICK, loss=loss, samples=22), ("layer1.0",)
    options = quantized(k)
    start = k.bank.standins(options)
    goal = moments(k.task, k.bank.skeleton, k.graph, samples=22)
    doing = work(source(k.bank, k.task, setting, seed=0), unit, start)
    found = rematched(doing, options, start, goal)
    with k.bank.trial({**start, **found}) as model:
        now = moments(k.task, model, k.graph, samples=22)
    assert found and all(n.startswith("layer1.0.") for n in found)
    for name in found:
        for a, b in zip(now[name], goal[name], strict=True):
            assert torch.allclose(a, b, atol=1e-4), name


def test_units_must_follow_one_another_and_have_whole_borders() -> None:
    k = small.kit()
    options = quantized(k)
    apart = replace(QUICK, unit=Named(units=(("conv1", "conv2"),)))
    with pytest.raises(InputError, match="follow"):
        reconstructed(k.bank, k.task, options, setting=apart)
    narrow = {**options, "conv1.channels": Keep(ratio=0.5)}
    with pytest.raises(InputError, match="channels"):
        reconstructed(k.bank, k.task, narrow, setting=replace(QUICK, unit=Layers()))


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_setting_survives_a_file(setting: Reconstruction) -> None:
    named = replace(setting, unit=Named(units=(("conv1", "bn1"), ("head",))))
    for whole in (setting, named):
        assert part.load(json.loads(json.dumps(whole.dump()))) == whole


def test_a_setting_that_cannot_be_is_refused() -> None:
    for wrong in ({"drop": 1.5}, {"float_inputs": -0.1}, {"steps": 0}, {"batch": 0}):
        with pytest.raises(InputError):
            Reconstruction(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(("make", "unit"), (("Calls", ("add",)), ("Twice", ("linear",))))
def test_a_unit_runs_alone_as_it_does_in_the_network(make: str, unit: tuple[str, ...]) -> None:
    k = small.kit({"Calls": Calls, "Twice": Twice}[make])
    doing = work(source(k.bank, k.task, QUICK, seed=0), unit, {})
    assert len(doing.floats) == len(doing.goals) == (6 if make == "Twice" else 3)
    for call, goal in zip(doing.floats, doing.goals, strict=True):
        for _ in range(2):
            assert torch.equal(goal.output, run(k.bank.skeleton, unit, call))
    assert loss_of(doing, {}) == 0


class Add(nn.Module):
    """A pair, a factor that is no tensor and a tensor by name, changed in place on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(12, 12)

    def forward(self, pair: tuple[Tensor, Tensor], factor: float, *, third: Tensor) -> Any:
        a, b = pair
        third += factor * b
        return (self.linear(a) + third, None)


class Calls(nn.Module):
    """Calls its one block in an unusual way."""

    def __init__(self) -> None:
        super().__init__()
        self.add, self.head = Add(), nn.Linear(12, 5)
        toys.seeded(self)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.adaptive_avg_pool2d(x, 2).flatten(1)
        return self.head(self.add((x, x * 2), 0.5, third=x + 1)[0])


class Twice(nn.Module):
    """One linear, called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.head = nn.Linear(12, 12), nn.Linear(12, 5)
        toys.seeded(self)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.adaptive_avg_pool2d(x, 2).flatten(1)
        return self.head(self.linear(functional.relu(self.linear(x))))
