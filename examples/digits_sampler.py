"""A small diffusion model of handwritten digits, trained here, as a directory that diffusers wrote.

    python examples/digits_sampler.py runs/digits-unet
    allot compress runs/digits-unet@steps=20 --target ideal --budget bitops=2% --max-drop 10

Training takes about a minute on one core; samples are 8x8, and one of ten digits is asked for.
Where nothing but Python is at hand, `examples/digits_sampler.py:task` is the same as a task, from
a network that was trained for seconds only.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from diffusers import DDPMScheduler, UNet2DModel
from sklearn.datasets import load_digits
from torch.nn import functional

import allot
from allot.families import diffusion
from allot.samplers.task import Noises, task_of

BATCH, UPDATES, FEW = 64, 600, 20


def network() -> UNet2DModel:
    """A UNet of two levels that is told time and class."""
    return UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(24, 48),
        layers_per_block=1, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"), norm_num_groups=8, attention_head_dim=16,
        num_class_embeds=10,
    )  # fmt: skip


def trained(updates: int = UPDATES, *, seed: int = 0) -> tuple[UNet2DModel, DDPMScheduler]:
    """The network after so many updates of its weights on the noise that was added, [-1, 1]."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _trained(updates)


def _trained(updates: int) -> tuple[UNet2DModel, DDPMScheduler]:
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 1
    labels = torch.tensor(digits.target)
    model, scheduler = network(), DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    slower = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=updates)
    for update in range(updates):
        rows = torch.randint(len(images), (BATCH,))
        noise = torch.randn(BATCH, 1, 8, 8)
        times = torch.randint(1000, (BATCH,))
        noisy = scheduler.add_noise(images[rows], noise, times)
        found = model(noisy, times, class_labels=labels[rows]).sample
        loss = functional.mse_loss(found, noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        slower.step()
        if update % 100 == 0:
            print(f"update {update} of {updates}: error {loss.item():.3f}")
    return model.eval(), scheduler


def save(folder: Path, *, updates: int = UPDATES) -> None:
    """Trains and writes the network and its scheduler."""
    model, scheduler = trained(updates)
    model.save_pretrained(folder)
    scheduler.save_pretrained(folder / "scheduler")


def task() -> allot.Task:
    """The sampler after seconds of training, to be run in ten steps from a few noises."""
    sampler = diffusion.sampler_of(*trained(FEW), steps=10)
    classes = {"class_labels": torch.arange(10)}
    noises = Noises(calibrate=16, search=32, certify=64)
    return task_of(sampler, (1, 8, 8), name="digits", conditions=classes, noises=noises)


if __name__ == "__main__":
    save(Path(sys.argv[1]))
