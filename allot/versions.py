"""Versions: of Python and of the libraries that a result depends on."""

from __future__ import annotations

import platform
from importlib import metadata

_LIBRARIES = ("torch", "numpy", "scipy", "onnx", "onnxruntime", "openvino")


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that a result depends on."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
