"""Quiet: what a library tells of its own doings, kept back where the caller says it better."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet(name: str, *, level: int) -> Iterator[None]:
    """Warnings, and messages of the logger of a name below a level, kept back for a while."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(level)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
