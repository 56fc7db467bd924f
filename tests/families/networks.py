"""Tiny networks of diffusers, built from their configurations, of every calling convention."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import nn

diffusers = pytest.importorskip("diffusers")


def unet(classes: int | None = None) -> nn.Module:
    return diffusers.UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 8, 16),
        layers_per_block=1, down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"), norm_num_groups=4,
        attention_head_dim=8, num_class_embeds=classes,
    )  # fmt: skip


def text_unet() -> nn.Module:
    return diffusers.UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 16),
        layers_per_block=1, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), norm_num_groups=4,
        cross_attention_dim=12, attention_head_dim=2,
    )  # fmt: skip


def large_text_unet() -> nn.Module:
    """As SDXL: told the size of the picture and a pooled text."""
    return diffusers.UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 16),
        layers_per_block=1, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), norm_num_groups=4,
        cross_attention_dim=12, attention_head_dim=2, addition_embed_type="text_time",
        addition_time_embed_dim=4, projection_class_embeddings_input_dim=32,
    )  # fmt: skip


def dit(*, learned_variance: bool = False, layers: int = 5) -> nn.Module:
    return diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=2, num_layers=layers,
        out_channels=4 if learned_variance else 2, sample_size=8, patch_size=2,
        num_embeds_ada_norm=5,
    )  # fmt: skip


def pixart() -> nn.Module:
    return diffusers.PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=3,
        cross_attention_dim=16, sample_size=8, patch_size=2, caption_channels=12,
    )  # fmt: skip


def flux(*, guided: bool = True) -> nn.Module:
    return diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=12, pooled_projection_dim=10,
        guidance_embeds=guided, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip


def sd3() -> nn.Module:
    return diffusers.SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, num_layers=3, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=12, caption_projection_dim=16,
        pooled_projection_dim=10, out_channels=4, pos_embed_max_size=8,
    )  # fmt: skip


NETWORKS: Mapping[str, Callable[[], nn.Module]] = {
    "UNet": unet,
    "UNet with classes": lambda: unet(5),
    "UNet with text": text_unet,
    "UNet with text and sizes": large_text_unet,
    "DiT": dit,
    "DiT with variances": lambda: dit(learned_variance=True),
    "PixArt": pixart,
    "Flux": flux,
    "SD3": sd3,
}


def made(build: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A network with weights drawn by seed, none of them 0; the global random state is kept."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build().eval().requires_grad_(False)
        for p in model.parameters():
            if not bool(p.any()):
                p.copy_(0.1 * torch.randn_like(p))
    return model
