"""Laws of units: every layer in one of them, in execution order, nothing unknown.

Faults these laws must catch: a block that changes the shape cut into its layers; a stage taken for
a block; a layer in two units; units by name and not by execution; an unknown name passed over.
"""

from __future__ import annotations

import pytest
from torch import nn

from allot.errors import InputError
from allot.reconstruct.units import Blocks, Layers, Named, Unit, blocks, inside, layers, named
from allot.site import Graph
from allot.trace import trace
from tests import attention, toys

MAKES = (*toys.PLAIN, attention.made(depth=2))


def graph(model: nn.Module) -> Graph:
    return trace(model, lambda m, x: m(x), toys.images())


def held(g: Graph, units: tuple[Unit, ...]) -> list[str]:
    """Layers in all units, unit by unit."""
    names = [x.module for x in g.layers]
    return [n for u in units for n in names if n in inside(g, u)]


@pytest.mark.parametrize("make", MAKES)
@pytest.mark.parametrize("rule", (layers, blocks))
def test_every_layer_lies_in_one_unit_in_execution_order(make: object, rule: object) -> None:
    g = graph(make())  # type: ignore[operator]
    units = rule(g)  # type: ignore[operator]
    assert held(g, units) == [x.module for x in g.layers]
    starts = [n for n, event in g.order if event == "start"]
    assert sorted(units, key=lambda u: starts.index(u[0])) == list(units)


@pytest.mark.parametrize("make", MAKES)
def test_a_layer_comes_with_the_norm_that_alone_reads_it(make: object) -> None:
    g = graph(make())  # type: ignore[operator]
    assert layers(g) == tuple((x.module, x.norm) if x.norm else (x.module,) for x in g.layers)
    assert Layers().of(g) == layers(g) and Blocks().of(g) == blocks(g)


def test_blocks_of_a_residual_network_are_its_nine_whatever_they_do_to_the_shape() -> None:
    found = blocks(graph(toys.resnet20()))
    nine = [(f"layer{i}.{j}",) for i in (1, 2, 3) for j in (0, 1, 2)]
    assert found == (("conv1", "bn1"), *nine, ("linear",))


def test_blocks_of_a_transformer_are_its_layers() -> None:
    found = blocks(graph(attention.vision(depth=3)))
    assert found == (("patches",), ("layers.0",), ("layers.1",), ("layers.2",), ("head",))


def test_where_there_are_no_shortcuts_children_of_several_layers_are_units() -> None:
    first = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU())
    rest = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
    model = toys.seeded(nn.ModuleDict({"first": first, "rest": rest}))
    g = trace(model, lambda m, x: m["rest"](m["first"](x)), toys.images())
    assert blocks(g) == (("first",), ("rest.1",))


def test_named_units_are_taken_in_execution_order() -> None:
    g = graph(toys.resnet20())
    units = (("layer3",), ("conv1", "bn1"), ("layer1.0",))
    want = (units[1], units[2], units[0])
    assert named(g, units) == want == Named(units=units).of(g)


def test_an_unknown_name_is_refused_with_those_that_are_near() -> None:
    with pytest.raises(InputError, match=r"'layer1\.O'.*layer1\.0"):
        named(graph(toys.resnet20()), (("layer1.O",),))
    with pytest.raises(InputError, match="one or more"):
        named(graph(toys.chain()), ((),))
