"""Small vision transformers on Fashion-MNIST: one of the zoo, two trained here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from allot.errors import InputError, MissingError
from allot.task import Data, Task, split
from benchmarks.tasks import zoo

CALIBRATE, SEARCH, HELD_OUT = 256, 192, 96
EPOCHS, BATCH, RATE, DECAY, WARM = 30, 64, 2e-3, 0.05, 0.1
PREPROCESS = "a grey 28x28 image of 0..255 as (x / 255 - 0.2860) / 0.3530; float32 [n, 1, 28, 28]"
# name -> (training seed, layers) of those trained here: 64 wide, patches of 7x7 pixels
TRAINED = {"vit_a": (1, 3), "vit_b": (2, 4)}
NETWORKS = ("vit_fmnist", *TRAINED)


def forward(model: Any, images: Tensor) -> Tensor:
    """Images [n, 1, 28, 28] -> logits [n, 10].

    Part by part, since the library's own forward reads the weight of a layer that a stand-in
    replaces, and makes a mask for as many tokens as there were at the start.
    """
    tokens = model.vit.embeddings(images)
    for layer in model.vit.layers:
        tokens = layer(tokens)
    logits: Tensor = model.classifier(model.vit.layernorm(tokens)[:, 0])
    return logits


def task(name: str, folder: Path) -> Task:
    """A network by name; search and held-out samples are test images, the same for all.

    Raises MissingError without the zoo or the library transformers, InputError for another name.
    """
    source = zoo() / "fmnist"
    if name not in NETWORKS:
        raise InputError(f"no vision transformer {name!r}; there are {', '.join(NETWORKS)}")
    with np.load(source / "fmnist.npz") as arrays:
        train, test = (images(arrays[f"{k}_x"], arrays[f"{k}_y"]) for k in ("calib", "test"))
    path = source / name if name not in TRAINED else folder / name
    if name in TRAINED and not path.is_dir():
        seed, layers = TRAINED[name]
        keep(trained(train, seed=seed, layers=layers), path)
    search, held_out = split(test, search=SEARCH, certify=HELD_OUT, seed=0)
    calibrate, _ = split(train, search=CALIBRATE, certify=0, seed=0)
    return Task(
        name=name,
        model=library().ViTForImageClassification.from_pretrained(path).eval(),
        calibrate=calibrate,
        search=search,
        certify=held_out,
        forward=forward,
        preprocess=PREPROCESS,
    )


def images(pixels: np.ndarray, labels: np.ndarray) -> Data:
    """uint8 [n, 28, 28] and labels [n] -> normalized inputs [n, 1, 28, 28]."""
    x = (torch.from_numpy(pixels).float()[:, None] / 255 - 0.2860) / 0.3530
    return Data(inputs=x, labels=torch.from_numpy(labels).long())


def library() -> Any:
    """transformers, its progress bars off; raises MissingError where it is not installed."""
    try:
        import transformers
    except ImportError as e:
        raise MissingError(
            "the small transformers of the benchmark need the library transformers: "
            "pip install transformers"
        ) from e
    transformers.utils.logging.disable_progress_bar()
    return transformers


def keep(model: Any, path: Path) -> None:
    """Writes a network as `from_pretrained` reads it, whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    model.save_pretrained(part)
    part.rename(path)


def initial(seed: int, layers: int) -> Any:
    """An untrained network; the global random state is left as it was."""
    config = library().ViTConfig(
        hidden_size=64, num_hidden_layers=layers, num_attention_heads=4, intermediate_size=256,
        image_size=28, patch_size=7, num_channels=1, num_labels=10,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # layers draw their weights from it
        return library().ViTForImageClassification(config)


def trained(data: Data, *, seed: int, layers: int) -> Any:
    """AdamW on a one-cycle rate, images mirrored at random; the last epoch is kept."""
    assert isinstance(data.inputs, Tensor) and data.labels is not None
    generator = torch.Generator().manual_seed(seed)
    model = initial(seed, layers).train()
    steps = -(-len(data) // BATCH) * EPOCHS
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=RATE, total_steps=steps, pct_start=WARM
    )
    loss = nn.CrossEntropyLoss(label_smoothing=0.05)
    for _ in range(EPOCHS):
        for index in torch.randperm(len(data), generator=generator).split(BATCH):
            x = varied(data.inputs[index], generator)
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits = forward(model, x)
            loss(logits.float(), data.labels[index]).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def varied(x: Tensor, generator: torch.Generator) -> Tensor:
    """Images mirrored half of the time: same shape."""
    mirror = torch.rand(len(x), generator=generator) < 0.5
    return torch.where(mirror[:, None, None, None], x.flip(3), x)
