"""Read: a network and scheduler from a local directory of diffusers, weights from safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from allot.errors import ArtefactError, InputError
from allot.families.diffusion_grids import diffusers
from allot.files import read_json

INDEX, CONFIG, SCHEDULER = "model_index.json", "config.json", "scheduler"
SCHEDULER_CONFIG = "scheduler_config.json"
# what pipelines call the network that denoises
_COMPONENTS = ("transformer", "unet")


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """What a directory holds. folder: of the network."""

    model: nn.Module
    scheduler: Any
    folder: Path


def read(path: Path, *, scheduler: Any = None) -> Found:
    """Network and scheduler of a pipeline or of a bare network with a folder `scheduler`.

    scheduler: used instead of the directory's.  Raises ArtefactError for missing, foreign or
    pickled files.
    """
    if (path / INDEX).is_file():
        index = _object(path / INDEX)
        name = next((n for n in _COMPONENTS if index.get(n, [None])[0] is not None), None)
        if name is None:
            raise ArtefactError(f"{path / INDEX} names no {' or '.join(_COMPONENTS)}")
        folder = path / name
    elif (path / CONFIG).is_file():
        folder = path
    else:
        raise ArtefactError(
            f"{path} holds neither {INDEX} (a pipeline) nor {CONFIG} (a network); give a local "
            "directory that save_pretrained of diffusers wrote"
        )
    own = scheduler if scheduler is not None else read_scheduler(path)
    return Found(model=read_model(folder), scheduler=own, folder=folder)


def read_model(folder: Path) -> nn.Module:
    """The network of a folder, in evaluation mode."""
    kind = _kind(folder / CONFIG, base="ModelMixin")
    if not any(folder.glob("*.safetensors")):
        pickled = [p.name for p in (*folder.glob("*.bin"), *folder.glob("*.pt*"))]
        what = f"only {pickled[0]}, which may run code when it is opened" if pickled else "none"
        raise ArtefactError(
            f"{folder} has no weights in safetensors ({what}); save it with "
            "save_pretrained(..., safe_serialization=True)"
        )
    model: nn.Module = kind.from_pretrained(
        folder,
        use_safetensors=True,
        local_files_only=True,
        # the other way of loading needs a further library, and saves nothing on a CPU
        low_cpu_mem_usage=False,
    )
    return model.eval()


def read_scheduler(path: Path) -> Any:
    """The scheduler beside a network or in a pipeline."""
    folder = path / SCHEDULER
    if not (folder / SCHEDULER_CONFIG).is_file():
        raise ArtefactError(f"{path} has no {SCHEDULER}/{SCHEDULER_CONFIG}; give a scheduler")
    kind = _kind(folder / SCHEDULER_CONFIG, base="SchedulerMixin")
    return kind.from_pretrained(folder, local_files_only=True)


def _kind(config: Path, *, base: str) -> Any:
    """The class that a file names, which must be one of diffusers itself."""
    if not config.is_file():
        raise ArtefactError(f"{config} is missing")
    name = str(_object(config).get("_class_name", ""))
    library = diffusers()
    kind = getattr(library, name, None) if name.isidentifier() else None
    if not (isinstance(kind, type) and issubclass(kind, getattr(library, base))):
        raise InputError(
            f"{config} names {name!r}, which is no {base} of diffusers {library.__version__}; "
            "build it yourself and give it to sampler_of"
        )
    return kind


def _object(path: Path) -> Mapping[str, Any]:
    data = read_json(path)
    if not isinstance(data, dict):
        raise ArtefactError(f"{path} holds no JSON object")
    return data
