"""State over time on networks of diffusers: folded tables, split concatenations, the start token.

Faults these laws must catch: a structure that toys do not have (embeddings in tuples, modules
called twice, text that is read by name) and that breaks what holds for toys.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from allot.families.diffusion import time_only
from allot.families.diffusion_denoiser import denoiser_of, example_of
from allot.rewrites.concat_split import SplitConcats, joins
from allot.rewrites.outlier_tokens import FirstApart, OutlierTokens
from allot.rewrites.rewrite import rewritten
from allot.samplers.folded_time import around, folded
from allot.samplers.graph import graph_of
from allot.samplers.trajectory import along
from allot.sampling.features import Seeds
from allot.sampling.sampler import Sampler
from tests.families import networks
from tests.sampling import nets


def made(make: Callable[[], nn.Module], n: int = 6) -> tuple[Sampler, Seeds]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        denoiser = denoiser_of(make().eval().requires_grad_(False))
    told = example_of(denoiser, n=n)
    noise = told.pop("x")
    told.pop("time")
    grid = nets.grid(3)
    return Sampler(denoiser=denoiser, grid=grid).eval(), Seeds(noise=noise, conditions=told)


@pytest.mark.parametrize(
    "make",
    (lambda: networks.unet(5), networks.unet, networks.dit, networks.pixart, networks.text_unet),
    ids=("UNet with classes", "UNet", "DiT", "PixArt", "UNet with text"),
)
def test_time_is_folded_and_samples_stay(make: Callable[[], nn.Module]) -> None:
    sampler, seeds = made(make)
    names = time_only(sampler.denoiser)
    new = folded(sampler, names, seeds)
    a, b = nets.sample(sampler, seeds), nets.sample(new, seeds)
    assert torch.allclose(a, b, atol=1e-5, rtol=1e-4) and float(a.abs().max()) > 0
    example = {"noise": seeds.noise[:2], **{k: v[:2] for k, v in seeds.conditions.items()}}
    before, after = (graph_of(s, example) for s in (sampler, new))
    gone = {x.module for x in before.layers} - {x.module for x in after.layers}
    assert gone and all(any(m.startswith(f"denoiser.{n}") for n in names) for m in gone)


def test_layers_behind_skips_of_a_unet_are_split_and_nothing_changes() -> None:
    sampler, seeds = made(networks.unet)
    task = along(sampler, seeds, total=12)
    found = [n for n in joins(task) if "up_blocks" in n]
    assert len(found) >= 6 and all(n.endswith(("conv1", "conv_shortcut")) for n in found)
    new = rewritten(task, (SplitConcats(layers=tuple(found)),))
    a, b = nets.sample(sampler, seeds), nets.sample(around(sampler, new.model), seeds)
    assert torch.allclose(a, b, atol=1e-5, rtol=1e-4)


def test_the_start_token_of_a_text_goes_around_keys_and_values() -> None:
    sampler, seeds = made(networks.text_unet, n=16)
    text = seeds.conditions["encoder_hidden_states"].clone()
    text[:, 0] = 50 * text[:1, 0]  # the same for every prompt, and far larger than any other
    seeds = Seeds(noise=seeds.noise, conditions={"encoder_hidden_states": text})
    task = along(sampler, seeds, total=24)
    new = rewritten(task, (OutlierTokens(),))
    apart = {n: m for n, m in new.model.named_modules() if isinstance(m, FirstApart)}
    assert apart and all(n.endswith(("attn2.to_k", "attn2.to_v")) for n in apart)
    assert all(m.made is not None and m.weight is None for m in apart.values())
    a, b = nets.sample(sampler, seeds), nets.sample(around(sampler, new.model), seeds)
    assert torch.allclose(a, b, atol=1e-4, rtol=1e-3)
