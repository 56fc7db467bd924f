"""Laws of calibrating: every statistic once, from the original, however the data are cut.

Faults these laws must catch: a last batch left out; an option whose statistic nobody asked for; a
network changed or left with hooks; progress that never ends.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from allot.calibrate import calibrate, needed
from allot.option import Statistic
from allot.options import precision, width
from allot.options.precision import Values
from allot.options.statistics import Gram
from allot.runtimes.ideal import Ideal
from allot.trace import trace
from tests import small, toys


@pytest.mark.parametrize("make", toys.PLAIN)
def test_the_state_does_not_depend_on_the_batches(make: object) -> None:
    k = small.kit(make)  # type: ignore[arg-type]
    statistics = needed(k.space)
    whole = calibrate(k.task, k.task.model, statistics, batch=1000)
    for batch in (1, 7):
        cut = calibrate(k.task, k.task.model, statistics, batch=batch)
        assert cut.keys() == whole.keys() == set(statistics)
        for s, state in whole.items():
            scale = float(state.abs().max())
            assert torch.allclose(state, cut[s], rtol=1e-4, atol=1e-5 * scale), s


@pytest.mark.parametrize("make", toys.PLAIN)
def test_what_any_option_needs_is_there_and_listed_once(make: object) -> None:
    k = small.kit(make)  # type: ignore[arg-type]
    wanted: set[Statistic] = set()
    for c in k.space.choices:
        for option in c.options:
            wanted |= set(option.needs(k.graph.site(c.site), k.graph))
    listed = needed(k.space)
    assert wanted == set(listed) and len(listed) == len(wanted)
    assert wanted <= set(k.bank.stats)


def test_a_space_of_originals_needs_nothing() -> None:
    k = small.kit()
    bare = k.space.exclude("re:.")
    assert needed(bare) == () and calibrate(k.task, k.task.model, ()) == {}


def test_both_axes_share_a_gram() -> None:
    t = small.task()
    graph = trace(t.model, t.forward, t.example())
    bits, channels = precision.space(graph, Ideal()), width.space(graph, Ideal())
    shared = set(needed(bits)) & set(needed(channels))
    assert shared and all(isinstance(s, Gram) for s in shared)
    assert len(needed(bits + channels)) < len(needed(bits)) + len(needed(channels))


def test_a_gram_is_the_second_moment_of_what_the_layer_multiplies() -> None:
    t = small.task()
    seen: list[Tensor] = []
    handle = t.model.head.register_forward_pre_hook(lambda m, a: seen.append(a[0]))
    statistic = Gram(module="head")
    state = calibrate(t, t.model, [statistic], batch=5)[statistic]
    handle.remove()
    rows = torch.cat(seen).double()
    assert torch.allclose((rows.T @ rows)[None], state) and len(rows) == len(t.calibrate)


def test_values_are_of_every_calibration_sample() -> None:
    t = small.task()
    statistic = Values(module="conv1", role="in")
    state = calibrate(t, t.model, [statistic], batch=7)[statistic]
    assert isinstance(t.calibrate.inputs, Tensor)
    flat = t.calibrate.inputs.flatten(1)
    assert torch.equal(flat.amin(1), state[:, 0]) and torch.equal(flat.amax(1), state[:, 1])


def test_the_network_is_left_as_it_was() -> None:
    k = small.kit()
    before = small.state(k.task.model), small.identities(k.task.model)
    calibrate(k.task, k.task.model, needed(k.space))
    assert small.same_state(before[0], small.state(k.task.model))
    assert before[1] == small.identities(k.task.model) and small.hooks(k.task.model) == 0


def test_progress_rises_to_one() -> None:
    t, shares = small.task(), list[float]()
    calibrate(t, t.model, [Gram(module="head")], batch=7, progress=shares.append)
    assert shares == sorted(shares) and shares[-1] == 1 and len(shares) == 4


def test_values_are_picked_at_places_of_their_own_one_in_every_stretch() -> None:
    statistic = Values(module="m", role="in", picks=16)
    x = torch.arange(64.0).repeat(20, 1)  # what is picked tells its place
    picked = statistic.update(None, x)[:, 2:]
    assert (picked.div(4, rounding_mode="floor") == torch.arange(16.0)).all()
    assert len(picked.unique(dim=0)) == 20
    parts = statistic.update(statistic.update(None, x[:7]), x[7:])
    assert torch.equal(parts, statistic.update(None, x))
    assert torch.equal(Values(module="m", role="in").update(None, x)[:, 2:], x)
