"""Laws of recovery: moments of the original, nothing before the first change, one order.

Faults these laws must catch: statistics re-estimated and not matched; a correction made to the
bank's own encoding; a wrapper lost; rounding for the original's inputs instead of the repaired
network's; kept channels matched to those of their neighbours.
"""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from allot import part
from allot.option import Option
from allot.options.precision import Activation, Weight
from allot.options.standins import QuantizedInput, QuantizedLayer
from allot.options.statistics import gram_of
from allot.options.width import Keep, kept_positions
from allot.recover import BY_NAME, LIGHT, Recovery, affine, matchable, moments, recovered
from allot.sweep import observed, unwrapped
from allot.task import take
from tests import attention, small, toys

MAKES = toys.PLAIN
MATCHED = Recovery(samples=24)
ORDERED = Recovery(samples=24, in_order=True)
ROUNDED = Recovery(samples=24, in_order=True, matched=False)
NOTHING = Recovery(samples=24, matched=False)


def repaired(
    k: small.Kit, options: dict[str, Option], recovery: Recovery = MATCHED
) -> dict[str, nn.Module]:
    goal = moments(k.task, k.bank.skeleton, k.graph, samples=recovery.samples)
    return recovered(k.bank, k.task, options, recovery=recovery, original=goal)


def seen(k: small.Kit, standins: dict[str, nn.Module]) -> dict[str, Tensor]:
    """Outputs of every matchable module on the calibration inputs."""
    found: dict[str, Tensor] = {}
    hooks = {
        (n, "out"): [lambda y, n=n: found.__setitem__(n, y.clone())] for n in matchable(k.graph)
    }
    with k.bank.trial(standins) as model, observed(model, hooks), torch.no_grad():
        k.task.forward(model, take(k.task.calibrate.inputs, slice(0, 24)))
    return found


def rows(y: Tensor) -> Tensor:
    """[n, c, ...] -> [c, all the rest] in float64."""
    return y.transpose(0, 1).flatten(1).double()


@pytest.mark.parametrize("make", MAKES)
@pytest.mark.parametrize("recovery", (MATCHED, ORDERED))
def test_moments_of_the_repaired_network_are_the_originals(
    make: object, recovery: Recovery
) -> None:
    k = small.kit(make)  # type: ignore[arg-type]
    options = k.options(small.width_and_bits(k))
    standins = repaired(k, options, recovery)
    original, got = seen(k, {}), seen(k, standins)
    plain = seen(k, repaired(k, options, NOTHING))
    checked, off = 0, 0
    for name, y in got.items():
        kept = kept_positions(name, options, graph=k.graph, stats=k.bank.stats)
        a, b, raw = rows(original[name])[kept], rows(y), rows(plain[name])
        free = (b.std(1) > 1e-4) & ((a.std(1) / b.std(1) - 1).abs() < 0.5)
        assert torch.allclose(a.mean(1), b.mean(1), atol=2e-4 * (1 + float(a.abs().max()))), name
        ratio = (b.std(1, correction=0) / a.std(1, correction=0).clamp(min=1e-9))[free]
        assert torch.allclose(torch.ones_like(ratio), ratio, rtol=2e-3), name
        checked += int(free.sum())
        off += int(((raw.mean(1) - a.mean(1)).abs() > 1e-2).sum())
    # without matching they are far from it
    assert checked and off


@pytest.mark.parametrize("make", MAKES)
def test_a_plan_that_changes_nothing_puts_nothing_in_place(make: object) -> None:
    k = small.kit(make)  # type: ignore[arg-type]
    assert repaired(k, k.options(k.space.original), ORDERED) == {}


@pytest.mark.parametrize("make", MAKES)
@pytest.mark.parametrize("recovery", (MATCHED, ORDERED))
def test_what_runs_before_the_first_change_stays(make: object, recovery: Recovery) -> None:
    k = small.kit(make)  # type: ignore[arg-type]
    starts = [n for n, event in k.graph.order if event == "start"]
    for layer in k.graph.layers:
        standins = repaired(k, {f"{layer.module}.weight": Weight(bits=3)}, recovery)
        assert layer.module in standins
        assert min(starts.index(n) for n in standins) == starts.index(layer.module)


@pytest.mark.parametrize("make", MAKES)
@pytest.mark.parametrize("recovery", (MATCHED, ORDERED))
def test_the_banks_encodings_and_originals_are_left_as_they_are(
    make: object, recovery: Recovery
) -> None:
    k = small.kit(make)  # type: ignore[arg-type]
    options = k.options(small.width_and_bits(k))
    encoded = k.bank.standins(options)
    before = {n: small.state(m) for n, m in encoded.items()}
    whole, parts = small.state(k.bank.skeleton), small.identities(k.bank.skeleton)
    repaired(k, options, recovery)
    again = k.bank.standins(options)
    assert all(again[n] is encoded[n] for n in encoded)
    assert all(small.same_state(s, small.state(encoded[n])) for n, s in before.items())
    assert small.same_state(whole, small.state(k.bank.skeleton))
    assert parts == small.identities(k.bank.skeleton) and small.hooks(k.bank.skeleton) == 0
    assert not any(small.hooks(m) for m in encoded.values())


@pytest.mark.parametrize("recovery", (MATCHED, ORDERED, ROUNDED))
def test_the_same_plan_is_repaired_the_same_way(recovery: Recovery) -> None:
    states = []
    for _ in range(2):
        k = small.kit(toys.residual)
        standins = repaired(k, k.options(small.width_and_bits(k)), recovery)
        states.append({n: small.state(m) for n, m in standins.items()})
    assert states[0].keys() == states[1].keys()
    assert all(small.same_state(states[0][n], states[1][n]) for n in states[0])


@pytest.mark.parametrize("site", ("conv2.weight", "head.weight"))
def test_rounding_in_order_of_one_layer_is_gptq_on_the_originals_inputs(site: str) -> None:
    k = small.kit()
    module = site.removesuffix(".weight")
    option, layer = Weight(bits=3), k.bank.module(module)
    got = unwrapped(repaired(k, {site: option}, ROUNDED)[module])
    statistic = gram_of(k.graph.layer(module))
    inputs: list[Tensor] = []
    with observed(k.bank.skeleton, {(module, "in"): [inputs.append]}), torch.no_grad():
        k.task.forward(k.bank.skeleton, take(k.task.calibrate.inputs, slice(0, 24)))
    want = option.encoded(layer, gram=statistic.update(None, inputs[0]))
    assert isinstance(got, QuantizedLayer)
    assert torch.equal(want.scale, got.scale) and torch.equal(want.codes(), got.codes())


def test_rounding_in_order_sees_the_repaired_network() -> None:
    k = small.kit()
    options: dict[str, Option] = {n: Weight(bits=2) for n in ("conv1.weight", "conv2.weight")}
    got = repaired(k, options, ORDERED)
    before = {n: got[n] for n in ("conv1", "bn1")}
    inputs: list[Tensor] = []
    with k.bank.trial(before) as model, observed(model, {("conv2", "in"): [inputs.append]}):
        k.task.forward(model, take(k.task.calibrate.inputs, slice(0, 24)))
    gram = gram_of(k.graph.layer("conv2")).update(None, inputs[0])
    want = Weight(bits=2).encoded(k.bank.module("conv2"), gram=gram)
    layer = unwrapped(got["conv2"])
    assert isinstance(layer, QuantizedLayer) and torch.equal(want.codes(), layer.codes())
    alone = repaired(k, {"conv2.weight": Weight(bits=2)}, ORDERED)["conv2"]
    other = unwrapped(alone)
    assert isinstance(other, QuantizedLayer) and not torch.equal(other.codes(), layer.codes())


def test_weights_stay_on_their_grid_and_wrappers_around_them() -> None:
    k = small.kit()
    options: dict[str, Option] = {
        "conv1.input": Activation(bits=8),
        "conv1.weight": Weight(bits=3),
        "head.weight": Weight(bits=4),
        "conv1.channels": Keep(ratio=0.5),
    }
    for recovery in (MATCHED, ORDERED):
        found = repaired(k, options, recovery)
        assert isinstance(found["conv1"], QuantizedInput)
        for name, bits in (("conv1", 3), ("head", 4)):
            layer = unwrapped(found[name])
            assert isinstance(layer, QuantizedLayer)
            assert max(len(r.unique()) for r in layer.inner.weight.flatten(1)) <= 2**bits


def test_recovery_lowers_the_divergence() -> None:
    ratios = []
    for seed in range(12):
        k = small.kit(lambda seed=seed: toys.chain(seed), calibrate=128)
        options: dict[str, Option] = {x.module + ".weight": Weight(bits=3) for x in k.graph.layers}
        plain, matched = (
            k.meter.loss(options, recovery=Recovery(samples=128, matched=m)).divergence
            for m in (False, True)
        )
        ratios.append(math.log(matched / plain))
    mean, error = float(np.mean(ratios)), float(np.std(ratios)) / len(ratios) ** 0.5
    assert mean + 2 * error < 0, (mean, error)


def test_a_narrowed_depthwise_layer_is_rounded_in_order() -> None:
    k = small.kit(toys.separable)
    options: dict[str, Option] = {
        "depth.weight": Weight(bits=3),
        "stem.0.channels": Keep(ratio=0.5),
    }
    layer = unwrapped(repaired(k, options, ORDERED)["depth"])
    assert isinstance(layer, QuantizedLayer) and tuple(layer.codes().shape) == (4, 1, 3, 3)


@pytest.mark.parametrize(
    "make",
    (
        lambda: nn.Conv2d(3, 4, 3),
        lambda: nn.Conv2d(3, 4, 3, bias=False),
        lambda: nn.BatchNorm2d(4),
    ),
)
def test_affine_scales_and_shifts_a_copy(make: object) -> None:
    module = toys.seeded(nn.Sequential(make()))[0].eval()  # type: ignore
    x = toys.images(3, channels=4 if isinstance(module, nn.BatchNorm2d) else 3)
    gain, shift = torch.tensor([2.0, -1.0, 0.5, 3.0]), torch.tensor([0.0, 1.0, -2.0, 5.0])
    before = copy.deepcopy(module)
    want = module(x) * gain.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)
    assert torch.allclose(want, affine(module, gain, shift)(x), atol=1e-4)
    assert torch.equal(before(x), module(x))


def test_a_recovery_has_a_name_and_survives_a_file() -> None:
    for recovery in BY_NAME.values():
        assert BY_NAME[recovery.name] == recovery and part.load(recovery.dump()) == recovery
    assert len({r.name for r in BY_NAME.values()}) == 3 and LIGHT in BY_NAME.values()


def test_matchable_modules_are_norms_and_biased_layers_without_one() -> None:
    assert matchable(small.kit().graph) == ("bn1", "bn2", "head")
    assert matchable(small.kit(toys.separable).graph) == ("stem.1", "bn", "point", "head")


def test_linear_layers_over_tokens_are_matched_along_their_last_dim() -> None:
    k = small.kit(attention.made(depth=1))
    names = [x.module for x in k.graph.layers if x.op == "linear"]
    assert len(names) > 1 and set(names) <= set(matchable(k.graph))
    options: dict[str, Option] = {f"{n}.weight": Weight(bits=3) for n in names}
    original, got = seen(k, {}), seen(k, repaired(k, options))
    plain = seen(k, repaired(k, options, NOTHING))
    for name in names:
        a, b, raw = (x[name].flatten(0, -2).double() for x in (original, got, plain))
        assert torch.allclose(a.mean(0), b.mean(0), atol=1e-4), name
        assert (a.mean(0) - raw.mean(0)).abs().max() > 1e-3, name
        ratio = b.std(0) / a.std(0).clamp(min=1e-6)
        free = (raw.std(0) / a.std(0).clamp(min=1e-6) - 1).abs() < 0.5
        assert torch.allclose(torch.ones_like(ratio[free]), ratio[free], rtol=2e-3), name


def test_a_recovery_of_nothing_is_the_banks_own() -> None:
    k = small.kit()
    options = k.options(small.width_and_bits(k))
    nothing = Recovery(samples=0, matched=False)
    assert nothing.name == "no recovery"
    assert repaired_without_moments(k, options, nothing) == k.bank.standins(options)
    assert k.meter.loss(options, recovery=nothing).divergence > 0


def repaired_without_moments(
    k: small.Kit, options: dict[str, Option], recovery: Recovery
) -> dict[str, nn.Module]:
    return recovered(k.bank, k.task, options, recovery=recovery, original={})
