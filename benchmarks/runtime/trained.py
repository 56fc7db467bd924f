"""Trained: networks of the speed table as the zoo has them, small and with real data.

Speed is measured on architectures of full size; what a plan loses, only on a network that has
learned something.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from allot.task import Data, Task
from benchmarks.runtime import libraries
from benchmarks.runtime.networks import STEPS, Noise, gaussian
from benchmarks.search import languages, vits
from benchmarks.tasks import resnet20, zoo

CALIBRATE, SEARCH, CERTIFY = 256, 256, 512


@dataclass(frozen=True, kw_only=True)
class Trained:
    """task(seed).  stands_for: of the speed table.  batch: samples per call that are timed."""

    task: Callable[[int], Task]
    stands_for: str
    batch: int = 4


def denoiser(name: str, build: Callable[[Path], nn.Module], seed: int) -> Task:
    """One step of a class-conditional denoiser of 16x16 images, at every noise alike.

    Raises MissingError without the zoo or the library that has the architecture.
    """
    folder = zoo() / "fmnist"
    with np.load(folder / "fmnist.npz") as arrays:
        train, test = (_small(arrays[f"{k}_x"]) for k in ("calib", "test"))
        labels = [torch.from_numpy(arrays[f"{k}_y"]).long() for k in ("calib", "test")]
    generator = torch.Generator().manual_seed(seed)
    calibrate = _noisy(train[:CALIBRATE], labels[0][:CALIBRATE], generator)
    held = _noisy(test[: SEARCH + CERTIFY], labels[1][: SEARCH + CERTIFY], generator)
    return Task(
        name=name,
        model=Noise(build(folder / name)).eval(),
        calibrate=calibrate,
        search=held.subset(slice(0, SEARCH)),
        certify=held.subset(slice(SEARCH, None)),
        divergence=gaussian,
        metric="none",
    )


def _small(pixels: np.ndarray) -> Tensor:
    """uint8 [n, 28, 28] -> [n, 1, 16, 16] in -1..1, as the zoo's denoisers were trained."""
    x = functional.pad(torch.from_numpy(pixels).float()[:, None], (2, 2, 2, 2))
    return functional.avg_pool2d(x, 2).round() / 127.5 - 1


def _noisy(x: Tensor, labels: Tensor, generator: torch.Generator) -> Data:
    """Images at random steps of the cosine schedule (Nichol and Dhariwal 2021)."""
    step = torch.randint(STEPS, (len(x),), generator=generator)
    noise = torch.randn(x.shape, generator=generator)
    kept = cosine(STEPS)[step].view(-1, 1, 1, 1)
    sample = kept.sqrt() * x + (1 - kept).sqrt() * noise
    return Data(inputs={"sample": sample, "step": step, "label": labels}, labels=labels)


def cosine(steps: int) -> Tensor:
    """Share of an image's variance left after every step, no step adding more than 0.999."""
    at = torch.arange(steps + 1, dtype=torch.float64) / steps
    left = torch.cos((at + 0.008) / 1.008 * math.pi / 2) ** 2
    return torch.cumprod((left[1:] / left[:-1]).clamp(min=1e-3), 0).float()


def _resnet(seed: int) -> Task:
    task = resnet20("resnet20_jpeg", seed=seed)
    return replace(
        task,
        calibrate=task.calibrate.subset(slice(0, CALIBRATE)),
        search=task.search.subset(slice(0, SEARCH)),
        certify=task.certify.subset(slice(0, 2 * CERTIFY)),
    )


def _unet(folder: Path) -> nn.Module:
    found: nn.Module = libraries.diffusers().UNet2DModel.from_pretrained(
        folder, low_cpu_mem_usage=False
    )
    return found


def _dit(folder: Path) -> nn.Module:
    found: nn.Module = libraries.diffusers().DiTTransformer2DModel.from_pretrained(
        folder, low_cpu_mem_usage=False
    )
    return found


TRAINED: Mapping[str, Trained] = {
    "ResNet-20": Trained(task=_resnet, stands_for="ResNet-20, ResNet-18, MobileNetV2"),
    "vit_fmnist": Trained(
        task=lambda seed: vits.task("vit_fmnist", Path()), stands_for="ViT-tiny"
    ),
    "dit_fmnist16": Trained(
        task=lambda seed: denoiser("dit_fmnist16", _dit, seed), stands_for="DiT"
    ),
    "unet_fmnist16": Trained(
        task=lambda seed: denoiser("unet_fmnist16", _unet, seed), stands_for="UNet2D"
    ),
    "llama_byte_shakespeare": Trained(
        task=lambda seed: languages.task("llama_byte_shakespeare", Path()),
        stands_for="Llama prefill",
    ),
}  # fmt: skip
