"""Laws of the outlier-token bypass.

Faults these must catch: the last token taken for the first, a token that varies taken as constant,
a bias forgotten, the first token rounded after all.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from allot.errors import ModelError
from allot.rewrites.outlier_tokens import FirstApart, OutlierTokens
from allot.trace import trace
from tests import small, toys
from tests.rewrites import transformers_small as made
from tests.rewrites.proofs import check_rewrite

LAYERS = ("layers.0.q", "layers.0.v", "layers.1.up")


def apart(model: torch.nn.Module) -> dict[str, FirstApart]:
    return {n: m for n, m in model.named_modules() if isinstance(m, FirstApart)}


def test_a_constant_first_token_is_computed_once() -> None:
    task = made.gated()
    found = apart(check_rewrite(task, OutlierTokens(layers=LAYERS)).model)
    # under a causal mask the first token depends on itself alone
    assert set(found) == set(LAYERS)
    assert all(m.made is not None and m.weight is None for m in found.values())
    before = trace(task.model, task.forward, task.example()).loose
    after = trace(OutlierTokens(layers=LAYERS).apply(task), task.forward, task.example()).loose
    assert after - before == 4 * (12 + 4 + 16)


def test_a_first_token_that_varies_keeps_the_float_weight() -> None:
    task = made.vision()
    layers = ("layers.0.attention.query", "layers.1.up")
    found = apart(check_rewrite(task, OutlierTokens(layers=layers)).model)
    assert found[layers[0]].made is not None and found[layers[1]].made is None
    weight = found[layers[1]].weight
    assert weight is not None and torch.equal(weight, task.model.get_submodule(layers[1]).weight)


def test_what_few_inputs_agree_on_is_not_believed() -> None:
    task = made.gated()
    few = replace(task, calibrate=task.calibrate.subset(slice(0, 4)))
    found = apart(OutlierTokens(layers=LAYERS).apply(few))
    assert all(m.made is None for m in found.values())


def test_layers_whose_first_token_stands_out_are_found_and_no_others() -> None:
    task = made.gated()
    tokens = task.calibrate.inputs
    assert isinstance(tokens, torch.Tensor)
    tokens[:, 1:].clamp_(min=1)
    with torch.no_grad():
        task.model.get_submodule("embed").weight[0] *= 1e-4
        task.model.get_submodule("embed").weight[0, 3] = 300.0
    with pytest.raises(ModelError, match="no linear reads a first token"):
        OutlierTokens(ratio=50.0).apply(task)
    names = set(apart(OutlierTokens(ratio=1.2).apply(task)))
    assert names and names <= {
        n for n, m in task.model.named_modules() if type(m) is torch.nn.Linear
    }


def test_a_tensor_wide_range_without_the_first_token_costs_less() -> None:
    g = torch.Generator().manual_seed(1)
    x = torch.randn(12, 5, 6, generator=g)
    x[:, 0] = 40.0
    layer = toys.seeded(torch.nn.Linear(6, 4))

    def rounded(inner: torch.nn.Module) -> torch.nn.Module:
        def before(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
            scale = args[0].abs().max() / 7
            return ((args[0] / scale).round() * scale,)

        inner.register_forward_pre_hook(before)
        return inner

    wanted = layer(x)
    module = FirstApart(layer=layer, made=None, weight=layer.weight, bias=layer.bias)
    assert torch.allclose(module(x), wanted, atol=1e-5)
    rounded(layer)
    whole, kept = ((f(x) - wanted)[:, 1:].square().mean() for f in (layer, module))
    assert kept < 0.1 * whole and torch.allclose(module(x)[:, 0], wanted[:, 0], atol=1e-5)


def test_a_layer_that_reads_no_tokens_is_refused() -> None:
    with pytest.raises(ModelError, match="head reads no tokens"):
        OutlierTokens(layers=("head",)).apply(made.vision())
    with pytest.raises(ModelError, match="leave this rewrite out"):
        OutlierTokens().apply(small.task(toys.chain))
