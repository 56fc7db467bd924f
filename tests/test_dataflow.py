"""Laws of dataflow: what aliases or changes its input is not replayed; what is read is found.

Faults these laws must catch: a relu in place replayed; a shortcut's source taken for unread.
"""

from __future__ import annotations

import torch

from allot.dataflow import Dataflow, watched
from tests import small, toys
from tests.test_prefix import in_place, twin


def flow(make: object) -> Dataflow:
    t = small.task(make)  # type: ignore[arg-type]
    return watched(t.model, t.forward, t.example())


def test_what_works_in_place_or_hands_on_its_input_is_not_replayed() -> None:
    found = flow(in_place).replayable
    assert not found & {"relu", "same", "block"}
    assert {"conv1", "conv2", "bn", "block.conv", "conv3", "head"} <= found


def test_an_output_changed_in_place_later_is_not_calm() -> None:
    found = flow(in_place).calm
    assert not found & {"conv1", "bn", "conv3"} and {"block.conv", "head"} <= found


def test_two_outputs_or_two_calls_are_not_replayed() -> None:
    assert flow(twin).replayable == {"first.a", "first.b", "head"}


def test_a_chain_reads_its_last_output_alone() -> None:
    ended = {"conv1", "bn1", "relu1"}
    assert flow(toys.chain).read(ended, ()) == {"relu1"}
    assert flow(toys.chain).read(ended - {"relu1"}, ()) == {"bn1"}


def test_a_shortcut_reads_what_entered_its_block() -> None:
    ended = {"conv1", "bn1", "layer1.0", "layer1.1.conv1", "layer1.1.bn1"}
    assert flow(toys.residual).read(ended, ()) == {"layer1.0", "layer1.1.bn1"}


def test_a_touched_module_that_runs_needs_its_input() -> None:
    ended = {"conv1", "bn1"}
    f = flow(toys.padded)
    begun = {"layer1.0.conv1", "layer1.0.bn1", "layer1.0.conv2", "layer1.0.bn2"}
    assert f.read(ended | begun, ()) == {"bn1", "layer1.0.bn2"}
    assert f.read({"layer1", *ended}, ()) == {"layer1"}


def test_watching_leaves_no_trace() -> None:
    t = small.task(toys.residual)
    state = small.state(t.model)
    watched(t.model, t.forward, t.example())
    assert small.hooks(t.model) == 0 and small.same_state(state, small.state(t.model))
    assert torch.is_grad_enabled()
