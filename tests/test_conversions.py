"""Elements are counted where a tensor changes its format and no kernel does it on the way."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from allot.conversions import elements, leaving, vain
from allot.runtimes import OpenVino
from tests.deployables import graph
from tests.test_latency import space

TARGET = OpenVino()


def test_codes_are_in_vain_where_a_float_layer_reads_them() -> None:
    s, batch = space(), 4
    found = vain(s, TARGET, batch=batch)
    a, b, c = (elements(x, batch) for x in graph().layers)
    # choices are stem input, stem weight, conv input, conv weight, head input, head weight
    assert 0 == found.of(s.original) == found.of((1, 1, 1, 1, 1, 1)) == found.of((0, 1, 0, 2, 0, 1))
    assert a == found.of((1, 0, 0, 0, 0, 0))
    assert a + b + c == found.of((1, 0, 1, 0, 1, 0))
    assert c == found.of((1, 1, 0, 2, 1, 0))


def test_elements_leave_where_an_integer_layer_is_not_followed_by_codes() -> None:
    s, batch = space(), 4
    found = leaving(s, TARGET, batch=batch)
    a, b, c = (batch * int(np.prod(x.out_shape)) for x in graph().layers)
    assert 0 == found.of(s.original) == found.of((1, 0, 1, 0, 1, 0))
    # the last layer's result is the network's, in floats
    assert c == found.of((1, 1, 1, 1, 1, 1)) == found.of((1, 1, 1, 1, 1, 2))
    assert a == found.of((1, 1, 0, 0, 0, 0))
    assert b + c == found.of((1, 1, 1, 2, 0, 0)) + found.of((0, 0, 0, 0, 1, 1))


def test_layers_that_read_one_tensor_are_followed_by_who_reads_another() -> None:
    """Keys and values read what queries do; none of them reads what another makes."""
    s = space()
    shared = replace(
        s.graph, layers=(replace(s.graph.layers[0], input="conv.input"), *s.graph.layers[1:])
    )
    found = leaving(replace(s, graph=shared), TARGET, batch=1)
    first = int(np.prod(shared.layers[0].out_shape))
    both = first + int(np.prod(shared.layers[1].out_shape))
    assert both == found.of((0, 1, 1, 1, 0, 0))
    assert 0 == found.of((0, 1, 1, 1, 1, 0))
