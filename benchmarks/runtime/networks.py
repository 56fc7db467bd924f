"""Networks of the speed table: real architectures from their configurations, random weights.

Speed depends on shapes, not on what a network has learned; so nothing is downloaded. Batch norms
get the statistics of smooth random images, as training would have left them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from allot.task import Data, Inputs, Task
from benchmarks.runtime import images, libraries
from benchmarks.tasks import ResNet20

CALIBRATE, SEARCH, CERTIFY = 16, 8, 8
CLASSES, STEPS = 1000, 1000


@dataclass(frozen=True, kw_only=True)
class Network:
    """build() -> the untrained module.  size: of its images.  channels: of them.  denoises: its
    inputs are a noisy image and a time step, its output an image.  labelled: and a class.
    batches: samples per call that are timed."""

    build: Callable[[], nn.Module]
    size: int
    channels: int = 3
    denoises: bool = False
    labelled: bool = False
    batches: tuple[int, ...] = (1,)


class Logits(nn.Module):
    """A library's classifier as images [n, c, h, w] -> logits [n, classes]."""

    def __init__(self, inner: nn.Module) -> None:
        nn.Module.__init__(self)
        self.inner = inner

    def forward(self, images: Tensor) -> Tensor:
        return self.inner(images).logits


class Noise(nn.Module):
    """A library's denoiser: image [n, c, h, w], step [n] and label [n] or none -> [n, c, h, w]."""

    def __init__(self, inner: nn.Module) -> None:
        nn.Module.__init__(self)
        self.inner = inner

    def forward(self, sample: Tensor, step: Tensor, label: Tensor | None = None) -> Tensor:
        return self.inner(sample, timestep=step, class_labels=label).sample


def resnet18() -> nn.Module:
    """ResNet-18 (He et al. 2016), 11.7 M parameters."""
    t = libraries.transformers()
    config = t.ResNetConfig(
        layer_type="basic", depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512],
        embedding_size=64, num_labels=CLASSES,
    )  # fmt: skip
    return Logits(t.ResNetForImageClassification(config))


def mobilenetv2() -> nn.Module:
    """MobileNetV2 (Sandler et al. 2018), 3.5 M parameters, symmetric padding."""
    t = libraries.transformers()
    config = t.MobileNetV2Config(num_labels=CLASSES, tf_padding=False)
    return Logits(t.MobileNetV2ForImageClassification(config))


def vit_tiny() -> nn.Module:
    """ViT-tiny (Touvron et al. 2021), 5.7 M parameters, 197 tokens."""
    t = libraries.transformers()
    config = t.ViTConfig(
        hidden_size=192, num_hidden_layers=12, num_attention_heads=3, intermediate_size=768,
        num_labels=CLASSES,
    )  # fmt: skip
    return Logits(t.ViTForImageClassification(config))


def dit() -> nn.Module:
    """DiT (Peebles and Xie 2023), 6 layers, 384 wide, 256 tokens."""
    model = libraries.diffusers().DiTTransformer2DModel(
        num_attention_heads=6, attention_head_dim=64, in_channels=4, out_channels=4, num_layers=6,
        sample_size=32, patch_size=2, num_embeds_ada_norm=STEPS,
    )  # fmt: skip
    return Noise(model)


def unet() -> nn.Module:
    """The UNet of Ho et al. (2020) for 32x32 images, attention at 16x16, narrowed to 4 M."""
    model = libraries.diffusers().UNet2DModel(
        sample_size=32, block_out_channels=(64, 128, 128), layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    return Noise(model)


NETWORKS: Mapping[str, Network] = {
    "ResNet-20": Network(build=ResNet20, size=32, batches=(4, 32)),
    "ResNet-18": Network(build=resnet18, size=112),
    "MobileNetV2": Network(build=mobilenetv2, size=224, batches=(4, 1)),
    "ViT-tiny": Network(build=vit_tiny, size=224),
    "DiT": Network(build=dit, size=32, channels=4, denoises=True, labelled=True),
    "UNet": Network(build=unet, size=32, denoises=True),
}


def task(name: str, *, seed: int = 0) -> Task:
    """The task of a network: weights and images drawn by seed; the global random state is kept.

    Raises MissingError without the library that has the architecture.
    """
    network = NETWORKS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # layers draw their weights from it
        model = network.build()
    generator = torch.Generator().manual_seed(seed + 1)
    n = CALIBRATE + SEARCH + CERTIFY
    inputs = _inputs(network, n, generator)
    data = Data(inputs=inputs, labels=torch.randint(CLASSES, (n,), generator=generator))
    ends = (0, CALIBRATE, CALIBRATE + SEARCH, n)
    parts = [data.subset(slice(a, b)) for a, b in itertools.pairwise(ends)]
    _settle_(model, parts[0])
    more: dict[str, Any] = {"divergence": gaussian, "metric": "none"} if network.denoises else {}
    return Task(
        name=name, model=model.eval(), calibrate=parts[0], search=parts[1], certify=parts[2], **more
    )


def _inputs(network: Network, n: int, generator: torch.Generator) -> Inputs:
    x = images.smooth(n, network.channels, network.size, generator=generator)
    if not network.denoises:
        return x
    step = torch.randint(STEPS, (n,), generator=generator)
    noise = torch.randn(x.shape, generator=generator)
    kept = images.kept(step, STEPS).view(-1, 1, 1, 1)
    found = {"sample": kept.sqrt() * x + (1 - kept).sqrt() * noise, "step": step}
    if network.labelled:
        found["label"] = torch.randint(CLASSES, (n,), generator=generator)
    return found


def _settle_(model: nn.Module, data: Data) -> None:
    """Batch norms get the mean statistics of a few batches, in place."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for m in norms:
        m.reset_running_stats()
        m.momentum = None  # a plain mean over batches
    if norms:
        model.train()
        with torch.no_grad():
            for batch in data.batches(CALIBRATE // 2):
                assert isinstance(batch, Tensor)
                model(batch)


def gaussian(original: Tensor, output: Tensor) -> Tensor:
    """KL of normals of unit variance around two outputs, per element: [n, ...] -> nats [n]."""
    return 0.5 * (original.double() - output.double()).square().flatten(1).mean(1)
