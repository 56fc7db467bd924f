"""From a directory or from memory to a sampler; what cannot be is refused in one sentence.

Faults that these tests must find: another network or scheduler read than the directory's; a pickle
opened; a class that is no diffusers' one built; guidance with the wrong class for none.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from allot.errors import ArtefactError, InputError, MissingError
from allot.families.diffusion import guidance_of, load, sampler_of
from benchmarks.tasks import zoo
from tests.families import networks

diffusers = pytest.importorskip("diffusers")
STEPS = 4


def sampled(sampler: Any, n: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(n, 2, 8, 8, generator=generator)
    with torch.no_grad():
        return sampler(noise, class_labels=torch.arange(n) % 5)


def saved(folder: Path) -> Path:
    networks.made(networks.dit).save_pretrained(folder)
    diffusers.DDIMScheduler().save_pretrained(folder / "scheduler")
    return folder


def pipeline(folder: Path) -> Path:
    networks.made(networks.dit).save_pretrained(folder / "transformer")
    diffusers.DDIMScheduler().save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "DiTPipeline",
        "transformer": ["diffusers", "DiTTransformer2DModel"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "unet": [None, None],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize("make", [saved, pipeline])
def test_a_directory_gives_the_sampler_of_what_was_saved(make: Any, tmp_path: Path) -> None:
    found = load(make(tmp_path), steps=STEPS, guidance=2.0)
    wanted = sampler_of(networks.made(networks.dit), diffusers.DDIMScheduler(), STEPS, guidance=2.0)
    assert torch.equal(sampled(wanted), sampled(found))
    assert wanted.spans == found.spans
    assert not found.training


def test_another_scheduler_takes_the_place_of_the_directorys(tmp_path: Path) -> None:
    other = diffusers.EulerDiscreteScheduler()
    found = load(saved(tmp_path), steps=STEPS, scheduler=other)
    wanted = sampler_of(networks.made(networks.dit), other, STEPS)
    assert wanted.grid == found.grid


def test_guidance_of_a_dit_leads_away_from_its_class_for_none() -> None:
    guidance = guidance_of(networks.made(networks.dit), 3.0)
    assert guidance is not None
    assert 3.0 == guidance.scale
    assert {"class_labels": 5} == guidance.without


def test_a_scale_of_one_is_no_guidance() -> None:
    model = networks.made(networks.dit)
    assert guidance_of(model, 1.0) is None
    plain = sampler_of(model, diffusers.DDIMScheduler(), STEPS)
    almost = sampler_of(model, diffusers.DDIMScheduler(), STEPS, guidance=1.0 + 1e-9)
    assert almost.guidance is not None
    torch.testing.assert_close(sampled(plain), sampled(almost), rtol=1e-4, atol=1e-5)


def test_a_network_told_a_scale_is_evaluated_once() -> None:
    flow = diffusers.FlowMatchEulerDiscreteScheduler()
    sampler = sampler_of(networks.made(networks.flux), flow, STEPS, guidance=3.5)
    assert sampler.guidance is None
    assert 3.5 == sampler.denoiser.guidance


@pytest.mark.parametrize("name", ["UNet", "UNet with classes"])
def test_a_network_without_a_class_for_none_is_not_guided(name: str) -> None:
    model = networks.made(networks.NETWORKS[name])
    with pytest.raises(InputError, match="no extra class that stands for none"):
        guidance_of(model, 2.0)
    assert guidance_of(model, 2.0, without={"class_labels": 0}) is not None


def test_guidance_of_a_text_needs_the_empty_one() -> None:
    with pytest.raises(InputError, match="without="):
        guidance_of(networks.made(networks.pixart), 2.0)


def test_an_empty_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match=r"neither model_index\.json .* nor config\.json"):
        load(tmp_path, steps=STEPS)


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    saved(tmp_path)
    next(tmp_path.glob("*.safetensors")).rename(tmp_path / "diffusion_pytorch_model.bin")
    with pytest.raises(ArtefactError, match="may run code"):
        load(tmp_path, steps=STEPS)


@pytest.mark.parametrize("name", ["os", "DDIMScheduler", "../evil", "NoSuchModel"])
def test_only_networks_of_diffusers_are_built(name: str, tmp_path: Path) -> None:
    saved(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "_class_name": name}))
    with pytest.raises(InputError, match="which is no ModelMixin"):
        load(tmp_path, steps=STEPS)


def test_a_network_without_a_scheduler_needs_one(tmp_path: Path) -> None:
    networks.made(networks.dit).save_pretrained(tmp_path)
    with pytest.raises(ArtefactError, match="give a scheduler"):
        load(tmp_path, steps=STEPS)
    assert load(tmp_path, steps=STEPS, scheduler=diffusers.DDIMScheduler()) is not None


def test_a_pipeline_without_a_denoiser_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"vae": ["diffusers", "X"]}))
    with pytest.raises(ArtefactError, match="names no transformer or unet"):
        load(tmp_path, steps=STEPS)


def test_a_scheduler_that_cannot_be_expressed_is_refused() -> None:
    with pytest.raises(InputError, match="HeunDiscreteScheduler has no grid; DDIMScheduler"):
        sampler_of(networks.made(networks.dit), diffusers.HeunDiscreteScheduler(), STEPS)


@pytest.mark.parametrize("name", ["unet_fmnist16", "dit_fmnist16"])
def test_trained_networks_sample_as_in_diffusers(name: str) -> None:
    try:
        folder = zoo() / "fmnist" / name
    except MissingError as e:
        pytest.skip(str(e))
    sampler = load(folder, steps=20)
    scheduler = diffusers.DDIMScheduler.from_pretrained(folder / "scheduler")
    scheduler.set_timesteps(20)
    x = noise = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    label = torch.tensor([1, 7])
    model = sampler.denoiser.get_submodule("model")
    with torch.no_grad():
        for t in scheduler.timesteps:
            out = model(x, timestep=t.expand(2), class_labels=label).sample
            x = scheduler.step(out, t, x, return_dict=False)[0]
        found = sampler(noise, class_labels=label)
    torch.testing.assert_close(x, found, rtol=0, atol=1e-5)
