"""ONNX file: bytes as a parsed model, for runtimes that rewrite or check it."""

from __future__ import annotations

from typing import Any

from allot.errors import MissingError


def parsed(data: bytes) -> Any:
    """The model (onnx.ModelProto); raises MissingError without onnx."""
    try:
        import onnx
    except ModuleNotFoundError as e:
        raise MissingError("onnx is not installed: pip install 'allot[cpu]'") from e
    return onnx.load_model_from_string(data)
