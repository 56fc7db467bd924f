"""Laws of gates: closed never, they are the original; learned, they close where it costs little.

Faults these laws must catch: the network trained along with its gates, or given gradients; a gate
that looks at its batch; a threshold the wrong way round; training that depends on global chance.
"""

from __future__ import annotations

import pytest
import torch

from allot.sampling.features import features
from allot.sampling.gate_training import Training, at_share, trained, values
from allot.sampling.gates import Gate
from allot.sampling.probes import IN, Probe
from allot.sampling.sampler import Sampler, Way
from allot.sampling.spans import HOLD
from tests.sampling import nets
from tests.small import hooks, identities, same_state, state

SPANS = (*nets.ATTENTION[:2], *nets.FEED[:2])
QUICK = Training(iterations=60, lr=0.05, batch=8, laziness=0.05)


def gated(original: Sampler, gates: dict) -> Sampler:  # type: ignore[type-arg]
    ways = {}
    for i in range(1, len(original.grid)):
        mine = {span: gate for (step, span), gate in gates.items() if step == i}
        ways[i] = Way(reuse=dict.fromkeys(mine, HOLD), when=mine)
    return nets.planned(original, ways)


def doubled(gates: dict) -> dict:  # type: ignore[type-arg]
    return {k: g.double() for k, g in gates.items()}


def test_gates_that_never_close_are_the_original_bit_for_bit() -> None:
    original = nets.blocks()
    s = nets.seeds(5, original)
    gates = {(i, span): Gate(channels=8, threshold=1.0) for i in range(1, 6) for span in SPANS}
    assert torch.equal(nets.sample(original, s), nets.sample(gated(original, doubled(gates)), s))


def test_gates_that_always_close_are_a_fixed_plan() -> None:
    original = nets.blocks()
    s = nets.seeds(5, original)
    gates = {(i, span): Gate(channels=8, threshold=0.1) for i in range(1, 6) for span in SPANS}
    ways = {i: Way(reuse=dict.fromkeys(SPANS, HOLD)) for i in range(1, 6)}
    found = nets.sample(gated(original, doubled(gates)), s)
    assert torch.equal(found, nets.sample(nets.planned(original, ways), s))


@pytest.mark.parametrize("looks", (True, False))
def test_training_touches_gates_alone_and_repeats(looks: bool) -> None:
    original = nets.blocks(guidance=2.0)
    for p in original.denoiser.parameters():
        p.requires_grad_(True)
    s = nets.seeds(10, original)
    before, modules = state(original), identities(original)
    how = Training(iterations=8, looks=looks)
    first = trained(original, s, spans=SPANS, how=how)
    second = trained(original, s, spans=SPANS, how=how)
    assert same_state(before, state(original)) and modules == identities(original)
    assert hooks(original) == 0
    assert all(p.grad is None for p in original.parameters())
    assert all(same_state(first[k].state_dict(), second[k].state_dict()) for k in first)
    assert {k[0] for k in first} == set(range(1, 6)) and {k[1] for k in first} == set(SPANS)
    assert all((g.weight is not None) == looks for g in first.values())


def test_laziness_closes_gates_and_its_absence_opens_them() -> None:
    original = nets.blocks()
    s = nets.seeds(12, original)
    probes = [Probe(module=span.modules[0], role=IN) for span in SPANS]
    seen = features(original, s, spans=SPANS, probes=probes)

    def mean(laziness: float) -> float:
        how = Training(iterations=80, lr=0.05, batch=8, laziness=laziness)
        gates = trained(original, s, spans=SPANS, how=how)
        return float(torch.cat([v for x in values(gates, seen).values() for v in x]).mean())

    assert mean(0.0) < 0.5 < mean(1.0)


def test_a_share_of_results_is_taken_again() -> None:
    original = nets.blocks()
    s = nets.seeds(12, original)
    probes = [Probe(module=span.modules[0], role=IN) for span in SPANS]
    seen = features(original, s, spans=SPANS, probes=probes)
    gates = trained(original, s, spans=SPANS, how=QUICK)
    for share in (0.0, 0.25, 0.5, 1.0):
        at_share(gates, seen, share)
        closed = torch.cat(
            [g > gates[k].threshold for k, x in values(gates, seen).items() for g in x]
        )
        assert float(closed.double().mean()) == pytest.approx(share, abs=0.02)


def test_a_gate_looks_at_its_own_sample() -> None:
    gate = Gate(channels=3)
    with torch.no_grad():
        gate.weight.copy_(torch.tensor([1.0, -2.0, 0.5]))  # type: ignore[union-attr]
    g = torch.Generator().manual_seed(0)
    for shape in ((6, 4, 3), (6, 3), (6, 3, 2, 2)):
        x = torch.randn(shape, generator=g)
        with torch.no_grad():
            alone = torch.cat([gate(x[i : i + 1]) for i in range(6)])
            torch.testing.assert_close(gate(x), alone)


def test_learned_gates_lose_less_than_those_turned_about() -> None:
    """At one share, closing what the gates say costs less than closing the opposite."""
    original = nets.blocks(steps=8)
    s, fresh = nets.seeds(24, original), nets.seeds(24, original, seed=1)
    probes = [Probe(module=span.modules[0], role=IN) for span in SPANS]
    seen = features(original, s, spans=SPANS, probes=probes)
    how = Training(iterations=150, lr=0.05, batch=16, laziness=0.02)
    gates = trained(original, s, spans=SPANS, how=how)
    whole = nets.sample(original, fresh)
    at_share(gates, seen, 0.4)
    learned = (nets.sample(gated(original, gates), fresh) - whole).square().mean()
    for g in gates.values():
        with torch.no_grad():
            g.bias.neg_()
            g.weight.neg_()  # type: ignore[union-attr]
    at_share(gates, seen, 0.4)
    turned = (nets.sample(gated(original, gates), fresh) - whole).square().mean()
    assert learned < turned
