"""Outcome: what a job came to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allot.certify import Statement
from allot.front import Front


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a job came to. chosen: index on the front, None where no plan was certified."""

    folder: Path
    front: Front
    chosen: int | None
    statement: Statement | None
    summary: Mapping[str, Any]
