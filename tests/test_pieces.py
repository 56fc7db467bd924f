"""Laws of pieces: they cover the network once, and hold every option that decides them.

Faults these laws must catch: a module in two pieces or none; an option that reaches into a piece
and is not counted; units that overlap taken apart.
"""

from __future__ import annotations

import pytest

from allot.options.precision import Activation, Weight
from allot.pieces import pieces
from allot.reconstruct.losses import FinalKL, OutputMSE
from allot.reconstruct.setting import Reconstruction
from allot.reconstruct.units import Blocks, Layers, Named, Units
from allot.recover import Recovery
from tests import small, toys

IN_ORDER = Recovery(in_order=True)


def learned(units: Units, **settings: object) -> Recovery:
    setting = Reconstruction(unit=units, **settings)  # type: ignore[arg-type]
    return Recovery(in_order=True, learning=setting)


RECOVERIES = [IN_ORDER, learned(Blocks()), learned(Layers(), loss=OutputMSE())]


@pytest.mark.parametrize("make", toys.PLAIN)
@pytest.mark.parametrize("recovery", RECOVERIES)
def test_every_module_lies_in_one_piece_in_execution_order(
    make: object, recovery: Recovery
) -> None:
    k = small.kit(make)  # type: ignore[arg-type]
    found = pieces(k.graph, recovery)
    starts = [n for n, event in k.graph.order if event == "start"]
    at = [[i for i, p in enumerate(found) if p.holds(n)] for n in starts]
    assert all(len(where) == 1 for where in at) and at == sorted(at)
    assert [p.holds("nowhere") for p in found] == [False] * (len(found) - 1) + [True]


@pytest.mark.parametrize("make", toys.PLAIN)
@pytest.mark.parametrize("recovery", RECOVERIES)
def test_a_piece_holds_the_options_of_its_modules_and_of_those_before(
    make: object, recovery: Recovery
) -> None:
    k = small.kit(make)  # type: ignore[arg-type]
    options = k.options(small.width_and_bits(k))
    made = {n: o for n, o in options.items() if not o.is_original}
    before: set[str] = set()
    for piece in pieces(k.graph, recovery):
        inside = {n for n in made if any(piece.holds(t.module) for t in k.graph.site(n).touches)}
        given = set(piece.options(options))
        assert before | inside == given
        before = given
    assert before == set(made)


def test_what_depends_on_the_whole_network_is_one_piece() -> None:
    k = small.kit(toys.residual)
    assert len(pieces(k.graph, IN_ORDER)) > 1
    assert len(pieces(k.graph, learned(Blocks(), loss=FinalKL()))) == 1
    block = next(s.touches[0].module for s in k.graph.sites if s.kind == "block")
    inner = next(x.module for x in k.graph.layers if x.module.startswith(block))
    assert len(pieces(k.graph, learned(Named(units=((block,), (inner,)))))) == 1


def test_options_of_the_original_decide_nothing() -> None:
    k = small.kit()
    (last, *_) = reversed(pieces(k.graph, IN_ORDER))
    assert last.options(k.options(k.space.original)) == {}
    given = {"conv1.weight": Weight(bits=4), "conv2.input": Activation(bits=8)}
    assert last.options({**k.options(k.space.original), **given}) == given
