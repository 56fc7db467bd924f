"""Laws of learning for few coded bits: the bits asked for are held, nothing else is touched.

Faults these must catch: more bits than were given; the plan's own stand-ins changed; a plan that
takes few bits already learned all the same; other formats, wrappers or float layers lost; an
estimate of harm in another unit than the divergence; another result for the same seed.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from allot import part
from allot.errors import InputError
from allot.num.formats import Format, Int
from allot.option import Option
from allot.options.formatted import Formatted
from allot.options.precision import Activation, Weight
from allot.options.standins import QuantizedInput, QuantizedLayer, QuantizedOutput
from allot.reconstruct.felt import felt
from allot.reconstruct.learning import Planned
from allot.reconstruct.rated import Rated, coded_bits
from allot.recover import Recovery, moments
from allot.repair import repaired
from allot.sweep import unwrapped
from tests import small, toys

QUICK = Rated(bits=2.0, steps=12, samples=24, batch=8)


def options(k: small.Kit, weight: Option, *, tensors: int = 32) -> dict[str, Option]:
    kinds = {"weight": weight, "activation": Activation(bits=tensors)}
    found = {s.name: kinds[s.kind] for s in k.graph.sites if s.kind in kinds and not s.fixed}
    return {n: o for n, o in found.items() if not o.is_original}


def planned(k: small.Kit, given: dict[str, Option], *, matched: bool = True) -> Planned:
    recovery = Recovery(samples=24, matched=matched)
    original = moments(k.task, k.bank.skeleton, k.graph, samples=24) if matched else {}
    standins = repaired(k.bank, k.task, given, recovery=recovery, original=original)
    return Planned(
        bank=k.bank, task=k.task, options=given, standins=standins, original=original or None,
        seed=0, progress=lambda share: None,
    )  # fmt: skip


def state(standins: dict[str, nn.Module]) -> dict[str, dict[str, Tensor]]:
    return {n: {k: v.clone() for k, v in m.state_dict().items()} for n, m in standins.items()}


def same(a: dict[str, dict[str, Tensor]], b: dict[str, dict[str, Tensor]]) -> bool:
    return a.keys() == b.keys() and all(
        torch.equal(v, b[n][key]) for n, x in a.items() for key, v in x.items()
    )


def elements(standins: dict[str, nn.Module]) -> int:
    coded = (unwrapped(m) for m in standins.values())
    return sum(m.codes().numel() for m in coded if isinstance(m, QuantizedLayer))


def lost(p: Planned, standins: dict[str, nn.Module]) -> float:
    x = p.task.calibrate.inputs
    with torch.no_grad():
        wanted = p.task.forward(p.bank.skeleton, x)
        with p.bank.trial(standins) as model:
            return float(p.task.divergence(wanted, p.task.forward(model, x)).mean())


@pytest.mark.parametrize("make", [toys.chain, toys.residual, toys.separable])
@pytest.mark.parametrize("steps", [0, 12])
def test_the_bits_that_were_given_are_held(make: object, steps: int) -> None:
    k = small.kit(make)  # type: ignore[arg-type]
    p = planned(k, options(k, Weight(bits=5), tensors=8))
    before = state(dict(p.standins))
    found = replace(QUICK, steps=steps).learned(p)
    assert coded_bits(found) <= 2.0 * elements(found) < coded_bits(p.standins)
    assert coded_bits(found) > 1.5 * elements(found)
    assert same(before, state(dict(p.standins)))
    kinds = [type(m) for m in p.standins.values()]
    assert kinds == [type(found[n]) for n in p.standins]
    wraps = [m for m in found.values() if isinstance(m, QuantizedInput | QuantizedOutput)]
    assert wraps
    with k.bank.trial(found) as model:
        assert bool(k.task.forward(model, k.task.example()).isfinite().all())


def test_a_plan_of_few_bits_stays_as_it_is() -> None:
    k = small.kit()
    p = planned(k, options(k, Weight(bits=2)))
    found = replace(QUICK, bits=4.0).learned(p)
    assert found == dict(p.standins)


def test_the_same_seed_gives_the_same() -> None:
    found = []
    for _ in range(2):
        k = small.kit()
        found.append(state(QUICK.learned(planned(k, options(k, Weight(bits=5))))))
    assert same(*found)


def test_learning_is_no_worse_where_it_looked() -> None:
    k = small.kit(toys.residual)
    p = planned(k, options(k, Weight(bits=5)))
    longer = replace(QUICK, bits=2.5, steps=40, rate=0.01, other_rate=0.001, features=0.0)
    first, found = replace(longer, steps=0).learned(p), longer.learned(p)
    assert lost(p, found) <= 1.05 * lost(p, first)


def test_other_formats_and_float_layers_stay() -> None:
    k = small.kit()
    given = options(k, Weight(bits=5))
    sites = [n for n in given if n.endswith(".weight")]
    shared = Formatted(name="W3", format=Format(grid=Int(bits=3)))
    given = {**given, sites[0]: shared}
    del given[sites[1]]
    p = planned(k, given, matched=False)
    found = QUICK.learned(p)
    name = sites[0].removesuffix(".weight")
    assert found[name] is p.standins[name]
    assert sites[1].removesuffix(".weight") not in {
        n for n, m in found.items() if isinstance(unwrapped(m), QuantizedLayer)
    }


def test_bits_out_of_reach_are_refused() -> None:
    with pytest.raises(InputError, match="up to 8 bits"):
        Rated(bits=0.0)
    for field in ("rate", "other_rate", "samples", "batch"):
        with pytest.raises(InputError, match=field):
            replace(QUICK, **{field: 0})


def test_it_can_be_written_down() -> None:
    assert part.load(QUICK.dump()) == QUICK


def test_harm_is_the_divergence_of_a_small_change() -> None:
    """Random errors of a layer against what they do to the outputs, on average over errors."""
    k = small.kit(toys.chain, calibrate=64)
    p = planned(k, {}, matched=False)
    names = tuple(x.module for x in k.graph.layers)
    known = felt(p, {}, names, samples=64)
    g = torch.Generator().manual_seed(0)
    x = k.task.calibrate.inputs
    with torch.no_grad():
        original = k.task.forward(k.bank.skeleton, x)
    for name in names:
        module = k.bank.module(name)
        assert isinstance(module, nn.Conv2d | nn.Linear)
        size = 0.02 * float(module.weight.std())
        told = seen = 0.0
        for _ in range(30):
            error = size * torch.randn(module.weight.shape, generator=g)
            rows = error.flatten(1).double().reshape(len(known[name].gram), -1, error[0].numel())
            each = ((rows @ known[name].gram) * rows).sum(2).flatten()
            told += float((known[name].harm * each).sum())
            new = type(module).__new__(type(module))
            new.__dict__ = dict(module.__dict__)
            new._parameters = {**module._parameters, "weight": nn.Parameter(module.weight + error)}
            with torch.no_grad(), k.bank.trial({name: new}) as model:
                seen += float(k.task.divergence(original, k.task.forward(model, x)).mean())
        assert 0.3 < told / seen < 3.0, name
