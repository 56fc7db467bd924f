"""Routing: the calibration samples of which every expert of a mixture sees enough tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from allot.errors import DataError, InputError
from allot.provenance import tensors
from allot.selection import check_count, each
from allot.task import Data, Task


def routes(
    task: Task, data: Data, module: str, *, experts: int, top: int = 1, batch: int = 128
) -> Tensor:
    """Tokens of each sample that a named router sends to each expert: [n, experts], int64.

    The router puts out scores [..., experts], of which the `top` largest of every token are
    taken; or chosen indices, whole numbers [..., top], also as the only whole numbers among
    several outputs.  Leading dimensions are those of samples, then tokens.  Tokens of padding are
    counted like others.  Raises InputError for a module that does neither.
    """
    found = each(task, data, module, lambda x: _chosen(module, x, experts, top), batch=batch)
    sizes = [min(batch, len(data) - i) for i in range(0, len(data), batch)]
    counts = torch.zeros(len(data), experts, dtype=torch.int64)
    for rows, chosen in zip(counts.split(sizes), found, strict=True):
        index = chosen.cpu().reshape(len(rows), -1)
        rows.scatter_add_(1, index, torch.ones_like(index))
    return counts


def balanced(counts: Tensor, k: int) -> Tensor:
    """k samples whose least-used expert sees the most tokens: [n, experts] -> sorted indices [k].

    Leximin: of two sets, the one whose least count is larger, then the second least, and so on.
    Greedy, then exchanged one for one until no exchange improves; exact where every sample goes
    to one expert in equal numbers.  Fu et al. 2025 (EAQuant) add samples until every expert has
    seen enough, which is `enough`.  Ties go to the first.  Raises DataError for too many samples.
    """
    check_count(len(counts), k)
    chosen: list[int] = []
    total = counts.new_zeros(counts.shape[1])
    for _ in range(k):
        best, _ = _leximin(total + counts, without=chosen)
        chosen.append(best)
        total = total + counts[best]
    while (better := _exchanged(counts, chosen)) is not None:
        chosen = better
    return torch.tensor(sorted(chosen), dtype=torch.int64)


def enough(counts: Tensor, tokens: int) -> Tensor:
    """Few samples of which every expert sees `tokens` or more: [n, experts] -> sorted indices.

    Greedy cover by the tokens still missing (Wolsey 1982), then without the samples that turn out
    to be needless.  Raises DataError if all samples together are too few, naming the expert.
    """
    short = counts.sum(0).min()
    if short < tokens:
        raise DataError(
            f"expert {int(counts.sum(0).argmin())} sees {int(short)} tokens of all {len(counts)} "
            f"samples, {tokens} are wanted; give more samples, or ask for at most {int(short)}"
        )
    chosen: list[int] = []
    missing = counts.new_full((counts.shape[1],), tokens)
    while bool((missing > 0).any()):
        gain = torch.minimum(counts, missing).sum(1)
        gain[chosen] = -1
        chosen.append(int(gain.argmax()))
        missing = (missing - counts[chosen[-1]]).clamp(min=0)
    for i in list(chosen):
        rest = [j for j in chosen if j != i]
        if bool((counts[rest].sum(0) >= tokens).all()):
            chosen = rest
    return torch.tensor(sorted(chosen), dtype=torch.int64)


def _leximin(totals: Tensor, *, without: list[int]) -> tuple[int, Tensor]:
    """The first row [n, e] that is largest in leximin order, and its values in rising order."""
    rising = totals.sort(1).values
    rows = torch.ones(len(totals), dtype=torch.bool)
    rows[without] = False
    index = rows.nonzero()[:, 0]
    for column in range(rising.shape[1]):
        values = rising[index, column]
        index = index[values == values.max()]
    return int(index[0]), rising[index[0]]


def _exchanged(counts: Tensor, chosen: list[int]) -> list[int] | None:
    """The chosen with the first one exchanged for a better one; None where none improves."""
    total = counts[chosen].sum(0)
    now = total.sort().values.tolist()
    if len(chosen) == len(counts):
        return None
    for place, out in enumerate(chosen):
        best, found = _leximin(total - counts[out] + counts, without=chosen)
        if found.tolist() > now:
            return [*chosen[:place], best, *chosen[place + 1 :]]
    return None


def _chosen(module: str, output: Any, experts: int, top: int) -> Tensor:
    """Indices of the experts that a router's output chooses."""
    found = tensors(output)
    whole = [t for t in found if not (t.is_floating_point() or t.dtype == torch.bool)]
    if len(whole) == 1:
        chosen = whole[0].long()
        if bool((chosen < experts).all()):
            return chosen
    elif len(found) == 1 and found[0].shape[-1] == experts and top <= experts:
        return found[0].topk(top, dim=-1).indices
    shapes = ", ".join(str(list(t.shape)) for t in found)
    raise InputError(
        f"module {module!r} is no router of {experts} experts: it puts out {shapes}, not scores "
        f"[..., {experts}] or indices below {experts}"
    )
