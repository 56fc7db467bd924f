"""EAQuant's oracles: the float output stays, the router agrees no less often than after plain
quantization, and every expert sees tokens.

Faults these must catch: a router that is quantized for its logits' size and not its choice; the
planted outliers left in place; statistics of an expert that no token reached.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from allot.mixtures import balanced_first
from allot.num.rounding import Nearest
from allot.recipes.bits import parsed
from allot.recipes.mixtures import EAQUANT, eaquant
from allot.recipes.offered import integers, tensors
from allot.reconstruct.setting import Reconstruction
from allot.recover import Recovery
from allot.scheme import Quantized, Scheme, quantized
from allot.task import Task
from allot.trace import trace
from tests import mixture, small
from tests.rewrites import proofs

SAMPLES = 40


def plain(bits: str) -> Scheme:
    """Nearest rounding with the same ranges and nothing else."""
    b = parsed(bits)
    nothing = Recovery(samples=SAMPLES, matched=False)
    return Scheme(
        weight=integers(b, rounding=Nearest()), activation=tensors(b), recovery=nothing
    )  # fmt: skip


def scheme(bits: str, *, learned: bool = True) -> Scheme:
    """The recipe's, with less to do."""
    found = eaquant(parsed(bits))
    setting = found.recovery.learning
    assert isinstance(setting, Reconstruction)
    setting = replace(setting, steps=60, samples=SAMPLES, batch=20)
    recovery = replace(
        found.recovery, samples=SAMPLES, learning=setting if learned else None
    )  # fmt: skip
    return replace(found, recovery=recovery)


def prepared(t: Task) -> Task:
    assert EAQUANT.prepare is balanced_first
    return balanced_first(t, trace(t.model, t.forward, t.example()), samples=SAMPLES)


def agreement(t: Task, q: Quantized) -> float:
    """Share of tokens that the router sends to the same experts as the original's."""
    same = mixture.chosen(t, q.network()) == mixture.chosen(t, t.model)
    return float(same.all(1).double().mean())


def error(t: Task, q: Quantized) -> float:
    got = small.forward(t, q.network(), t.search)
    return float((got - proofs.output(t, t.search)).square().mean())


def divergence(t: Task, q: Quantized) -> float:
    """KL of the router's choice to the original's, on the samples that it was learned on."""
    found: list[Tensor] = []
    for model in (t.model, q.network()):
        handle = model.get_submodule("router").register_forward_hook(
            lambda m, a, y: found.append(torch.log_softmax(y.double(), 1))
        )
        t.forward(model, t.calibrate.subset(slice(0, SAMPLES)).inputs)
        handle.remove()
    p, o = found
    return float((p.exp() * (p - o)).sum(1).mean())


@pytest.mark.parametrize("seed", (0, 1))
@pytest.mark.parametrize("bits", ("W4A8", "W3A4"))
def test_the_router_agrees_more_often_than_after_plain_quantization(bits: str, seed: int) -> None:
    t = mixture.task(mixture.rare(3, -2.0, seed=seed), n=180)
    before, after = quantized(t, plain(bits)), quantized(prepared(t), scheme(bits))
    assert agreement(t, after) > agreement(t, before)
    assert error(t, after) < error(t, before)
    assert after.bytes == before.bytes


def test_learning_brings_the_choice_nearer_where_it_is_learned() -> None:
    t = prepared(mixture.task(mixture.rare(3, -2.0), n=180))
    before, after = (quantized(t, scheme("W3A8", learned=x)) for x in (False, True))
    assert divergence(t, after) < divergence(t, before)


def test_an_expert_that_no_token_reaches_stays_in_float_and_the_rest_goes_on() -> None:
    t = mixture.task(mixture.rare(3, -1e6), n=120)
    q = quantized(prepared(t), scheme("W4A4"))
    assert not any(n.startswith("experts.3") for n in q.standins)
    assert ("experts.3.up", "Linear", 144) in q.graph.unknown
    assert agreement(t, q) > agreement(t, quantized(t, plain("W4A4")))
