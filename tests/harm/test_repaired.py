"""Laws of repairs: an option's corrections are those that recovery finds with it alone.

Faults these laws must catch: a correction of what comes before; a replay that is corrected again;
channels that have left; a correction counted twice, in its own tensor and in the rest; sums over
the wrong dim; a first-order effect of the wrong sign.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from allot.harm.repaired import Felt, corrections, merged
from allot.harm.tape import taped
from allot.harm.walk import columns
from allot.option import Option
from allot.options.width import kept_positions
from allot.recover import LIGHT, affine, moments, recovered
from allot.scene import Scene
from allot.sweep import unwrapped
from tests import toys
from tests.harm import laws, scenes

HARSH = ("float", "W3", "A4", "keep1", "keep0.5")
KINDS = ("weight", "activation", "channels")
NETWORKS = (toys.chain, toys.residual, toys.dense, toys.separable)


def scene(make: Callable[[], nn.Module], kinds: tuple[str, ...] = KINDS) -> Scene:
    return scenes.scene(make, space=lambda g, sp: laws.cut(sp, kinds, HARSH))


def options(s: Scene) -> dict[int, dict[str, Option]]:
    every = [(c, o) for c in s.space.choices for o in c.options]
    return {k: {c.site: o} for k, (c, o) in enumerate(every) if not o.is_original}


@pytest.mark.parametrize("make", NETWORKS)
def test_corrections_are_those_of_recovery(make: Callable[[], nn.Module]) -> None:
    s = scene(make)
    found = corrections(s, options(s), samples=LIGHT.samples)
    goals = moments(s.task, s.bank.skeleton, s.bank.graph, samples=LIGHT.samples)
    for k, wanted in options(s).items():
        repaired = recovered(s.bank, s.task, wanted, recovery=LIGHT, original=goals)
        plain = s.bank.standins(wanted)
        for name, module in repaired.items():
            if name not in found[k]:
                assert name in plain  # touched, but not matchable
                continue
            base = unwrapped(plain.get(name, s.bank.module(name)))
            gain, shift = (x.float() for x in found[k][name])
            size = unwrapped(module).state_dict()
            stay = kept_positions(name, wanted, graph=s.bank.graph, stats=s.bank.stats)
            want = affine(base, gain[stay] + 1, shift[stay]).state_dict()
            for key, value in want.items():
                assert torch.allclose(size[key], value, atol=1e-4)


def rows(module: nn.Module) -> int:
    """Channels that a layer or norm puts out."""
    state = module.state_dict()
    return len(next(v for key, v in state.items() if key.endswith("weight")))


def test_nothing_before_an_option_is_corrected() -> None:
    s = scene(toys.residual, ("weight",))
    found = corrections(s, options(s), samples=64)
    last = found[max(found)]
    assert max(float(g.abs().max()) for g, _ in last.values()) > 0
    (site,) = options(s)[max(found)]
    assert set(last) <= {site.removesuffix(".weight")}
    first = found[min(found)]
    assert len(first) > 5


@pytest.mark.parametrize("make", NETWORKS)
def test_a_correction_counts_once(make: Callable[[], nn.Module]) -> None:
    s = scene(make)
    local, _ = columns(s)
    found = corrections(s, options(s), samples=64)
    changed, rest = merged(local, found)
    assert changed.keys() == local.keys()
    for k, group in changed.items():
        own = {c.at[0] for c in group if c.gain is not None}
        assert own.isdisjoint(rest[k]) and own | set(rest[k]) == set(found[k])


@pytest.mark.parametrize("make", (toys.chain, toys.residual))
def test_its_effect_is_the_derivative_along_gain_and_shift(
    make: Callable[[], nn.Module],
) -> None:
    s = scene(make, ("weight",))
    g = torch.Generator().manual_seed(0)
    for name in ("bn1",) if make is toys.residual else ("bn1", "head"):
        size = rows(s.bank.module(name))
        gain, shift = torch.randn(2, size, generator=g, dtype=torch.float64)
        felt = Felt(s, {0: {name: (gain, shift)}})
        place = {(name, "out")}
        with taped(s.bank, watched=place, marked=place) as tape, torch.enable_grad():
            output = s.task.forward(s.bank.skeleton, s.data.inputs)
        along = torch.randn(1, *output.shape, generator=g)
        tape.differentiate(output, along)
        got = felt.of(tape)[0]
        assert torch.allclose(got[0], derivative(s, name, gain, shift, along[0]), atol=1e-3)


def derivative(s: Scene, name: str, gain: Tensor, shift: Tensor, along: Tensor) -> Tensor:
    """Central difference of <along, output> per sample for a small gain and shift, in float64."""
    model = s.bank.copy({}).double()
    base = model.get_submodule(name)
    assert isinstance(s.data.inputs, Tensor)

    def outputs(t: float) -> Tensor:
        def hook(m: nn.Module, a: object, y: Tensor) -> Tensor:
            shape = (1, -1, *([1] * (y.dim() - 2)))
            return y * (1 + t * gain).view(shape) + (t * shift).view(shape)

        handle = base.register_forward_hook(hook)
        with torch.no_grad():
            y = model(s.data.inputs.double())  # type: ignore
        handle.remove()
        return y

    slope = (outputs(1e-6) - outputs(-1e-6)) / 2e-6
    return (slope * along).sum(1).float()
