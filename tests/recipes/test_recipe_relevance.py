"""Oracles of LRP-QViT's quantizer: a range per channel behind norms, and what it is good for.

Faults these must catch: channels ranged where no norm is; one range where channels differ.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from allot.num.activation_ranges import Shrink
from allot.num.formats import UInt
from allot.options.behind_norms import behind_norm
from allot.options.sharing import PerChannel, PerTensor
from allot.options.tensors import ActivationFormat
from allot.recipes.bits import Bits
from allot.recipes.relevance import LRP_QVIT, lrp_qvit
from allot.runtimes.ideal import Ideal
from allot.scheme import Scheme, quantized
from allot.searchers.knapsack import open_loop
from allot.task import Task
from allot.trace import trace
from tests import attention, small

OUTLIERS = (1, 6)


def planted() -> nn.Module:
    """Two channels of every norm 40 times as large, and read as much less."""
    model = attention.vision(depth=2)
    with torch.no_grad():
        for layer in model.layers:  # type: ignore[union-attr]
            for norm, readers in (
                (layer.norm1, (layer.attention.query, layer.attention.key, layer.attention.value)),
                (layer.norm2, (layer.up,)),
            ):
                for c in OUTLIERS:
                    norm.weight[c] *= 40
                    norm.bias[c] *= 40
                    for reader in readers:
                        reader.weight[:, c] /= 40
    return model


def loss(task: Task, scheme: Scheme) -> float:
    found = quantized(task, scheme)
    x = task.search.inputs
    with torch.no_grad():
        wanted, got = task.model(x), task.forward(found.network(), x)
    return float(task.divergence(wanted, got).mean())


def test_channels_have_ranges_behind_norms_and_nowhere_else() -> None:
    t = small.task(attention.made(depth=2))
    graph = trace(t.model, t.forward, t.example())
    options = lrp_qvit(Bits(activation=6)).options(graph)
    kinds = {s.name: s for s in graph.sites if s.kind == "activation" and not s.fixed}
    assert {n for n in options if n.endswith(".input")} == set(kinds)
    for name, site in kinds.items():
        option = options[name]
        assert isinstance(option, ActivationFormat) and option.grid == UInt(bits=6)
        want = PerChannel() if behind_norm(site, graph) else PerTensor()
        assert option.sharing == want and option.ranges == Shrink()


def test_outlier_channels_of_norms_do_not_spoil_the_others() -> None:
    task = small.task(planted)
    scheme = lrp_qvit(Bits(weight=8, activation=6))
    plain = replace(scheme, activation=ActivationFormat(grid=UInt(bits=6)))
    assert loss(task, scheme) < 0.25 * loss(task, plain)


def test_tensors_may_stay_in_float() -> None:
    assert lrp_qvit(Bits(activation=16)).activation is None


@pytest.mark.parametrize("bits", ("", "W4A6"))
def test_its_axis_has_the_same_rule(bits: str) -> None:
    t = small.task(attention.made(depth=1))
    graph = trace(t.model, t.forward, t.example())
    space = LRP_QVIT.axis(bits)(graph, Ideal())
    assert LRP_QVIT.searched(budgets=("size=40%",), max_drop=1) is open_loop
    width = 6 if bits else 8
    labels = {c.site: c.options[-1].label for c in space.choices}
    for site in graph.sites:
        if site.kind == "activation" and not site.fixed:
            per = "channel" if behind_norm(site, graph) else ""
            assert labels[site.name] == f"A{width}{per}"
