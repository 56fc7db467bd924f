"""Recipes for quantized samplers: each against the oracle it names, on tiny denoisers.

Faults these laws must catch: a method that changes layers it does not name, or leaves float what it
says it quantizes; learning that makes things worse; ranges of no step; a search that loses what it
began with.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from allot.errors import InputError
from allot.num.activation_ranges import Shrink
from allot.num.affine import rounded
from allot.num.formats import Int
from allot.num.rounding import Nearest
from allot.options.format_layer import FormatLayer
from allot.options.precision import Weight
from allot.options.quantizers import SteppedQuantizer
from allot.options.standins import OnGrid, QuantizedLayer
from allot.options.tensors import ActivationFormat
from allot.recipes import denoising, denoising_formats, denoising_tuned
from allot.recipes.bits import Bits, parsed
from allot.recipes.floats import splits
from allot.recipes.sampled import SamplerRecipe
from allot.reconstruct.setting import Reconstruction
from allot.reconstruct.soft import SoftRounding
from allot.samplers.formats_sought import best_formats
from allot.samplers.groups_sought import Evolution, groups_sought
from allot.samplers.planned import Planned
from allot.samplers.quantizing import PLAIN, Along, through
from allot.samplers.step_gains import gains_searched, ramp, scaled
from allot.samplers.trajectory import along
from allot.sampling.features import Seeds
from allot.sampling.sampler import Sampler, Step, Way
from allot.scheme import Scheme
from allot.sweep import observed
from allot.trace import trace
from tests.sampling import nets

NAMES = ("time", "classes", *(f"blocks.{i}.modulation" for i in range(2)))
FEW = Along(total=48)
LEARNED = Reconstruction(rounding=SoftRounding(), steps=6, batch=16, samples=48)
FLOAT = parsed("W4")
ALL = (
    denoising.Q_DIFFUSION, denoising.TFMQ_DM, denoising.EDA_DM, denoising_tuned.QUEST,
    denoising_tuned.EFFICIENT_DM, denoising_formats.VIDIT_Q, denoising_formats.Q_DIT,
    denoising_formats.FP4_DIT, denoising_formats.LOW_BIT_FLOAT, denoising_formats.Q_SCHED,
)  # fmt: skip


def made() -> tuple[Sampler, Seeds]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nets.Blocks(depth=2).eval()
    sampler = Sampler(denoiser=network, grid=nets.grid(4))
    seeds = nets.seeds(16, sampler)
    return sampler, Seeds(noise=seeds.noise.float(), conditions=seeds.conditions)


def lost(original: Tensor, samples: Tensor) -> float:
    return float((original - samples).square().mean())


SETTINGS: dict[str, Callable[[Sampler, Seeds], Planned]] = {
    "q-diffusion": lambda s, x: denoising.q_diffusion(s, x, learning=LEARNED, along_runs=FEW),
    "tfmq-dm": lambda s, x: denoising.tfmq_dm(
        s, x, names=NAMES, learning=LEARNED, along_runs=FEW, by="label"
    ),
    "eda-dm": lambda s, x: denoising.eda_dm(s, x, middle="blocks.1", steps=6, along_runs=FEW),
    "quest": lambda s, x: denoising_tuned.quest(
        s, x, names=NAMES, ends=("qkv",), learning=LEARNED, tuned=4, along_runs=FEW, by="label"
    ),
    "efficient-dm": lambda s, x: denoising_tuned.efficient_dm(
        s, x, rank=2, steps=6, along_runs=FEW
    ),
    "vidit-q": lambda s, x: denoising_formats.vidit_q(s, x, first=(2,), along_runs=FEW),
    "q-dit": lambda s, x: denoising_formats.q_dit(
        s, x, quality=lost, sizes=(4, 8), mean=4, along_runs=FEW
    ),
    "fp4-dit": lambda s, x: denoising_formats.fp4_dit(s, x, learning=LEARNED, along_runs=FEW),
    "low-bit-float": lambda s, x: denoising_formats.low_bit_float(
        s, x, learning=LEARNED, along_runs=FEW
    ),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_plan_is_near_the_original_leaves_it_alone_and_counts_what_stays_float(
    name: str,
) -> None:
    sampler, seeds = made()
    before = {k: v.clone() for k, v in sampler.state_dict().items()}
    original = nets.sample(sampler, seeds)
    plan = SETTINGS[name](sampler, seeds)
    assert all(torch.equal(v, before[k]) for k, v in sampler.state_dict().items())
    got = nets.sample(plan.sampler, seeds)
    assert 0 < lost(original, got) < 0.1 * float(original.square().mean())
    assert torch.equal(got, nets.sample(plan.sampler, seeds))
    kinds = [m for m in plan.sampler.denoiser.modules() if isinstance(m, nn.Linear)]
    on_grid = [m for m in plan.sampler.denoiser.modules() if isinstance(m, OnGrid)]
    assert plan.found["layers"] == 13
    if name != "vidit-q":
        assert plan.found["weight bits"] < 17 and plan.found["float layers"] == 0
        assert len(on_grid) == len(kinds) == 13
    assert all(n.startswith("denoiser.") for n in plan.standins)


@pytest.mark.parametrize("recipe", ALL, ids=lambda r: r.name)
def test_a_recipe_says_what_it_is_made_of(recipe: SamplerRecipe) -> None:
    assert recipe.row and recipe.oracle and recipe.differs and recipe.paper.title
    assert recipe.name in SETTINGS or recipe is denoising_formats.Q_SCHED
    assert recipe.made_of and not any(p.startswith("recipes") for p in recipe.made_of)
    json.dumps([recipe.name, *recipe.made_of])


def test_learned_blocks_are_better_than_nearest_rounding() -> None:
    sampler, seeds = made()
    nearest = Scheme(weight=Weight(bits=4, rounding=Nearest()), recovery=PLAIN)
    plain = through(sampler, seeds, nearest, along_runs=FEW).sampler
    setting = replace(LEARNED, steps=60)
    found = denoising.q_diffusion(sampler, seeds, bits=FLOAT, learning=setting, along_runs=FEW)
    with torch.no_grad():
        inputs = along(sampler, seeds, total=48).calibrate.inputs
        a, b, c = (s.denoiser(**inputs) for s in (sampler, found.sampler, plain))
    assert lost(a, b) < 0.9 * lost(a, c)


def test_ranges_of_steps_replace_those_of_tensors() -> None:
    sampler, seeds = made()
    plan = SETTINGS["tfmq-dm"](sampler, seeds)
    tables = [m for m in plan.sampler.denoiser.modules() if isinstance(m, SteppedQuantizer)]
    assert len(tables) > 8 and all(len(t.scale) == len(sampler.grid) for t in tables)
    assert len({tuple(t.scale.tolist()) for t in tables}) > 6


def test_tuning_changes_the_named_layers_alone() -> None:
    sampler, seeds = made()
    bits = {"bits": FLOAT, "names": NAMES, "learning": LEARNED, "along_runs": FEW, "by": "label"}
    before = denoising.tfmq_dm(sampler, seeds, **bits).standins  # type: ignore[arg-type]
    after = denoising_tuned.quest(sampler, seeds, ends=("qkv",), tuned=20, **bits)  # type: ignore
    changed = {
        n for n, m in after.standins.items()
        if not torch.equal(m.weight, before[n].weight)  # type: ignore[arg-type]
    }  # fmt: skip
    assert changed and all(n.endswith("qkv") for n in changed)


def test_of_low_rank_changes_codes_and_scales_alone_are_left() -> None:
    sampler, seeds = made()
    plan = denoising_tuned.efficient_dm(
        sampler, seeds, bits=FLOAT, rank=2, steps=40, along_runs=FEW
    )
    nearest = Scheme(weight=Weight(bits=4, rounding=Nearest()), recovery=PLAIN)
    plain = through(sampler, seeds, nearest, along_runs=FEW)
    moved = 0
    for name, m in plan.standins.items():
        old = plain.standins[name]
        assert isinstance(m, QuantizedLayer) and isinstance(old, QuantizedLayer)
        assert (
            torch.equal(m.scale, old.scale)
            and dict(m.state_dict()).keys() == dict(old.state_dict()).keys()
        )
        moved += int((m.codes() != old.codes()).sum())
    assert moved > 0
    task = along(sampler, seeds, total=48)
    with torch.no_grad():
        inputs = task.calibrate.inputs
        a, b, c = (s.denoiser(**inputs) for s in (sampler, plan.sampler, plain.sampler))
    assert lost(a, b) < lost(a, c)


def test_float_codes_are_of_the_grid_and_a_step_from_nearest_at_most() -> None:
    sampler, seeds = made()
    plan = denoising_formats.fp4_dit(sampler, seeds, bits=FLOAT, learning=LEARNED, along_runs=FEW)
    for name, m in plan.standins.items():
        assert isinstance(m, FormatLayer)
        original = sampler.denoiser.get_submodule(name.removeprefix("denoiser."))
        encoded = m.encoded()
        grid, scale = (
            encoded.format.grid,
            encoded.format.spread(encoded.scale, encoded.codes.shape[1]),
        )
        near = grid.nearest(original.weight / scale)  # type: ignore[operator]
        assert int((near - encoded.codes).abs().max()) <= 1


def test_the_split_of_a_tensor_is_the_best_of_all() -> None:
    sampler, seeds = made()
    task = along(sampler, seeds, total=48)
    graph = trace(task.model, task.forward, task.example())
    name = "blocks.1.ff.2.input"
    formats = [ActivationFormat(grid=g, ranges=Shrink()) for g in splits(6)]
    found = best_formats(task, graph, [name], formats)[name]
    touch, errors = graph.site(name).touches[0], []
    values: list[Tensor] = []
    note = {(touch.module, touch.role): [values.append]}
    with torch.no_grad(), observed(task.model, note):
        task.forward(task.model, task.calibrate.inputs)
    x = values[0]
    for f in formats:
        assert f.grid is not None
        scales = [x.abs().max() / max(f.grid.reach) * k / 64 for k in range(19, 65)]
        tries = [rounded(x, s, torch.zeros(()), f.grid) for s in scales]
        errors.append(min(float((x - q).square().mean()) for q in tries))
    assert errors[formats.index(found)] <= min(errors) * 1.1


def test_evolution_finds_the_best_of_all_choices_and_never_less_than_uniform() -> None:
    sampler, seeds = made()
    task = along(sampler, seeds, total=48)
    seen: list[float] = []

    def quality(a: Tensor, b: Tensor) -> float:
        seen.append(lost(a, b))
        return seen[-1]

    few = Evolution(population=6, parents=3, children=6, generations=2)
    plan = groups_sought(
        sampler, seeds, task, quality=quality, sizes=(4, 8), mean=6, bits=(3, 8), evolution=few
    )
    assert plan.found["quality"] == min(seen) <= plan.found["uniform quality"]
    assert plan.found["tried"] == len(seen)
    with pytest.raises(InputError, match="no choice of group sizes"):
        groups_sought(sampler, seeds, task, quality=quality, sizes=(4,), mean=5)


def test_step_gains_are_the_best_of_the_square_and_keep_the_rest_of_a_step() -> None:
    sampler, seeds = made()
    nearest = Scheme(weight=Weight(bits=3, rounding=Nearest()), recovery=PLAIN)
    coarse = through(sampler, seeds, nearest, along_runs=FEW).sampler
    coarse.steps = nn.ModuleList(Step(index=i, way=Way(bits=8)) for i in range(len(coarse.grid)))
    original = nets.sample(sampler, seeds)
    found = gains_searched(coarse, seeds, original=sampler, reach=0.04, points=3)
    every = [
        lost(original, nets.sample(scaled(coarse, gain_x=a, gain_out=b).sampler, seeds))
        for a, b in itertools.product((0.96, 1.0, 1.04), repeat=2)
    ]
    assert found.found["score"] == pytest.approx(min(every), rel=1e-5)
    assert min(every) <= lost(original, nets.sample(coarse, seeds))
    assert all(s.way.bits == 8 for s in found.sampler.steps)  # type: ignore[union-attr]
    same = scaled(sampler, gain_x=1.0, gain_out=1.0).sampler
    assert torch.equal(nets.sample(same, seeds), original)
    assert [ramp(0.9, i, 3) for i in range(3)] == pytest.approx([0.9, 0.95, 1.0])
    with pytest.raises(InputError, match="odd number"):
        gains_searched(coarse, seeds, original=sampler, points=4)


def test_layers_behind_concatenations_are_quantized_in_parts() -> None:
    sampler = nets.levels()
    sampler.denoiser.float()
    given = nets.seeds(8, sampler)
    seeds = Seeds(noise=given.noise.float(), conditions={})
    plan = denoising.q_diffusion(
        sampler, seeds, learning=replace(LEARNED, steps=5), along_runs=Along(total=24)
    )
    names = set(plan.standins)
    assert {f"denoiser.up.{i}.conv.parts.{k}" for i in range(2) for k in range(2)} <= names
    a, b = nets.sample(sampler, seeds), nets.sample(plan.sampler, seeds)
    assert lost(a, b) < 0.1 * float(a.square().mean())
    assert Int(bits=4).width == Bits().weight
