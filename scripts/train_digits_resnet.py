"""Train the network of the built-in task digits-resnet: python scripts/train_digits_resnet.py.

It reads the training half only. Settings were fixed beforehand and the last epoch is kept, so
that nothing was chosen by the held-out half.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from allot.builtin.digits_resnet import WEIGHTS, DigitsResNet, halves
from allot.task import Data, top1

SEED, EPOCHS, BATCH, RATE, DECAY, SMOOTHING = 0, 80, 64, 0.1, 5e-4, 0.05
# SHIFT: of the half width, 1.12 pixels of 8
TURN, GROW, SHIFT, NOISE = math.radians(12), 0.12, 0.28, 0.04


def vary(x: Tensor, generator: torch.Generator) -> Tensor:
    """Images turned, scaled, shifted and made noisy, each by its own draw: [n, 1, h, w] -> same."""

    def draw(limit: float) -> Tensor:
        return (2 * torch.rand(len(x), generator=generator) - 1) * limit

    angle, size = draw(TURN), 1 + draw(GROW)
    rows = (size * angle.cos(), -size * angle.sin(), draw(SHIFT))
    more = (size * angle.sin(), size * angle.cos(), draw(SHIFT))
    theta = torch.stack([torch.stack(rows, 1), torch.stack(more, 1)], 1)
    grid = nn.functional.affine_grid(theta, list(x.shape), align_corners=False)
    moved = nn.functional.grid_sample(x, grid, align_corners=False)
    return moved + NOISE * torch.randn(x.shape, generator=generator)


def train(data: Data) -> DigitsResNet:
    """Stochastic gradient descent with momentum on a one-cycle rate; deterministic."""
    assert isinstance(data.inputs, Tensor) and data.labels is not None
    torch.manual_seed(SEED)  # initial weights
    generator = torch.Generator().manual_seed(SEED)
    model = DigitsResNet()
    steps = math.ceil(len(data) / BATCH) * EPOCHS
    optimizer = torch.optim.SGD(
        model.parameters(), lr=RATE, momentum=0.9, nesterov=True, weight_decay=DECAY
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=RATE, total_steps=steps)
    loss = nn.CrossEntropyLoss(label_smoothing=SMOOTHING)
    for epoch in range(EPOCHS):
        total = 0.0
        for index in torch.randperm(len(data), generator=generator).split(BATCH):
            optimizer.zero_grad()
            value = loss(model(vary(data.inputs[index], generator)), data.labels[index])
            value.backward()
            optimizer.step()
            schedule.step()
            total += value.item() * len(index)
        if epoch % 10 == 9:
            print(f"epoch {epoch + 1:3d}  loss {total / len(data):.4f}", flush=True)
    return model.eval()


def accuracy(model: nn.Module, data: Data) -> float:
    """Share of images that are classified as labelled."""
    assert data.labels is not None
    with torch.no_grad():
        return float(top1(model(data.inputs), data.labels).mean())


def digest(data: Data) -> str:
    """Hash of a set of images, whatever their order: the weights' file says what it has seen."""
    assert isinstance(data.inputs, Tensor)
    every = sorted(x.numpy().tobytes() for x in data.inputs)
    return hashlib.sha256(b"".join(every)).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    out = parser.parse_args().out
    torch.set_num_threads(1)
    start = time.perf_counter()
    seen, held_out = halves()
    model = train(seen)
    # a copy of the contiguous tensors: safetensors refuses shared or strided memory
    state = {k: v.detach().clone() for k, v in model.state_dict().items()}
    save_file(state, out, metadata={"trained_on": digest(seen)})
    params = sum(p.numel() for p in model.parameters())
    print(
        f"{params} parameters, {time.perf_counter() - start:.0f} s, training images "
        f"{accuracy(model, seen):.2%} of {len(seen)}, held out {accuracy(model, held_out):.2%} "
        f"of {len(held_out)}"
    )


if __name__ == "__main__":
    main()
