"""Ledger: which samples were used for what, so that no certificate rests on data seen before."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from allot.errors import ArtefactError, DataError
from allot.files import read_json, write_json

VERSION = 1
FILE = "ledger.json"


@dataclass(frozen=True, kw_only=True)
class Use:
    """Samples used once.  purpose: "calibrate", "search" or "certify".  by: digest of what used
    them (the front, the plan), "" where it does not matter.  digests: one per sample.
    """

    purpose: str
    by: str = ""
    digests: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """Every recorded use of samples, oldest first."""

    uses: tuple[Use, ...] = ()

    def seen(self, digests: Sequence[str], *, by: str = "") -> dict[str, str]:
        """Sample digest -> purpose, for those recorded before by anyone else.

        A use for "certify" by the same non-empty `by` does not count: the same question asked
        of the same samples again has the same answer.
        """
        wanted = set(digests)
        return {
            d: use.purpose
            for use in self.uses
            if not (by and use.by == by and use.purpose == "certify")
            for d in use.digests
            if d in wanted
        }

    def check_fresh(self, digests: Sequence[str], *, by: str = "") -> None:
        """Raises DataError if any sample to certify with was used before (see `seen`)."""
        seen = self.seen(digests, by=by)
        if seen:
            purposes = ", ".join(sorted(set(seen.values())))
            raise DataError(
                f"{len(seen)} of the {len(digests)} certify samples were already used to "
                f"{purposes}; a certificate needs samples that no earlier step has seen"
            )

    def record(self, use: Use) -> Ledger:
        """The ledger with one more use; one that it holds already is not added again."""
        return self if use in self.uses else Ledger(uses=(*self.uses, use))

    def dump(self) -> dict[str, Any]:
        return {"version": VERSION, **asdict(self)}


def load(data: Any) -> Ledger:
    """The ledger that `dump` wrote; raises ArtefactError if damaged or of another version."""
    if not isinstance(data, dict) or data.get("version") != VERSION:
        raise ArtefactError(f"not a ledger of version {VERSION}")
    try:
        uses = [Use(**{**u, "digests": tuple(u["digests"])}) for u in data["uses"]]
    except (KeyError, TypeError) as e:
        raise ArtefactError(f"the ledger is damaged: {e!r}") from e
    return Ledger(uses=tuple(uses))


def read(folder: Path) -> Ledger:
    """The ledger of a folder, empty where it has none yet; raises ArtefactError if damaged."""
    file = folder / FILE
    return load(read_json(file)) if file.exists() else Ledger()


def write(ledger: Ledger, folder: Path) -> Path:
    """Writes the ledger into a folder, whole or not at all; returns the file."""
    file = folder / FILE
    write_json(file, ledger.dump())
    return file


def sample_digests(inputs: Tensor | dict[str, Tensor]) -> tuple[str, ...]:
    """SHA-256 of each sample's bytes, 16 hex characters: [n, ...] or a dict of them -> n.

    Raises DataError for dict entries of different lengths.
    """
    named = {"": inputs} if isinstance(inputs, Tensor) else inputs
    lengths = {len(x) for x in named.values()}
    if len(lengths) != 1:
        raise DataError(f"inputs must have one and the same number of samples, not {lengths}")
    rows = {k: _bytes(x) for k, x in sorted(named.items())}
    digests = []
    for i in range(lengths.pop()):
        h = hashlib.sha256()
        for name, row in rows.items():
            h.update(f"{name}:{row.shape[1]}:".encode())
            h.update(row[i].numpy().tobytes())
        digests.append(h.hexdigest()[:16])
    return tuple(digests)


def _bytes(x: Tensor) -> Tensor:
    """[n, ...] of any type -> uint8 [n, bytes per sample]."""
    flat = x.detach().cpu().contiguous().view(len(x), -1) if len(x) else x.new_zeros(0, 1)
    return flat.view(torch.uint8)
