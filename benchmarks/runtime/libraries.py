"""Libraries: where the architectures come from, imported when they are used."""

from __future__ import annotations

from typing import Any

from allot.errors import MissingError


def transformers() -> Any:
    """transformers, its progress bars off; raises MissingError where it is not installed."""
    try:
        import transformers
    except ImportError as e:
        raise MissingError("this network needs transformers: pip install 'allot[bench]'") from e
    transformers.utils.logging.disable_progress_bar()
    return transformers


def diffusers() -> Any:
    """diffusers; raises MissingError where it is not installed."""
    try:
        import diffusers
    except ImportError as e:
        raise MissingError("this network needs diffusers: pip install 'allot[bench]'") from e
    return diffusers
