"""Files: whole or not at all, and weights never through a pickle."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from allot.errors import ArtefactError, JobError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_PICKLES = (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt")


def write_bytes(path: Path, data: bytes) -> None:
    """The file with new content, or unchanged if anything fails or the process is killed.

    Raises JobError where the disk is full.
    """
    write_files(path.parent, {path.name: data})


def write_files(folder: Path, files: Mapping[str, bytes], *, seal: str = "") -> None:
    """All files of a folder (name -> content) new, or all as they were where one cannot be written.

    Every file is written whole under another name and flushed to the disk before the first takes
    its place.  seal: the one that says that the others belong together; it is taken away first and
    put in its place last, so that a kill between them leaves a folder without it.  Raises JobError
    where the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written: dict[str, str] = {}
    try:
        for name, data in files.items():
            written[name] = _aside(folder, name, data)
        if seal:
            (folder / seal).unlink(missing_ok=True)
            _flush(folder)
        for name in sorted(written, key=lambda n: n == seal):
            if name == seal:
                _flush(folder)
            os.replace(written[name], folder / name)
        _flush(folder)
    except OSError as e:
        if e.errno not in _FULL:
            raise
        size = sum(map(len, files.values()))
        raise JobError(
            f"the disk that holds {folder} is full: {size} bytes for {', '.join(files)} could not "
            "be written, and nothing was changed; free some space or name another folder"
        ) from e
    finally:
        for name in written.values():
            Path(name).unlink(missing_ok=True)


def _aside(folder: Path, name: str, data: bytes) -> str:
    """Path of a new file in the folder that holds the data, flushed to the disk."""
    handle, path = tempfile.mkstemp(dir=folder, prefix=f".{name}.")
    try:
        with os.fdopen(handle, "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        Path(path).chmod(0o644)
    except BaseException:
        Path(path).unlink(missing_ok=True)
        raise
    return path


def _flush(folder: Path) -> None:
    """Names of the folder's files to the disk, where the system can (not on Windows)."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Text as UTF-8, whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path, data: Any) -> None:
    """Data as indented JSON, whole or not at all; NaN and infinity are refused (ValueError)."""
    write_bytes(path, json_bytes(data))


def json_bytes(data: Any) -> bytes:
    """Data as indented JSON, the same bytes for the same data."""
    return (json.dumps(data, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def read_json(path: Path) -> Any:
    """Data of a JSON file; raises ArtefactError where it is absent or damaged."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError as e:
        raise ArtefactError(f"{path} is missing") from e
    except ValueError as e:
        raise ArtefactError(f"{path} is not JSON: {e}") from e


def load_weights(path: str | Path) -> dict[str, Tensor]:
    """Name -> tensor of a .safetensors file.

    Raises ArtefactError for a pickle (it could run any code), a missing or a damaged file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    refuse_pickle(path)
    if not path.is_file():
        raise ArtefactError(f"{path} is missing")
    try:
        return load_file(path)
    except SafetensorError as e:
        raise ArtefactError(f"{path} is not a whole safetensors file: {e}") from e


def refuse_pickle(path: Path) -> None:
    """Raises ArtefactError for a file that is a pickle by name or by its first bytes."""
    start = b""
    if path.is_file():
        with path.open("rb") as f:
            start = f.read(4)
    pickled = start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
    if path.suffix in _PICKLES or start == b"PK\x03\x04" or (pickled and not _is_header(path)):
        raise ArtefactError(
            f"{path} is a pickle, which can run any code when it is opened; convert it once, where "
            f"you trust it: safetensors.torch.save_file(torch.load({str(path)!r}, "
            "weights_only=True), 'weights.safetensors')"
        )


def _is_header(path: Path) -> bool:
    """Whether the file starts as safetensors do: 8 bytes of length (maybe 0x80 0x02), a brace."""
    with path.open("rb") as f:
        return f.read(9)[8:] == b"{"
