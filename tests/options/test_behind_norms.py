"""Laws of the rule that tells tensors behind norms: where they are, and that a file keeps it.

Faults these laws must catch: the input of a norm for its output; a sum behind a norm; a batch norm;
another tensor of the same module.
"""

from __future__ import annotations

import pytest
from torch import nn

from allot.num.formats import UInt
from allot.options.behind_norms import BehindNorms, behind_norm
from allot.options.sharing import PerChannel
from allot.options.tensors import ActivationFormat
from allot.part import load
from allot.site import Graph
from allot.trace import trace
from tests import attention, small, toys
from tests.rewrites import transformers_small as transformers

CHANNELS = ActivationFormat(grid=UInt(bits=8), sharing=PerChannel())
WHOLE = ActivationFormat(grid=UInt(bits=8))
RULE = BehindNorms(made=CHANNELS, others=WHOLE)


def graph_of(make: object) -> Graph:
    t = small.task(make)  # type: ignore[arg-type]
    return trace(t.model, t.forward, t.example())


def found(graph: Graph) -> set[str]:
    return {s.name for s in graph.sites if behind_norm(s, graph)}


def test_before_attention_and_feed_forward_where_norms_come_first() -> None:
    graph = graph_of(attention.made(depth=2))
    layers = [f"layers.{i}.{n}.input" for i in range(2) for n in ("attention.query", "up")]
    assert found(graph) == set(layers)  # the head reads one token of what the last norm made


def test_inside_blocks_where_norms_come_last() -> None:
    """At the end of a block the tensor is the block's, whatever made it."""
    graph = graph_of(attention.made(depth=2, first=False))
    assert found(graph) == {"layers.0.up.input", "layers.1.up.input"}


def test_norms_of_other_makers_too() -> None:
    t = transformers.gated()
    graph = trace(t.model, t.forward, t.example())
    for i in range(2):
        assert {f"layers.{i}.q.input", f"layers.{i}.gate.input"} <= found(graph)
        assert {f"layers.{i}.o.input", f"layers.{i}.down.input"} & found(graph) == set()


@pytest.mark.parametrize("make", (toys.chain, toys.dense, toys.residual))
def test_batch_norms_are_none(make: type[nn.Module]) -> None:
    assert not found(graph_of(make))


def test_the_rule_gives_one_option_behind_norms_and_the_other_elsewhere() -> None:
    graph = graph_of(attention.made(depth=1))
    for site in graph.sites:
        assert RULE(site, graph) is (CHANNELS if site.name in found(graph) else WHOLE)
    assert load(RULE.dump()) == RULE
