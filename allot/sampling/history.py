"""History: what a span gave each sample of a request, at which steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from allot.sampling.moment import Moment, Request
from allot.sampling.spans import Kept


@dataclass(kw_only=True, eq=False)
class Entry:
    """Results of one step. values: tensors [n, ...].  has: [n], samples that were computed then."""

    step: int
    log_snr: float
    values: list[Tensor]
    has: Tensor


@dataclass(kw_only=True, eq=False)
class History:
    """Entries of one span under one condition, latest last.

    hollow: module of the span -> what it returned, tensors left out.
    """

    entries: list[Entry] = field(default_factory=list)
    hollow: dict[str, Any] = field(default_factory=dict)

    def add(self, moment: Moment, values: Sequence[Tensor], rows: Tensor | None, n: int) -> None:
        """Results of some samples: values [rows, ...] of n samples, all of them for rows None."""
        has = torch.ones(n, dtype=torch.bool)
        whole = [v.detach() for v in values]
        if rows is not None:
            has = torch.zeros(n, dtype=torch.bool)
            has[rows.cpu()] = True
            whole = [scattered(v, rows, n) for v in whole]
        level = moment.level.log_snr
        self.entries.append(Entry(step=moment.step, log_snr=level, values=whole, has=has))

    def forget(self, most: int) -> None:
        """Drops entries of which no sample has fewer than `most` later ones."""
        later = torch.zeros(len(self.entries[-1].has), dtype=torch.long)
        kept = []
        for e in reversed(self.entries):
            if bool((e.has & (later < most)).any()):
                kept.append(e)
            later = later + e.has
        self.entries = kept[::-1]

    @property
    def complete(self) -> bool:
        """Whether there is a result of every sample."""
        found = [e.has for e in self.entries]
        return bool(found) and bool(torch.stack(found).any(0).all())

    def alike(self, rows: Tensor | None) -> Iterator[tuple[Tensor | None, list[Entry]]]:
        """Samples [k] that were computed at the same steps, with these entries; None for all."""
        entries = self.entries
        if all(bool(e.has.all()) for e in entries):
            yield rows, entries
            return
        table = torch.stack([e.has for e in entries], dim=1)
        rows = torch.arange(len(table)) if rows is None else rows.cpu()
        patterns, which = table[rows].unique(dim=0, return_inverse=True)
        for i, pattern in enumerate(patterns.tolist()):
            yield rows[which == i], [e for e, has in zip(entries, pattern, strict=True) if has]


def past(entries: Sequence[Entry], rows: Tensor | None, entry: int) -> list[Kept]:
    """One tensor of some entries, of some samples, as predictors read it."""
    return [
        Kept(
            step=e.step,
            log_snr=e.log_snr,
            value=e.values[entry] if rows is None else e.values[entry][rows],
            entry=entry,
        )
        for e in entries
    ]


def kept_bytes(request: Request) -> int:
    """Bytes of all results that a request keeps; after its run, the most that it ever kept."""
    found = [h for h in request.kept.values() if isinstance(h, History)]
    values = [v for h in found for e in h.entries for v in e.values]
    return sum(v.numel() * v.element_size() for v in values)


def scattered(x: Tensor, rows: Tensor, n: int) -> Tensor:
    """x [k, ...] at its rows of [n, ...], zero elsewhere."""
    whole = x.new_zeros((n, *x.shape[1:]))
    whole[rows] = x
    return whole
