"""Certificate: what is proven about unseen data, from samples that no earlier step has seen."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from allot.errors import ArtefactError, DataError, InputError
from allot.ledger import Ledger as Ledger
from allot.ledger import sample_digests as sample_digests
from allot.num.paired import drop_bound, mean_bound, share_bound

Array = NDArray[np.float64]

VERSION = 1
DROP = "metric drop"
CHANGE = "disagreement"
ERROR = "mean error"


@dataclass(frozen=True, kw_only=True)
class Statement:
    """What is claimed of one compressed network, with which confidence, from which samples.

    kind: "metric drop" (the mean of `metric` falls by at most ...), "disagreement" (at most this
    share of predictions changes) or "mean error" (the mean of `metric` is at most ...).  bound,
    drop, max_drop [points, 100 = all]: the upper bound of this network alone, what was observed,
    what was allowed.  lost, gained: samples on which the compressed network is worse, better (of a
    disagreement: changed, 0; of an error: above what was allowed, 0).  data: name of what the
    samples were drawn from.  place: in a fixed sequence, from 1; 0 outside of one.
    """

    kind: str
    metric: str
    n: int
    confidence: float
    bound: float
    drop: float
    lost: int
    gained: int
    max_drop: float
    data: str = ""
    place: int = 0

    @property
    def certified(self) -> bool:
        return self.bound <= self.max_drop

    @property
    def claim(self) -> float:
        """What holds of unseen data [points] with the confidence stated.

        `bound` for a network tested alone.  In a sequence the network was picked by the same
        samples; there it is what was tested, `max_drop`, and 100 where that was not proven.
        """
        if not self.place:
            return self.bound
        return self.max_drop if self.certified else 100.0

    @property
    def text(self) -> str:
        """Two plain sentences: what is claimed or not proven, and what is not covered."""
        verdict = "Certified" if self.certified else "Not proven"
        limit = self.bound if self.certified and not self.place else self.max_drop
        return (
            f"{verdict} with {100 * self.confidence:g} % confidence: on data drawn like the "
            f"{self.n} samples of {self.data or 'the certify set'}, {_claim(self, limit)} "
            f"({_seen(self)}; bound of this network alone {_up(self.bound)}). It says nothing "
            "about another data distribution, inputs prepared in another way or a runtime other "
            "than the one whose predictions were used."
        )

    def dump(self) -> dict[str, Any]:
        derived = {"certified": self.certified, "claim": self.claim, "text": self.text}
        return {"version": VERSION, **asdict(self), **derived}


def _claim(statement: Statement, limit: float) -> str:
    if statement.kind == CHANGE:
        return f"at most {_up(limit)} % of the predictions differ from the original's"
    if statement.kind == ERROR:
        return f"the mean {statement.metric} is at most {_up(limit)} (0 equal, 100 nothing alike)"
    where = f"at most {_up(limit)} points below"
    if limit < 0:
        where = f"at least {math.floor(1e-6 - 100 * limit) / 100:.2f} points above"
    return f"the {statement.metric} of the compressed network is {where} the original's"


def _seen(statement: Statement) -> str:
    if statement.kind == CHANGE:
        return f"seen {statement.drop:.2f}: {statement.lost} samples"
    if statement.kind == ERROR:
        return f"seen {statement.drop:.2f}: {statement.lost} samples above {statement.max_drop:g}"
    worse, better = statement.lost, statement.gained
    return f"seen {statement.drop:.2f}: {worse} samples worse, {better} better"


def _up(points: float) -> str:
    """Two decimals, never below the number itself."""
    return f"{math.ceil(100 * points - 1e-6) / 100:.2f}"


def load(data: Any) -> Statement:
    """The statement that `dump` wrote; raises ArtefactError if damaged or of another version."""
    if not isinstance(data, dict) or data.get("version") != VERSION:
        raise ArtefactError(f"not a certificate of version {VERSION}")
    derived = ("version", "certified", "claim", "text")
    try:
        statement = Statement(**{k: v for k, v in data.items() if k not in derived})
        same = statement.dump() == data
    except (TypeError, ValueError) as e:
        raise ArtefactError(f"the certificate is damaged: {e}") from e
    if not same:
        raise ArtefactError("the certificate's verdict or text does not follow from its numbers")
    return statement


def state(
    original: ArrayLike,
    compressed: ArrayLike,
    *,
    max_drop: float,
    metric: str,
    confidence: float = 0.95,
    data: str = "",
) -> Statement:
    """Statement on the drop of a metric from paired per-sample scores [n], [n] in [0, 1].

    max_drop [points].  Scores that are all 0 or 1 take the exact test of discordant pairs, any
    others the betting bound on the mean of (1 + original - compressed) / 2, in the order given.
    data: name of what the samples were drawn from.  Raises DataError for scores that are empty,
    misshapen, not finite or outside [0, 1], InputError for an impossible confidence.
    """
    a, b = _scores(original), _scores(compressed)
    _check_pair(a, b, confidence)
    lost, gained = int((a > b).sum()), int((a < b).sum())
    if np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all():
        bound = drop_bound(lost, gained, len(a), confidence=confidence)
    else:
        bound = 2 * mean_bound((1 + a - b) / 2, confidence=confidence) - 1
    return Statement(
        kind=DROP,
        metric=metric,
        n=len(a),
        confidence=confidence,
        bound=100 * bound,
        drop=100 * float((a - b).mean()),
        lost=lost,
        gained=gained,
        max_drop=max_drop,
        data=data,
    )


def state_agreement(
    original: ArrayLike,
    compressed: ArrayLike,
    *,
    max_drop: float,
    metric: str = "agreement with the original",
    confidence: float = 0.95,
    data: str = "",
) -> Statement:
    """Statement on the share of changed predictions [n], [n]; needs no labels (see `state`).

    Where labels exist, a bound on the changed share bounds the accuracy drop too.
    """
    a, b = np.asarray(original), np.asarray(compressed)
    _check_pair(a, b, confidence)
    changed = int((a != b).sum())
    return Statement(
        kind=CHANGE,
        metric=metric,
        n=len(a),
        confidence=confidence,
        bound=100 * share_bound(changed, len(a), confidence=confidence),
        drop=100 * changed / len(a),
        lost=changed,
        gained=0,
        max_drop=max_drop,
        data=data,
    )


def _scores(scores: ArrayLike) -> Array:
    a = np.asarray(scores, dtype=np.float64)
    if not np.isfinite(a).all() or (a < 0).any() or (a > 1).any():
        raise DataError("per-sample scores to certify must be finite and lie in [0, 1]")
    return a


def _check_pair(a: NDArray[Any], b: NDArray[Any], confidence: float) -> None:
    if not 0 < confidence < 1:
        raise InputError(f"a confidence lies between 0 and 1, as 0.95; {confidence} was given")
    if a.ndim != 1 or a.shape != b.shape or not len(a):
        raise DataError(
            f"certifying needs one value per sample of both networks, [n] and [n], n >= 1; "
            f"{list(a.shape)} and {list(b.shape)} were given"
        )


def fixed_sequence(statements: Iterable[Statement]) -> Iterator[Statement]:
    """Learn then test: certified statements from safest to cheapest, then the first that fails.

    Each hypothesis is tested at the full error; since testing stops at the first failure, all
    certified are right at once with the stated confidence (fixed-sequence testing, Angelopoulos
    et al. 2021).  The order must not depend on the certify samples.  What comes after the
    failure is never drawn from `statements`, so a generator that evaluates plans is lazy.
    """
    for place, statement in enumerate(statements, 1):
        yield replace(statement, place=place)
        if not statement.certified:
            return


def smallest_provable_drop(
    n: int, *, confidence: float = 0.95, discordant_share: float = 0.0
) -> float:
    """Least max-drop [points] that n samples can prove when equally many are lost and gained.

    discordant_share: expected share of samples on which exactly one network is right; at 0 no
    sample changes, which is the best case.  Raises DataError for n < 1.
    """
    if n < 1:
        raise DataError(f"a certificate needs at least one sample; there are {n}")
    half = math.ceil(discordant_share * n / 2)
    return 100 * drop_bound(half, min(half, n - half), n, confidence=confidence)


def samples_needed(
    max_drop: float, *, confidence: float = 0.95, discordant_share: float = 0.0
) -> int:
    """Samples that suffice to prove max_drop [points] at equal accuracy (see above).

    Raises InputError for a drop that no number of samples below 2^22 proves.
    """
    low, high = 0, 1
    while (
        smallest_provable_drop(high, confidence=confidence, discordant_share=discordant_share)
        > max_drop
    ):
        low, high = high, 2 * high
        if high > 2**22:
            raise InputError(f"a drop of {max_drop} points cannot be proven; allow more than 0")
    while high - low > 1:
        n = (low + high) // 2
        provable = smallest_provable_drop(
            n, confidence=confidence, discordant_share=discordant_share
        )
        low, high = (low, n) if provable <= max_drop else (n, high)
    return high
