"""Laws of lockstep: how samples are batched does not matter, nor where a plan's beginning is from.

Faults these laws must catch: a batch forgotten or looked at twice; a step before the one that it
depends on; a module that runs on as it was before its step; all samples in one forward; hooks or
stations left behind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from allot.lockstep import Step, lockstep, once
from allot.moments import moments
from allot.option import Option
from allot.options.standins import QuantizedLayer
from allot.recover import Recovery, recovered
from allot.sweep import outputs, unwrapped
from allot.task import take
from tests import attention, small, toys

ORDERED = Recovery(samples=24, in_order=True)
ROUNDED = Recovery(samples=24, in_order=True, matched=False)
MAKES = [*toys.PLAIN, attention.made(depth=2)]


def repaired(
    k: small.Kit, options: Mapping[str, Option], recovery: Recovery, **settings: object
) -> dict[str, nn.Module]:
    goal = moments(k.task, k.bank.skeleton, k.graph, samples=recovery.samples)
    return recovered(
        k.bank, k.task, options, recovery=recovery, original=goal, **settings  # type: ignore
    )  # fmt: skip


@pytest.mark.parametrize("make", MAKES)
@pytest.mark.parametrize("recovery", (ORDERED, ROUNDED))
def test_batches_are_as_if_all_samples_were_one(make: object, recovery: Recovery) -> None:
    k = small.kit(make)  # type: ignore[arg-type]
    options = k.options(small.width_and_bits(k))
    whole = repaired(k, options, recovery, batch=24)
    changed = output(k, whole) - output(k, {})
    for batch in (7, 1):
        parts = repaired(k, options, recovery, batch=batch)
        assert parts.keys() == whole.keys()
        # a weight between two codes may go to either, by a last digit
        apart = output(k, parts) - output(k, whole)
        assert apart.norm() <= 0.02 * changed.norm()
        for name in parts if not recovery.matched else ():
            a, b = unwrapped(parts[name]), unwrapped(whole[name])
            if isinstance(a, QuantizedLayer):
                assert isinstance(b, QuantizedLayer) and torch.equal(a.codes(), b.codes()), name
                assert torch.allclose(a.scale, b.scale, rtol=1e-5), name


def output(k: small.Kit, standins: Mapping[str, nn.Module]) -> Tensor:
    with k.bank.trial(standins) as model:
        return outputs(k.task, model, k.task.search, batch=20)


@pytest.mark.parametrize("make", MAKES)
def test_a_known_beginning_is_taken_and_the_rest_is_the_same_to_the_bit(make: object) -> None:
    k = small.kit(make)  # type: ignore[arg-type]
    options = k.options(small.width_and_bits(k))
    whole = repaired(k, options, ORDERED, batch=7)
    starts = [n for n, event in k.graph.order if event == "start" and n in whole]
    for count in (1, len(starts) // 2, len(starts)):
        known = {n: whole[n] for n in starts[:count]}
        found = repaired(k, options, ORDERED, batch=7, known=known)
        assert found.keys() == whole.keys()
        assert all(found[n] is known[n] for n in known)
        for name, module in found.items():
            assert small.same_state(small.state(module), small.state(whole[name])), name


@pytest.mark.parametrize("make", MAKES)
def test_no_more_than_a_batch_runs_at_a_time_and_no_trace_is_left(make: object) -> None:
    k = small.kit(make)  # type: ignore[arg-type]
    seen: list[int] = []

    def forward(model: nn.Module, x: Tensor) -> Tensor:
        seen.append(len(x))
        return k.task.forward(model, x)  # type: ignore[no-any-return]

    before, parts = small.state(k.bank.skeleton), small.identities(k.bank.skeleton)
    options = k.options(small.width_and_bits(k))
    k.bank.standins(options)
    task = replace(k.task, forward=forward)
    goal = moments(k.task, k.bank.skeleton, k.graph, samples=24)
    recovered(k.bank, task, options, recovery=ORDERED, original=goal, batch=5)
    assert seen and max(seen) <= 5
    assert small.same_state(before, small.state(k.bank.skeleton))
    assert parts == small.identities(k.bank.skeleton) and small.hooks(k.bank.skeleton) == 0


def test_every_batch_is_seen_once_at_every_step_in_execution_order() -> None:
    k = small.kit(toys.residual)
    batches = list(take(k.task.calibrate.inputs, slice(0, 24)).split(10))  # type: ignore
    names = [x.module for x in k.graph.layers]
    said: list[tuple[str, str]] = []
    found: dict[tuple[str, str], list[Tensor]] = {}

    def step(name: str, role: str) -> Step:
        return Step(
            module=name, role=role, act=lambda: said.append((name, role)),
            see=lambda x: found.setdefault((name, role), []).append(x.clone()),
        )  # fmt: skip

    steps = [step(n, role) for role in ("out", "in") for n in reversed(names)]
    assert lockstep(k.task, k.bank, {}, steps, batches=batches) == {}
    order = [(n, {"start": "in", "end": "out"}[e]) for n, e in k.graph.order if n in names]
    assert said == order
    seen: dict[tuple[str, str], list[Tensor]] = {}
    handles = [
        k.bank.module(n).register_forward_hook(
            lambda m, args, y, n=n: (
                [seen.setdefault((n, r), []).append(t) for r, t in (("in", args[0]), ("out", y))]
                and None
            )
        )
        for n in names
    ]
    for batch in batches:
        k.task.forward(k.bank.skeleton, batch)
    for h in handles:
        h.remove()
    assert seen.keys() == found.keys()
    for key, tensors in seen.items():
        assert len(tensors) == len(found[key]) == 3
        assert all(torch.equal(a, b) for a, b in zip(tensors, found[key], strict=True)), key


class Chosen(nn.Module):
    """Runs a layer for some inputs alone."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.some, self.head = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        rows = x[:, 0] > 0
        if bool(rows.any()):
            y = torch.where(rows[:, None], self.some(y), y)
        return self.head(y)  # type: ignore[no-any-return]


def test_a_module_that_a_batch_does_not_reach_is_not_seen_for_it() -> None:
    from allot.bank import Bank
    from allot.task import Data, Task
    from allot.trace import trace

    model = toys.seeded(nn.Sequential(Chosen()))[0].eval()
    x = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
    x[:, 0] = x[:, 0].abs()
    x[4:8, 0] *= -1
    data = Data(inputs=x)
    task = Task(name="chosen", model=model, calibrate=data, search=data, certify=data)
    bank = Bank(model, graph=trace(model, task.forward, task.example()), stats={})
    found: dict[str, int] = {}

    def step(name: str) -> Step:
        return Step(
            module=name, role="in", act=lambda: None,
            see=lambda x: found.__setitem__(name, found.get(name, 0) + len(x)),
        )  # fmt: skip

    steps = [step(n) for n in ("stem", "some", "head")]
    lockstep(task, bank, {}, steps, batches=list(x.split(4)))
    assert found == {"stem": 12, "some": 8, "head": 12}
    found.clear()
    lockstep(task, bank, {}, steps, batches=[x[4:8]])
    assert found == {"stem": 4, "head": 4}


def test_modules_called_twice_take_no_steps() -> None:
    k = small.kit()
    assert once(k.graph, ["conv1", "conv2"])
    twice = replace(k.graph, order=(*k.graph.order, ("conv1", "start"), ("conv1", "end")))
    assert not once(twice, ["conv1"]) and once(twice, ["conv2"])
