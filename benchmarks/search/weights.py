"""Trained weights of the benchmark's own networks: kept in the cache, remade where they lack."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import nn

Model = TypeVar("Model", bound=nn.Module)


def cache() -> Path:
    """Where networks and enumerations lie: ALLOT_CACHE, or `cache` beside this file."""
    folder = Path(os.environ.get("ALLOT_CACHE", Path(__file__).with_name("cache")))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def saved(model: nn.Module, path: Path) -> None:
    """Writes the state of a network, whole or not at all."""
    part = path.with_suffix(".part")
    save_file({k: v.detach().clone() for k, v in model.state_dict().items()}, part)
    part.rename(path)


def loaded(make: Callable[[], Model], path: Path) -> Model:
    """The network with the weights of a file, in eval mode; no random number is drawn."""
    with torch.device("meta"):
        model = make()
    model.load_state_dict(load_file(path), assign=True)
    return model.eval().requires_grad_(False)
