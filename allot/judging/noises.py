"""Noises: what samplers start from, in sets for calibration, search and proof that share none."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from allot.errors import DataError, InputError
from allot.ledger import sample_digests
from allot.task import Data

NOISE = "noise"


def drawn(
    n: int,
    shape: Sequence[int],
    *,
    purpose: str,
    seed: int = 0,
    conditions: Mapping[str, Tensor] | None = None,
) -> Data:
    """n starting noises of a shape, and conditions for them: {"noise": [n, *shape], ...}.

    purpose: names the stream of random numbers, so that "calibrate", "search" and "certify" of one
    seed differ.  conditions: name -> [m, ...], rows
    that belong together (a class; a text's embedding and its mask); every row is used equally
    often, up to one, in mixed order.  Raises InputError for no samples, for conditions of unequal
    length or named "noise".
    """
    rows = dict(conditions or {})
    lengths = {len(v) for v in rows.values()}
    if n < 1 or len(lengths) > 1 or lengths == {0} or NOISE in rows:
        raise InputError(
            f"{n} noises with conditions { {k: list(v.shape) for k, v in rows.items()} } cannot be "
            f"drawn: at least one noise, and conditions of one length [m, ...] not named {NOISE!r}"
        )
    noise = torch.randn(n, *shape, generator=_stream(seed, purpose, NOISE))
    if not rows:
        return Data(inputs={NOISE: noise})
    index = stratified(n, lengths.pop(), _stream(seed, purpose, "conditions"))
    return Data(inputs={NOISE: noise, **{k: v[index] for k, v in rows.items()}})


def stratified(n: int, of: int, generator: torch.Generator) -> Tensor:
    """n indices below `of` in blocks that hold every index once, each in its own order: [n]."""
    order = [torch.randperm(of, generator=generator) for _ in range(-(-n // of))]
    return torch.cat(order)[:n]


def check_disjoint(sets: Mapping[str, Data]) -> None:
    """Raises DataError where two sets start from one and the same noise, whatever its condition.

    Checked by what the noises are, not by how they were made.
    """
    seen: dict[str, str] = {}
    for name, data in sets.items():
        if not isinstance(data.inputs, dict) or NOISE not in data.inputs:
            raise DataError(f"the {name} set has no input named {NOISE!r}")
        digests = sample_digests(data.inputs[NOISE])
        for d in digests:
            if d in seen:
                raise DataError(
                    f"a noise of the {name} set is in the {seen[d]} set too; draw them with "
                    "different purposes or seeds"
                )
        seen |= dict.fromkeys(digests, name)


def _stream(seed: int, *names: str) -> torch.Generator:
    text = "/".join((str(seed), *names))
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
    return torch.Generator().manual_seed(number)
