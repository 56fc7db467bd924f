"""Audit: what is doubtful about a calibration set, one sentence for each thing found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from allot.ledger import sample_digests
from allot.opposing import pairs, passed, products
from allot.selection import EXACT
from allot.task import Inputs, Task

# below so many samples the chance of a range exceeded is told
_FEW = 32
# copies: nearer than this share of the median distance, in features and in inputs
_NEAR_FEATURES, _NEAR_INPUTS = 0.02, 0.1
# opposing samples are told of when this share of the squared gradients is theirs
_SHARE = 0.2
_ROWS = 512
# samples named in a sentence
_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something doubtful.  kind: "few samples", "not finite", "constant", "duplicates", "near
    duplicates" or "opposing gradients".  samples: their places in the set, rising.  sentence: what
    it is and what it risks.
    """

    kind: str
    samples: tuple[int, ...]
    sentence: str


def audited(task: Task, *, batch: int = 128) -> tuple[Finding, ...]:
    """What is doubtful about the task's calibration set; the audit of a good set is empty.

    Costs one pass over the set (and more where the last layer is not linear, see
    `allot.opposing.by_autograd`).  Samples that are not finite are left out of what needs the
    network.  Near duplicates take n^2 distances.
    """
    data = task.calibrate
    found = [few(len(data)), not_finite(data.inputs), constant(data.inputs)]
    found.append(duplicates(data.inputs))
    places = _finite(data.inputs).nonzero()[:, 0]
    if len(places) > 1:
        good = data.subset(places)
        seen = passed(task, good, batch=batch)
        found.append(near_duplicates(good.inputs, seen.outputs, places=places))
        gram = products(task, good, seen)
        found.append(None if gram is None else opposing(gram, places=places))
    return tuple(f for f in found if f is not None)


def few(n: int) -> Finding | None:
    """A range set by the largest of n samples is exceeded by the next one with chance 1/(n + 1),
    if samples are alike in distribution and drawn independently of each other (exchangeable).
    """
    if n >= _FEW:
        return None
    said = "a single sample" if n == 1 else f"{n} samples"
    return Finding(
        kind="few samples",
        samples=tuple(range(n)),
        sentence=(
            f"there is {said} to calibrate on: an unseen one exceeds any range set by the largest "
            f"value seen with a chance of 1 in {n + 1}, and statistics are as noisy as that; "
            f"give {_FEW} or more"
        ),
    )


def not_finite(inputs: Inputs) -> Finding | None:
    """Samples that hold NaN or infinite values."""
    bad = (~_finite(inputs)).nonzero()[:, 0].tolist()
    if not bad:
        return None
    sentence = f"{_these(bad)} NaN or infinite values; no statistic of them means anything"
    return Finding(kind="not finite", samples=tuple(bad), sentence=sentence)


def constant(inputs: Inputs) -> Finding | None:
    """Samples in which every input tensor holds one value throughout, such as blank images."""
    rows = [t.cpu().flatten(1) for t in _tensors(inputs)]
    same = torch.stack([(x == x[:, :1]).all(1) for x in rows]).all(0)
    blank = same.nonzero()[:, 0].tolist() if max(x.shape[1] for x in rows) > 1 else []
    if not blank:
        return None
    sentence = f"{_these(blank)} one value throughout; ranges and second moments learn nothing"
    return Finding(kind="constant", samples=tuple(blank), sentence=sentence)


def duplicates(inputs: Inputs) -> Finding | None:
    """Samples that are bit for bit one that came before."""
    seen: set[str] = set()
    again = []
    for i, digest in enumerate(sample_digests(inputs)):
        if digest in seen:
            again.append(i)
        seen.add(digest)
    if not again:
        return None
    n = len(sample_digests(inputs))
    sentence = (
        f"{_these(again)} what an earlier sample holds, bit for bit: there are {n - len(again)} "
        f"different samples and not {n}, and the copies count twice in every statistic"
    )
    return Finding(kind="duplicates", samples=tuple(again), sentence=sentence)


def near_duplicates(inputs: Inputs, x: Tensor, *, places: Tensor) -> Finding | None:
    """Samples almost equal to one that came before, in features x [n, d] and in their inputs.

    Both distances are small against their medians over all pairs, such as those of one image
    stored twice; in a space of few features alone, independent samples come as near.  places: of
    the samples in the whole set [n].
    """
    digests = sample_digests(inputs)
    rows = torch.cat([t.cpu().flatten(1).double() for t in _tensors(inputs)], 1)
    scale, wide = _middle(x), _middle(rows)
    again: set[int] = set()
    for some in _near(x, _NEAR_FEATURES * scale):
        i, j = some.T
        near = (rows[i] - rows[j]).norm(dim=1) < _NEAR_INPUTS * wide
        again |= {b for a, b in some[near].tolist() if digests[a] != digests[b]}
    if not again:
        return None
    samples = places[sorted(again)].tolist()
    sentence = (
        f"{_these(samples)} almost what an earlier sample holds, for the network as well: "
        "what is seen twice counts twice in every statistic"
    )
    return Finding(kind="near duplicates", samples=tuple(samples), sentence=sentence)


def opposing(gram: Tensor, *, places: Tensor) -> Finding | None:
    """Samples of outlying gradients against each other, where they hold a fifth or more of all
    squared gradients, which is their share in a Fisher information; gram: products [n, n].

    places: of the samples in the whole set, n or more.
    """
    found = pairs(gram)
    samples = found.unique()
    squares = gram.diagonal()
    share = float(squares[samples].sum() / squares.sum()) if len(found) else 0.0
    if share < _SHARE:
        return None
    named = places[samples].tolist()
    sentence = (
        f"{_these(named)} gradients that point against each other ({len(found)} pairs) and are "
        f"{share:.0%} of all squared gradients: every signal made of gradients is theirs; look at "
        "their labels"
    )
    return Finding(kind="opposing gradients", samples=tuple(named), sentence=sentence)


def _near(x: Tensor, within: float) -> Iterator[Tensor]:
    """Pairs [m, 2] of rows i < j that are nearer than that, or equal, a few at a time."""
    for start, rows in enumerate(x.split(_ROWS)):
        away = torch.cdist(rows, x, compute_mode=EXACT)
        found = ((away < within) | (away == 0)).nonzero() + torch.tensor([start * _ROWS, 0])
        yield from found[found[:, 0] < found[:, 1]].split(_ROWS)


def _middle(x: Tensor) -> float:
    """Median distance of a row from the one half the set further: [n, d], n > 1."""
    return float((x - x.roll(len(x) // 2, 0)).norm(dim=1).median())


def _finite(inputs: Inputs) -> Tensor:
    """Which samples have finite values only: bool [n]."""
    return torch.stack([t.cpu().flatten(1).isfinite().all(1) for t in _tensors(inputs)]).all(0)


def _tensors(inputs: Inputs) -> list[Tensor]:
    return [inputs] if isinstance(inputs, Tensor) else list(inputs.values())


def _these(samples: Sequence[int]) -> str:
    """The start of a sentence: which samples hold (what follows)."""
    first = ", ".join(map(str, samples[:_NAMED]))
    if len(samples) == 1:
        return f"calibration sample {first} holds"
    more = f" and {len(samples) - _NAMED} more" if len(samples) > _NAMED else ""
    return f"{len(samples)} calibration samples ({first}{more}) hold"
