"""A range for every step, found along a sampler's own runs.

Faults these laws must catch: ranges of another step; of the original where the compressed network
is asked; a sampler of other steps served with them.
"""

from __future__ import annotations

import pytest
import torch

from allot.bank import Bank
from allot.errors import InputError, PlanError
from allot.num.activation_ranges import MinMax, Shrink
from allot.num.formats import UInt
from allot.options.quantizers import SteppedQuantizer
from allot.options.stepped import Stepped
from allot.samplers.ranges import step_tables
from allot.samplers.trajectory import Visited, visited
from allot.sampling.sampler import Sampler, Step, Way
from allot.site import Graph
from allot.sweep import observed
from allot.task import call
from allot.trace import trace
from tests.sampling import nets


def setting() -> tuple[Sampler, Graph, Visited]:
    sampler = nets.blocks()
    sampler.denoiser.float()
    seeds = nets.seeds(6, sampler)
    seen = visited(sampler, type(seeds)(noise=seeds.noise.float(), conditions=seeds.conditions))
    graph = trace(sampler.denoiser, call, seen.rows(torch.arange(2)).inputs)
    return sampler, graph, seen


def sites(graph: Graph) -> list[str]:
    return [s.name for s in graph.sites if s.kind == "activation" and not s.fixed]


@pytest.mark.parametrize("rule", (MinMax(), Shrink()))
def test_each_step_has_what_the_rule_finds_on_its_evaluations(rule: MinMax | Shrink) -> None:
    sampler, graph, seen = setting()
    names = sites(graph)
    found = step_tables(
        sampler.denoiser, graph, seen, levels=sampler.grid, sites=names, grid=UInt(bits=8),
        rule=rule,
    )  # fmt: skip
    assert set(found) == set(names) and len(names) > 8
    assert all(t.times == sampler.grid.times for t in found.values())
    touch = graph.site("blocks.1.ff.2.input").touches[0]
    for step in range(len(sampler.grid)):
        values = []
        note = {(touch.module, touch.role): [values.append]}
        with torch.no_grad(), observed(sampler.denoiser, note):
            sampler.denoiser(**seen.rows(seen.step == step).inputs)
        spread = float(values[0].amax() - values[0].amin())
        scale = found["blocks.1.ff.2.input"].scales[step]
        if rule == MinMax():
            assert scale == pytest.approx(spread / 255, rel=1e-5)
        assert 0.29 * spread / 255 <= scale <= spread / 255 * 1.001


def test_steps_without_evaluations_take_the_range_before_them() -> None:
    sampler, graph, seen = setting()
    some = seen.rows((seen.step == 2) | (seen.step == 4))
    one = {"levels": sampler.grid, "sites": sites(graph)[:1], "grid": UInt(bits=8)}
    (table,) = step_tables(sampler.denoiser, graph, some, **one).values()
    a, b = table.scales[2], table.scales[4]
    assert a != b and table.scales == (a, a, a, a, b, b)
    with pytest.raises(InputError, match="there are none"):
        step_tables(sampler.denoiser, graph, seen.rows(seen.step > 9), **one)


def tabled(sampler: Sampler, tables: dict[str, Stepped], graph: Graph) -> Sampler:
    bank = Bank(sampler.denoiser, graph=graph, stats={})
    return Sampler(denoiser=bank.copy(bank.standins(tables)), grid=sampler.grid)


def test_a_sampler_with_tables_runs_close_to_the_original_and_only_on_its_own_steps() -> None:
    sampler, graph, seen = setting()
    tables = step_tables(
        sampler.denoiser, graph, seen, levels=sampler.grid, sites=sites(graph), grid=UInt(bits=8)
    )
    new = tabled(sampler, tables, graph)
    x, told = seen.rows(seen.step == 0).x, seen.rows(seen.step == 0).conditions
    with torch.no_grad():
        y, z = sampler(x, **told), new(x, **told)
    assert 0 < float((y - z).square().mean()) < 1e-3 * float(y.square().mean())
    assert all(m.step is None for m in new.modules() if isinstance(m, SteppedQuantizer))
    # a step that is taken in another way keeps its number, and with it its range
    new.steps[3] = Step(index=3, way=Way(gain_out=1.0))
    with torch.no_grad():
        assert torch.equal(new(x, **told), z)
    other = Sampler(denoiser=new.denoiser, grid=nets.grid(4))
    with pytest.raises(PlanError, match="found for 6 steps"):
        other(x, **told)
