"""Files sample what the planned network samples.

Faults that these tests must find: a span computed although it is left out; a result told before the
wrong step or under the wrong condition; gains, bits or drops lost on the way.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from allot.errors import ArtefactError, InputError, PlanError
from allot.families.diffusion_checks import check_grid
from allot.families.diffusion_denoiser import denoiser_of, example_of
from allot.families.diffusion_export import at_bits, evaluation_inputs, exported
from allot.families.diffusion_files import (
    PLAN,
    WEIGHTS,
    open_sampler,
    read_grid,
    read_plan,
    write,
)
from allot.families.diffusion_grids import grid_of
from allot.families.diffusion_runner import Opened, opened, runner, ways_of
from allot.families.diffusion_spans import span_sets, spans_of
from allot.families.diffusion_variants import (
    OUTPUT,
    Evaluation,
    Variant,
    results_of,
    variants,
)
from allot.num.formats import UInt
from allot.num.rounding import Nearest
from allot.options.by_step import TimedQuantizer
from allot.options.precision import Weight
from allot.options.quantizers import at_edge
from allot.options.standins import OnGrid, QuantizedInput
from allot.runtimes import OnnxRuntime, OpenVino
from allot.samplers.graph import graph_of
from allot.sampling.grid import Grid
from allot.sampling.sampler import Dropped, Guidance, Sampler, Step, Way
from allot.sampling.spans import HOLD, NOTHING, Taylor
from allot.target import Arrays, Target, Workload
from tests.families import networks

diffusers = pytest.importorskip("diffusers")
GRID = Grid(
    times=(900.0, 700.0, 500.0, 300.0, 100.0),
    signals=(0.3, 0.5, 0.7, 0.8, 0.95),
    noises=(0.95, 0.87, 0.71, 0.6, 0.3),
)


def planned(denoiser: nn.Module, group: str, guidance: Guidance | None = None) -> Sampler:
    """A computed step, a reused one, a dropped one, a computed one with gains, an extrapolation."""
    s = Sampler(denoiser=denoiser, grid=GRID, guidance=guidance, spans=spans_of(denoiser))
    spans = span_sets(denoiser)[group]
    s.steps[1] = Step(index=1, way=Way(reuse=dict.fromkeys(spans, HOLD)))
    s.steps[2] = Dropped()
    s.steps[3] = Step(index=3, way=Way(gain_out=0.98, gain_x=1.01))
    s.steps[4] = Step(index=4, way=Way(reuse=dict.fromkeys(spans, Taylor())))
    return s


def inputs(denoiser: nn.Module) -> dict[str, Tensor]:
    example = example_of(denoiser, n=3)
    del example["time"]
    return {"noise": example.pop("x"), **example}


class Held:
    """An evaluation as if it were a file."""

    def __init__(self, module: Evaluation) -> None:
        self.module = module

    def run(self, inputs: Arrays) -> dict[str, NDArray[np.generic]]:
        given = {k: torch.from_numpy(np.asarray(v)) for k, v in inputs.items()}
        with torch.no_grad():
            found = self.module(**given)
        names = (OUTPUT, *self.module.told())
        return {k: v.numpy() for k, v in zip(names, found, strict=True)}


def held(s: Sampler, given: Mapping[str, Tensor], build: str) -> list[Opened]:
    wanted = dict.fromkeys(variants(s).values())
    told = evaluation_inputs(s, given)
    results = results_of(s.denoiser, told, s.spans)
    found = []
    for v in wanted:
        network = denoiser_of(networks.made(networks.NETWORKS[build]))
        module = Evaluation(network, v, shapes=results.shapes, names=tuple(told))
        found.append(opened(module, Held(module)))
    return found


def sets() -> list[tuple[str, str]]:
    def denoiser(name: str) -> nn.Module:
        return denoiser_of(networks.made(networks.NETWORKS[name]))

    return [(n, s) for n in networks.NETWORKS for s in span_sets(denoiser(n))]


@pytest.mark.parametrize(("name", "group"), sets())
def test_variants_sample_what_the_network_samples(name: str, group: str) -> None:
    denoiser = denoiser_of(networks.made(networks.NETWORKS[name]))
    given = inputs(denoiser)
    with_class = "class_labels" in given
    guidance = Guidance(scale=2.0, without={"class_labels": 0}) if with_class else None
    s = planned(denoiser, group, guidance)
    run = runner(GRID, ways_of(s), held(s, given, name), guidance=guidance)
    with torch.no_grad():
        wanted, found = s(**given), run(**given)
        torch.testing.assert_close(wanted, found, rtol=1e-4, atol=1e-4)
        assert torch.equal(found, run(**given))


@pytest.mark.parametrize("group", ["blocks 1 to 3", "feed-forward"])
def test_spans_that_are_gone_need_no_result(group: str) -> None:
    denoiser = denoiser_of(networks.made(networks.dit))
    given = inputs(denoiser)
    s = Sampler(denoiser=denoiser, grid=GRID, spans=spans_of(denoiser))
    way = Way(reuse=dict.fromkeys(span_sets(denoiser)[group], NOTHING))
    s.steps[0] = Step(index=0, way=way)
    assert () == variants(s)[0].given
    run = runner(GRID, ways_of(s), held(s, given, "DiT"))
    with torch.no_grad():
        torch.testing.assert_close(s(**given), run(**given), rtol=1e-4, atol=1e-4)


def test_what_is_left_out_belongs_to_no_file() -> None:
    denoiser = denoiser_of(networks.made(networks.dit))
    given = inputs(denoiser)
    s = planned(denoiser, "blocks 1 to 3")
    files = {o.variant: o for o in held(s, given, "DiT")}
    reused = files[variants(s)[1]].session.module  # type: ignore[attr-defined]
    assert not any(".transformer_blocks.2." in n for n in reused.state_dict())
    assert any(".transformer_blocks.4." in n for n in reused.state_dict())


def test_only_results_that_later_steps_read_are_told() -> None:
    denoiser = denoiser_of(networks.made(networks.dit))
    spans = span_sets(denoiser)["attention"]
    found = variants(planned(denoiser, "attention"))
    assert [0, 1, 3, 4] == list(found)
    assert Variant(told=spans) == found[0] == found[3]
    assert Variant(given=spans) == found[1] == found[4]


def test_steps_of_equal_ways_share_a_file() -> None:
    denoiser = denoiser_of(networks.made(networks.dit))
    s = Sampler(denoiser=denoiser, grid=GRID, spans=spans_of(denoiser))
    assert {Variant()} == set(variants(s).values())
    s.steps[2] = Step(index=2, way=Way(bits=8))
    assert 2 == len(set(variants(s).values()))


def test_a_prediction_with_fitted_tensors_has_no_file() -> None:
    class Fitted(nn.Module):
        needs, label = 1, "fitted"

        def predict(self, past: object, moment: object) -> Tensor:
            return torch.zeros(())

    denoiser = denoiser_of(networks.made(networks.dit))
    s = planned(denoiser, "attention")
    way = Way(reuse=dict.fromkeys(span_sets(denoiser)["attention"], Fitted()))
    s.steps[1] = Step(index=1, way=way)
    with pytest.raises(InputError, match=r"step 1 predicts .*attn1 by fitted"):
        variants(s)


def quantized(denoiser: nn.Module) -> nn.Module:
    """What the last layer reads in 4 or 8 bits, whichever a step asks for."""
    edges: dict[int, nn.Module] = {
        b: QuantizedInput(inner=nn.Identity(), scale=8 / 2**b, zero_point=2 ** (b - 1), bits=b)
        for b in (4, 8)
    }
    last = denoiser.get_submodule("model.proj_out_2")
    edge = at_edge(last, "in", TimedQuantizer(edges, grid=UInt(bits=8)))
    denoiser.get_submodule("model").proj_out_2 = edge
    return denoiser


@pytest.mark.parametrize("bits", [4, 8, None])
def test_a_file_has_the_bits_of_its_steps(bits: int | None) -> None:
    denoiser = quantized(denoiser_of(networks.made(networks.dit)))
    given = inputs(denoiser)
    s = Sampler(denoiser=denoiser, grid=GRID)
    for i in range(len(GRID)):
        s.steps[i] = Step(index=i, way=Way(bits=bits))
    fixed = at_bits(s, bits)
    assert not any(isinstance(m, TimedQuantizer) for m in fixed.modules())
    plain = Sampler(denoiser=fixed.denoiser, grid=GRID)
    with torch.no_grad():
        assert torch.equal(s(**given), plain(**given))


def test_bits_without_ranges_are_refused() -> None:
    denoiser = quantized(denoiser_of(networks.made(networks.dit)))
    with pytest.raises(InputError, match="rounds to 6 bits"):
        at_bits(denoiser, 6)


def test_what_differs_from_step_to_step_has_no_file() -> None:
    class Stepped(nn.Identity):
        def at(self, moment: object) -> None: ...

    denoiser = denoiser_of(networks.made(networks.dit))
    given = inputs(denoiser)
    s = Sampler(denoiser=denoiser, grid=GRID)
    graph = graph_of(s, given)
    denoiser.get_submodule("model.transformer_blocks.1").attn1.to_out[1] = Stepped()
    with pytest.raises(InputError, match=r"blocks\.1\.attn1\.to_out\.1 computes differently"):
        exported(s, graph, given)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Sampler, int]:
    """A folder, the sampler that was written to it, and the bytes of its weights."""
    pytest.importorskip("onnxscript")
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("made")
    model = networks.made(lambda: networks.dit(layers=3))
    model.save_pretrained(source)  # type: ignore[operator]
    diffusers.DDIMScheduler().save_pretrained(source / "scheduler")
    denoiser = denoiser_of(model)
    s = planned(denoiser, "blocks 1 to 1", Guidance(scale=2.0, without={"class_labels": 5}))
    given = inputs(denoiser)
    graph = graph_of(s, given)
    for site in (x for x in graph.sites if x.kind == "weight"):
        (touch,) = site.touches
        parent, _, child = touch.module.rpartition(".")
        layer = s.get_submodule(touch.module)
        coded = Weight(bits=4, rounding=Nearest()).apply(
            layer, touch=touch, site=site, graph=graph, stats={}
        )
        s.get_submodule(parent)._modules[child] = coded
    files = exported(s, graph, given)
    assert 2 == len(files)
    return folder, s, write(folder, s, files, graph, source=source)


@pytest.mark.parametrize("target", [OnnxRuntime(), OpenVino()], ids=lambda t: t.name)
def test_a_folder_samples_what_the_network_samples(
    written: tuple[Path, Sampler, int], target: Target
) -> None:
    folder, s, _ = written
    given = inputs(s.denoiser)
    run = open_sampler(folder, target, workload=Workload(batch=3))
    assert s.grid == run.grid
    with torch.no_grad():
        torch.testing.assert_close(s(**given), run(**given), rtol=1e-4, atol=1e-4)


def test_a_folder_holds_settings_and_every_weight_once(
    written: tuple[Path, Sampler, int],
) -> None:
    folder, s, size = written
    names = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert {"config.json", "scheduler/scheduler_config.json", PLAN, WEIGHTS} <= names
    assert [WEIGHTS] == [n for n in names if n.endswith(".safetensors")]
    linear = [m for m in s.modules() if isinstance(m, OnGrid)]
    coded = sum(4 * len(m.weight) * 2 + m.weight.numel() / 2 for m in linear)
    table = s.denoiser.get_submodule("model.transformer_blocks.0.norm1.emb.class_embedder")
    rest = 3 * 4 * sum(p.numel() for p in table.parameters())
    # the table of places is a constant of the graphs, and so are some shapes
    assert coded + rest <= size <= coded + rest + 4 * 16 * 16 + 512
    graphs = sum((folder / n).stat().st_size for n in names if n.endswith(".onnx"))
    assert graphs < 10 * size


def test_a_changed_file_is_refused(written: tuple[Path, Sampler, int], tmp_path: Path) -> None:
    folder = shutil.copytree(written[0], tmp_path / "copy")
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (folder / WEIGHTS).write_bytes(bytes(data))
    with pytest.raises(ArtefactError, match="was changed"):
        open_sampler(folder, OnnxRuntime(), workload=Workload(batch=3))
    (folder / WEIGHTS).unlink()
    with pytest.raises(ArtefactError, match="lacks allot_weights"):
        read_plan(folder)
    (folder / PLAN).write_text("{}")
    with pytest.raises(ArtefactError, match="not written by allot"):
        read_plan(folder)


def test_a_folder_for_other_steps_is_refused(written: tuple[Path, Sampler, int]) -> None:
    made_for = read_grid(read_plan(written[0]))
    other = grid_of(diffusers.DDIMScheduler(), 5)
    with pytest.raises(PlanError, match=r"another scheduler: for 5 steps .* takes 5 steps"):
        check_grid(made_for, other)
