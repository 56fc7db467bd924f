"""A sampler's own runs as a task of its network.

Faults these laws must catch: inputs of another run, step or condition; noises that two sets share;
a compressed sampler's states taken from the original's run; hooks that stay.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from allot.errors import DataError, InputError
from allot.judging.fidelity import squared_error
from allot.samplers.trajectory import along, visited
from allot.sampling.allocation import DenseAndVaried, Strided
from allot.sampling.sampler import Dropped, Sampler, Way
from allot.task import call
from tests.sampling import nets


def states(sampler: Sampler, noise: Tensor, label: Tensor) -> list[Tensor]:
    """What enters the network at every step, by the sampler's own formula."""
    x, past, found = sampler.grid.start * noise, [], []
    for i in range(len(sampler.grid)):
        level = sampler.grid.level(i)
        x = sampler.grid.move(x, past, level)
        found.append(x)
        time = torch.full((len(x),), level.time)
        past.append(sampler.grid.read(x, sampler.denoiser(x, time, label=label), level))
    return found


def test_every_evaluation_is_a_row_with_its_time_step_run_and_condition() -> None:
    sampler = nets.blocks()
    seeds = nets.seeds(5, sampler)
    with torch.no_grad():
        want = states(sampler, seeds.noise, seeds.conditions["label"])
    seen = visited(sampler, seeds, batch=2)
    assert len(seen) == 5 * len(sampler.grid)
    for step, x in enumerate(want):
        some = seen.rows(seen.step == step)
        assert some.run.tolist() == [0, 1, 2, 3, 4]
        assert torch.allclose(some.x, x, atol=1e-12)
        assert some.time.tolist() == [pytest.approx(sampler.grid.times[step])] * 5
        assert torch.equal(some.conditions["label"], seeds.conditions["label"])
    fewer = visited(sampler, seeds, steps=(1, 4))
    assert sorted(set(fewer.step.tolist())) == [1, 4]


def test_under_guidance_both_evaluations_are_rows() -> None:
    sampler = nets.blocks(guidance=2.0)
    seen = visited(sampler, nets.seeds(3, sampler))
    assert len(seen) == 2 * 3 * len(sampler.grid)
    assert int((seen.conditions["label"] == 2).sum()) == 3 * len(sampler.grid)


def test_a_compressed_samplers_own_states_are_followed() -> None:
    original = nets.blocks()
    seeds = nets.seeds(4, original)
    planned = nets.planned(original, {1: Way(gain_out=0.5)})
    planned.steps[3] = Dropped()
    a, b = visited(original, seeds), visited(planned, seeds)
    assert sorted(set(b.step.tolist())) == [0, 1, 2, 4, 5]
    assert torch.equal(b.rows(b.step == 1).x, a.rows(a.step == 1).x)
    assert not torch.equal(b.rows(b.step == 2).x, a.rows(a.step == 2).x)
    task = along(original, seeds, total=6, policy=planned)
    assert task.model is original.denoiser
    assert all(any(torch.equal(x, y) for y in b.x) for x in task.calibrate.inputs["x"])


def test_the_sets_of_a_task_share_no_noise_and_are_the_networks_own_inputs() -> None:
    sampler = nets.blocks()
    seeds = nets.seeds(16, sampler)
    seen = visited(sampler, seeds)

    def runs(x: Tensor) -> set[int]:
        return {int(seen.run[(seen.x == row).all(-1).all(-1)][0]) for row in x}

    task = along(sampler, seeds, total=40, seed=3)
    sets = [runs(d.inputs["x"]) for d in (task.calibrate, task.search, task.certify)]
    assert len(task.calibrate) == 40 and sets[1] == {12, 13} and sets[2] == {14, 15}
    assert not sets[0] & (sets[1] | sets[2])
    out = call(sampler.denoiser, task.calibrate.inputs)
    assert float(squared_error(out, out).max()) == 0 and out.shape == (40, 6, 4)
    again = along(sampler, seeds, total=40, seed=3)
    assert torch.equal(task.calibrate.inputs["x"], again.calibrate.inputs["x"])
    with pytest.raises(DataError, match="3 or more"):
        along(sampler, nets.seeds(2, sampler), total=2)


def test_steps_are_allocated_as_the_rule_says() -> None:
    sampler = nets.blocks()
    seeds = nets.seeds(8, sampler)
    task = along(sampler, seeds, total=9, allocation=Strided(every=2))
    times = task.calibrate.inputs["time"]
    kept = [float(t) for t in torch.tensor(sampler.grid.times[::2])]
    assert [int((times == t).sum()) for t in kept] == [3, 3, 3]
    task = along(sampler, seeds, total=12, allocation=DenseAndVaried(module="blocks.1"))
    assert len(task.calibrate) == 12
    assert not any(m._forward_hooks for m in sampler.denoiser.modules())


def test_steps_that_are_not_taken_are_told() -> None:
    sampler = nets.planned(nets.blocks(), {})
    sampler.steps[2] = Dropped()
    with pytest.raises(InputError, match=r"no step of \[2\]"):
        visited(sampler, nets.seeds(3, sampler), steps=(2,))


def test_the_sampler_is_left_as_it_was() -> None:
    sampler = nets.blocks()
    seeds = nets.seeds(3, sampler)
    before, steps = nets.sample(sampler, seeds), sampler.steps
    visited(sampler, seeds)
    assert sampler.steps is steps and torch.equal(nets.sample(sampler, seeds), before)
