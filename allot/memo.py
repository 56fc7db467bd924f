"""Memo: results of long work on disk, so that an interrupted job goes on where it stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Memo:
    """Append-only key -> JSON value, one line each; a line cut short by a kill is dropped.

    path None keeps everything in memory.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._values: dict[str, Any] = {}
        if path is not None and path.exists():
            self._values = _read(path)

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def get(self, key: str, compute: Callable[[], Any]) -> Any:
        """The value of a key; computed and written down the first time it is asked for."""
        if key not in self._values:
            self.put(key, compute())
        return self._values[key]

    def put(self, key: str, value: Any) -> None:
        # through JSON, so that a fresh and a resumed job see the same value
        line = json.dumps([key, value])
        self._values[key] = json.loads(line)[1]
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as f:
                f.write(line + "\n")
                f.flush()
                os.fsync(f.fileno())


def _read(path: Path) -> dict[str, Any]:
    """All whole lines; the file is cut back to them, so that appending is safe again."""
    values: dict[str, Any] = {}
    data = path.read_bytes()
    good = 0
    for line in data.splitlines(keepends=True):
        if not line.endswith(b"\n"):
            break
        try:
            key, value = json.loads(line)
        except ValueError:
            break
        values[key] = value
        good += len(line)
    if good < len(data):
        with path.open("r+b") as f:
            f.truncate(good)
    return values
