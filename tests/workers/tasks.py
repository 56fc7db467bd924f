"""Tasks that a worker can make by name."""

from __future__ import annotations

from allot.task import Task
from tests import small, toys


def task(name: str) -> Task:
    """A toy of that name with random images."""
    return small.task(getattr(toys, name))
