"""Arrays: .npz files in and out, never through a pickle."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from allot.errors import DataError
from allot.files import write_bytes
from allot.task import Data

Named = Mapping[str, NDArray[np.generic]]


def read(path: Path) -> dict[str, NDArray[np.generic]]:
    """Name -> array of an .npz file; an .npy file is one array named "input".

    Raises DataError for a file that is absent, of another kind, or that holds Python objects.
    """
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return {"input": found}
        with found:
            return {name: found[name] for name in found.files}
    except (ValueError, zipfile.BadZipFile, EOFError) as e:
        raise DataError(
            f"{path} is no file of plain arrays ({e}); write one with numpy.savez(FILE, input=...)"
        ) from e


def data(path: Path, *, names: Sequence[str]) -> Data:
    """Inputs and, where there are any, labels of an .npz file.

    names: of the network's inputs; of a network with one input, "inputs" and "input" will do.
    Raises DataError where inputs are missing, differ in length or are not finite.
    """
    found = read(path)
    labels = found.pop("labels", None)
    if len(names) == 1 and len(found) == 1 and next(iter(found)) in ("inputs", "input"):
        found = {names[0]: next(iter(found.values()))}
    if sorted(found) != sorted(names):
        raise DataError(
            f"{path} holds {', '.join(found) or 'no inputs'}; the network takes {', '.join(names)}"
        )
    lengths = {
        len(x) if x.ndim else 0 for x in (*found.values(), *([] if labels is None else [labels]))
    }
    if len(lengths) != 1 or 0 in lengths:
        raise DataError(f"arrays of {path} must have one and the same number of samples, above 0")
    tensors = {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in found.items()}
    bad = [k for k, v in tensors.items() if v.is_floating_point() and not v.isfinite().all()]
    if bad:
        raise DataError(f"{path} holds NaN or infinite values in {', '.join(bad)}")
    one = tensors["input"] if list(tensors) == ["input"] else None
    return Data(
        inputs=tensors if one is None else one,
        labels=None if labels is None else torch.from_numpy(np.asarray(labels)).long(),
    )


def write(path: Path, named: Named) -> None:
    """The arrays as an .npz file, whole or not at all."""
    buffer = io.BytesIO()
    np.savez(buffer, **dict(named))  # type: ignore[arg-type]
    write_bytes(path, buffer.getvalue())
