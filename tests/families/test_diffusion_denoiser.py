"""One signature for every calling convention, chosen by the forward's parameters.

Faults that these tests must find: latents packed in another order than Flux's pipeline does; time
told to a flow network 1000 times too large; the variance kept and the prediction cut; guidance not
told to a distilled network; a condition silently dropped.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from allot.errors import InputError
from allot.families.diffusion_denoiser import (
    Labelled,
    Packed,
    Texted,
    denoiser_of,
    example_of,
    null_class,
)
from tests.families import networks

FluxPipeline = pytest.importorskip("diffusers").FluxPipeline
LABELLED = ("UNet", "UNet with classes", "DiT", "DiT with variances")


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_every_network_maps_its_input_to_its_own_shape(name: str) -> None:
    denoiser = denoiser_of(networks.made(networks.NETWORKS[name]))
    example = example_of(denoiser)
    with torch.no_grad():
        out = denoiser(**example)
    assert example["x"].shape == out.shape
    assert bool(out.isfinite().all())


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_a_batch_of_one_is_its_row_of_a_batch_of_eight(name: str) -> None:
    denoiser = denoiser_of(networks.made(networks.NETWORKS[name]))
    example = example_of(denoiser, n=8)
    with torch.no_grad():
        whole = denoiser(**example)
        one = denoiser(**{k: v[3:4] for k, v in example.items()})
    torch.testing.assert_close(whole[3:4], one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_the_convention_follows_from_the_forward(name: str) -> None:
    kind = Packed if name == "Flux" else Labelled if name in LABELLED else Texted
    assert kind is type(denoiser_of(networks.made(networks.NETWORKS[name])))


def test_the_first_half_is_kept_of_learned_variances() -> None:
    model = networks.made(networks.NETWORKS["DiT with variances"])
    denoiser = denoiser_of(model)
    example = example_of(denoiser)
    with torch.no_grad():
        both = model(example["x"], example["time"], class_labels=example["class_labels"]).sample
        assert 2 * example["x"].shape[1] == both.shape[1]
        assert torch.equal(both[:, :2], denoiser(**example))


@pytest.mark.parametrize("guided", [True, False])
def test_flux_is_told_what_its_pipeline_tells_it(guided: bool) -> None:
    pytest.importorskip("transformers", reason="Flux's pipeline imports its text encoders")
    model = networks.made(lambda: networks.flux(guided=guided))
    denoiser = denoiser_of(model, guidance=3.5)
    example = example_of(denoiser)
    x, time = example["x"][..., :4], example["time"]  # not square
    n, c, h, w = x.shape
    ids = FluxPipeline._prepare_latent_image_ids(n, h // 2, w // 2, x.device, x.dtype)
    text = example["encoder_hidden_states"]
    with torch.no_grad():
        wanted = model(
            FluxPipeline._pack_latents(x, n, c, h, w),
            encoder_hidden_states=text,
            pooled_projections=example["pooled_projections"],
            timestep=time / 1000,
            img_ids=ids,
            txt_ids=torch.zeros(text.shape[1], 3),
            guidance=torch.full((n,), 3.5) if guided else None,
        ).sample
        out = denoiser(**{**example, "x": x})
    assert torch.equal(wanted, FluxPipeline._pack_latents(out, n, c, h, w))


def test_a_condition_that_the_network_does_not_take_is_refused() -> None:
    denoiser = denoiser_of(networks.made(networks.text_unet))
    example = example_of(denoiser)
    with pytest.raises(InputError, match="takes no pooled_projections"):
        denoiser(**example, pooled_projections=torch.zeros(2, 3))


class Foreign(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return image


def test_a_network_that_is_no_denoiser_is_refused() -> None:
    with pytest.raises(InputError, match=r"Foreign takes image.*timestep"):
        denoiser_of(Foreign())


def test_only_a_network_with_an_extra_class_has_one_that_stands_for_none() -> None:
    assert 5 == null_class(networks.made(networks.dit))
    assert null_class(networks.made(lambda: networks.unet(5))) is None
    assert null_class(networks.made(networks.unet)) is None
