"""Laws of AutoRound's score: absolute products with gradients at the quantized network.

Faults these laws must catch: a gradient at the original network; a sum whose sign cancels; an
activation's error against the wrong tensor; weights left taking gradients; a first activation
whose gradient never arrives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from allot.harm.autoround import delta_loss
from allot.options import depth
from allot.runtimes.ideal import Ideal
from allot.scene import Scene
from allot.space import Space
from tests import toys
from tests.harm import laws, scenes


def scene(kinds: Sequence[str], labels: Sequence[str]) -> Scene:
    return scenes.scene(space=lambda g, sp: laws.cut(sp, kinds, labels))


def gradients(s: Scene, label: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Gradients of the mean cross-entropy at the chain's weights, all rounded, by site; errors."""
    point = tuple(
        next((i for i, o in enumerate(c.options) if o.label == label), 0) for c in s.space.choices
    )
    model = s.bank.copy(s.bank.standins(s.space.options(point)))
    errors = {}
    for name in ("conv1", "conv2", "head"):
        layer = model.get_submodule(name).inner
        layer.weight.requires_grad_()
        before = s.bank.module(name).weight
        errors[f"{name}.weight"] = (before - layer.weight).detach()
    assert isinstance(s.data.inputs, Tensor) and s.data.labels is not None
    nn.functional.cross_entropy(model(s.data.inputs), s.data.labels).backward()
    found = {
        f"{n}.weight": model.get_submodule(n).inner.weight.grad for n in ("conv1", "conv2", "head")
    }
    return found, errors  # type: ignore[return-value]


@pytest.mark.parametrize("label", ("W4", "W2"))
def test_a_weight_scores_its_gradient_at_the_rounded_network(label: str) -> None:
    s = scene(("weight",), ("float", "W4", "W2"))
    table = delta_loss(s, batch=len(s.data))
    found, errors = gradients(s, label)
    for i, c in enumerate(s.space.choices):
        want = float((found[c.site] * errors[c.site]).abs().sum())
        at = [o.label for o in c.options].index(label)
        assert table.single(i, 3)[at] == pytest.approx(want, rel=1e-4)


def test_an_input_scores_its_gradient_times_its_own_error() -> None:
    s = scene(("activation",), ("float", "A4"))
    s = replace(s, space=replace(s.space, choices=s.space.choices[-1:]))
    (choice,) = s.space.choices
    (touch,) = s.space.graph.site(choice.site).touches
    table = delta_loss(s, batch=len(s.data))
    standin = s.bank.standins({choice.site: choice.options[1]})[touch.module]
    seen: list[Tensor] = []
    model = s.task.model
    module = model.get_submodule(touch.module)
    if touch.role == "in":
        handle = module.register_forward_pre_hook(lambda m, a: seen.append(a[0].detach()))
    else:
        handle = module.register_forward_hook(lambda m, a, y: seen.append(y.detach()))
    with torch.no_grad():
        model(s.data.inputs)
    handle.remove()
    x = seen[0]
    q = standin.quantize(x).requires_grad_()  # type: ignore
    # the chain's last layer reads the pooled tensor
    features = q if q.dim() == 2 else torch.flatten(q, 1)
    output = model.head(features)  # type: ignore
    assert s.data.labels is not None
    (g,) = torch.autograd.grad(nn.functional.cross_entropy(output, s.data.labels), q)
    want = float((g * (x - q)).abs().sum())
    assert table.single(0, 2)[1] == pytest.approx(want, rel=1e-4) and want > 0


def test_it_is_a_signal() -> None:
    for law in (laws.leaves_no_trace, laws.repeats_itself):
        law(delta_loss)
    laws.asks_not_in_which_order_sites_are_tied(delta_loss)
    laws.sums_over_tied_weights(delta_loss)
    laws.progresses(lambda s, p: delta_loss(s, progress=p))


def test_every_kind_gets_a_score_above_none() -> None:
    def build(graph: object, space: Space) -> Space:
        return laws.cut(
            space, ("weight", "activation", "channels"), ("float", "W4", "A4", "keep1", "keep0.5")
        ) + depth.space(space.graph, Ideal())

    s = scenes.scene(toys.residual, space=build)
    kinds = {s.space.graph.site(c.site).kind for c in s.space.choices}
    assert kinds == {"weight", "activation", "channels", "block"}
    table = delta_loss(s)
    assert table.of(s.space.original) == 0
    for i, n in enumerate(s.space.counts):
        assert n == 1 or min(table.single(i, n)[1:]) > 0
    assert not any(p.requires_grad for p in s.bank.skeleton.parameters())


def test_no_sign_cancels() -> None:
    """Twice the data says the same: means over batches of sums of absolute values."""
    s = scene(("weight", "activation"), ("float", "W4", "A4"))
    assert isinstance(s.data.inputs, Tensor) and s.data.labels is not None
    double = replace(
        s.data,
        inputs=torch.cat([s.data.inputs] * 2),
        labels=torch.cat([s.data.labels] * 2),
    )
    n = len(s.data)
    one, two = delta_loss(s, batch=n), delta_loss(replace(s, data=double), batch=n)
    for a, b in zip(one.terms, two.terms, strict=True):
        assert np.allclose(a.values, b.values, rtol=1e-5)
