"""Oracles of the 8-bit baseline: folding batch norms, extremes, and what kernels take.

Faults these must catch: a scale per tensor for weights; a range that clips; an option that an
integer kernel does not take; a search where there is nothing to choose.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from allot.deploy import fold_norm
from allot.option import FIXED
from allot.options.standins import QuantizedInput, QuantizedLayer, QuantizedOutput
from allot.recipes.baseline import WHITEPAPER, whitepaper
from allot.recipes.bits import Bits
from allot.rewrites.bn_folding import FoldNorms
from allot.runtimes.ideal import Ideal
from allot.scheme import Scheme, quantized
from allot.searchers.asked import as_asked
from allot.sweep import observed, unwrapped
from allot.task import Task
from allot.trace import trace
from tests import small, toys


def scheme(bits: str = "") -> Scheme:
    found = WHITEPAPER.scheme(bits)
    assert found is not None
    return found


def test_without_bits_it_is_8_and_8_and_nothing_is_searched() -> None:
    assert scheme() == whitepaper(Bits(weight=8, activation=8)) == scheme("W8A8")
    t = small.task()
    graph = trace(t.model, t.forward, t.example())
    space = WHITEPAPER.axis("")(graph, Ideal())
    assert {tuple(o.label for o in c.options) for c in space.choices} == {
        ("float", "W8"), ("float", "A8minmax"),
    }  # fmt: skip
    assert WHITEPAPER.searched(budgets=(), max_drop=1) is as_asked


def test_everything_is_what_integer_kernels_take() -> None:
    t = small.task()
    found = quantized(t, scheme())
    for name, option in found.options.items():
        effect = option.effect(found.graph.site(name))
        assert effect.ranges == FIXED and effect.compute_bits == effect.stored_bits == 8
        assert effect.stores is None
    layers = [unwrapped(found.network().get_submodule(x.module)) for x in found.graph.layers]
    assert all(isinstance(m, QuantizedLayer) for m in layers)


@pytest.mark.parametrize("bits", ("W8A8", "W4A8"))
def test_it_is_the_same_whether_norms_are_folded_before_or_after(bits: str) -> None:
    t = small.task()
    after = quantized(t, scheme(bits))
    before = quantized(
        t, Scheme(rewrites=(FoldNorms(),), weight=scheme(bits).weight,
                  recovery=scheme(bits).recovery),
    )  # fmt: skip
    for layer in after.graph.layers:
        a, b = (weight(f.network().get_submodule(layer.module)) for f in (after, before))
        norm = t.model.get_submodule(layer.norm) if layer.norm else None
        gain, _ = fold_norm(norm, len(a))
        assert torch.allclose(a * gain.view(-1, *[1] * (a.dim() - 1)), b, rtol=1e-4, atol=1e-6)


def weight(module: torch.nn.Module) -> Tensor:
    found = unwrapped(module).weight
    assert isinstance(found, Tensor)
    return found.detach()


@pytest.mark.parametrize("activation", (8, 4))
def test_every_value_seen_is_kept_to_half_a_step(activation: int) -> None:
    t: Task = small.task(toys.residual)
    found = quantized(t, whitepaper(Bits(activation=activation)))
    graph, seen = found.graph, {}
    tensors = [s for s in graph.sites if s.name in found.options and s.kind == "activation"]

    def look(name: str) -> object:
        def observe(x: Tensor) -> None:
            seen[name] = x.detach().clone()

        return observe

    hooks = {(s.touches[0].module, s.touches[0].role): [look(s.name)] for s in tensors}
    with observed(t.model, hooks), torch.no_grad():  # type: ignore[arg-type]
        t.forward(t.model, t.calibrate.inputs)
    for s in tensors:
        (touch,) = s.touches
        edge = found.bank.standins({s.name: found.options[s.name]})[touch.module]
        assert isinstance(edge, QuantizedInput | QuantizedOutput)
        x = seen[s.name]
        step = (max(float(x.max()), 0) - min(float(x.min()), 0)) / (2**activation - 1)
        assert float((edge.quantize(x) - x).abs().max()) <= step * 0.501
        assert edge.scale == pytest.approx(step, rel=1e-5)


def test_no_more_is_lost_than_with_fewer_bits() -> None:
    t = small.task()
    x = t.search.inputs
    with torch.no_grad():
        wanted = t.model(x)
        losses = [
            float(t.divergence(wanted, quantized(t, scheme(b)).network()(x)).mean())
            for b in ("W8A8", "W4A8", "W2A4")
        ]
    assert losses == sorted(losses) and losses[0] < 0.02
