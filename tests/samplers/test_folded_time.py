"""Modules of time and class as tables over steps.

Faults these laws must catch: a table row of another step or class; a module folded that depends on
the latents; one kept though nothing reads it, or dropped though something does; tables that serve
other steps; bytes or MACs of what went.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from allot.errors import InputError, ModelError, PlanError
from allot.samplers.folded_time import folded, time_only_values
from allot.samplers.graph import graph_of
from allot.sampling.features import Seeds
from allot.sampling.sampler import Dropped, Sampler, Step, Way
from allot.sampling.spans import HOLD
from allot.sampling.step_table import StepTable, Unread
from tests.sampling import nets

NAMES = ("time", "classes", *(f"blocks.{i}.modulation" for i in range(4)))


def made(guidance: float | None = None) -> tuple[Sampler, Seeds]:
    sampler = nets.blocks(guidance=guidance)
    return sampler, nets.seeds(8, sampler)


@pytest.mark.parametrize("guidance", (None, 2.0))
def test_the_samples_are_the_same(guidance: float | None) -> None:
    sampler, seeds = made(guidance)
    new = folded(sampler, NAMES, seeds, by="label")
    other = nets.seeds(5, sampler, seed=9)
    for s in (seeds, other):
        a, b = nets.sample(sampler, s), nets.sample(new, s)
        assert torch.allclose(a, b, atol=1e-12, rtol=0)
    assert isinstance(sampler.denoiser.get_submodule("time"), nn.Linear)


def test_also_where_steps_are_dropped_or_reuse_a_span() -> None:
    sampler, seeds = made()
    new = folded(sampler, NAMES, seeds, by="label")
    for s in (sampler, new):
        s.steps = nn.ModuleList(Step(index=i) for i in range(len(s.grid)))
        s.steps[2] = Dropped()
        s.steps[4] = Step(index=4, way=Way(reuse={nets.BLOCKS: HOLD}))
    a, b = nets.sample(sampler, seeds), nets.sample(new, seeds)
    assert torch.allclose(a, b, atol=1e-12, rtol=0)


def test_what_only_folded_modules_read_is_gone() -> None:
    sampler, seeds = made()
    values = time_only_values(sampler, NAMES, seeds, by="label")
    assert values.read == NAMES[2:]
    new = folded(sampler, NAMES, seeds, by="label")
    kinds = [type(new.denoiser.get_submodule(n)) for n in NAMES]
    assert kinds == [Unread, Unread, *[StepTable] * 4]
    # with the modulations left as they are, what they read stays: time and classes are summed
    part = time_only_values(sampler, NAMES[:2], seeds, by="label")
    assert part.read == NAMES[:2]


def test_macs_vanish_and_the_tables_bytes_count() -> None:
    sampler, seeds = made()
    example = {"noise": seeds.noise[:2].float(), **{k: v[:2] for k, v in seeds.conditions.items()}}
    sampler.denoiser.float()
    seeds = Seeds(noise=seeds.noise.float(), conditions=seeds.conditions)
    new = folded(sampler, NAMES, seeds, by="label")
    before, after = graph_of(sampler, example), graph_of(new, example)
    layers = {x.module: x for x in before.layers}
    gone = [m for m in layers if m.endswith(("modulation", ".time"))]
    assert len(gone) == 5
    assert {x.module for x in after.layers} == set(layers) - set(gone)
    assert sum(x.macs for x in before.layers) - sum(x.macs for x in after.layers) == sum(
        layers[m].macs for m in gone
    )
    tables = [m for m in new.denoiser.modules() if isinstance(m, StepTable)]
    stored = sum(b.numel() * b.element_size() for t in tables for b in t.buffers())
    embedding = 4 * sampler.denoiser.get_submodule("classes").weight.numel()  # type: ignore
    assert stored >= 4 * 4 * len(sampler.grid) * 2 * 16
    assert after.loose == before.loose - embedding + stored


def test_the_module_that_reads_latents_is_refused() -> None:
    sampler, seeds = made()
    with pytest.raises(ModelError, match=r"blocks\.0\.ff depends on more than time and label"):
        folded(sampler, (*NAMES, "blocks.0.ff"), seeds, by="label")
    with pytest.raises(InputError, match="no module"):
        folded(sampler, (), seeds, by="label")


def test_other_steps_other_classes_and_no_run_at_all_are_refused() -> None:
    sampler, seeds = made()
    new = folded(sampler, NAMES, seeds, by="label")
    with pytest.raises(PlanError, match="found for 6 steps"):
        nets.sample(Sampler(denoiser=new.denoiser, grid=nets.grid(5)), seeds)
    stranger = Seeds(noise=seeds.noise, conditions={"label": torch.full((8,), 2)})
    with pytest.raises(PlanError, match=r"without label \[2\]"):
        nets.sample(new, stranger)
    with pytest.raises(ModelError, match="no value outside"):
        new.denoiser(seeds.noise, torch.ones(8), **seeds.conditions)


def test_without_classes_there_is_one_row() -> None:
    sampler = nets.levels()
    seeds = nets.seeds(3, sampler)
    names = ("down.0.time", "down.1.time")
    new = folded(sampler, names, seeds)
    assert torch.allclose(nets.sample(sampler, seeds), nets.sample(new, seeds), atol=1e-12)
    table = new.denoiser.get_submodule("down.0.time")
    assert isinstance(table, StepTable) and table.get_buffer("values_0").shape == (6, 1, 4)
