"""Laws that every searcher keeps, on spaces whose truth is a formula."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from allot.table import Table
from allot.trials import Spent, Trials
from tests import synthetic

Searcher = Callable[..., None]

COUNTS = (3, 2, 3, 3, 2)
TAILS = (1.0, 0.8, 0.5, 0.3, 0.1)


def ran(
    searcher: Searcher,
    trials: Trials,
    harm: Sequence[Table] | None = None,
    *,
    seed: int = 0,
) -> Trials:
    """The trials after the searcher, with the measured one-at-a-time harm where none is given."""
    truth = trials.evaluator.truth  # type: ignore[attr-defined]
    try:
        searcher(trials, harm=[truth.alone(), truth.fisher()] if harm is None else harm, seed=seed)
    except Spent:
        pass
    return trials


def keeps_its_budget(searcher: Searcher) -> None:
    """Never more F than allowed, with and without replays; what it measures is of the space."""
    truth = synthetic.truth(COUNTS, third=0.3, destructive=(2,))
    for most, tails in ((0.0, ()), (5.5, TAILS), (17.0, ()), (23.25, TAILS)):
        trials = ran(searcher, synthetic.trials(truth, evaluations=most, tails=tails))
        assert trials.evaluator.spent <= most + 1e-9
        assert set(trials.plans) <= set(truth.points)


def repeats_itself(searcher: Searcher) -> None:
    """The same seed gives the same plans in the same order."""
    truth = synthetic.truth(COUNTS, third=0.3)
    first, again = (ran(searcher, synthetic.trials(truth, evaluations=30)) for _ in range(2))
    assert first.trace == again.trace


def is_never_better_than_the_best(searcher: Searcher) -> None:
    """No plan found is below the optimum by brute force, with one bill and with two."""
    truth = synthetic.truth(COUNTS, third=0.3, destructive=(0,))
    for products in (False, True):
        trials = ran(searcher, synthetic.trials(truth, evaluations=40, products=products))
        for limits in trials.levels:
            found = trials.best(limits)
            assert found is None or found.divergence >= truth.best(trials.bills, limits)[1] - 1e-12


def ends(searcher: Searcher) -> None:
    """Without a limit of F it comes to an end by itself, with a plan for every level."""
    truth = synthetic.truth(COUNTS, third=0.3)
    trials = ran(searcher, synthetic.trials(truth))
    assert all(trials.best(limits) is not None for limits in trials.levels)


LAWS = (keeps_its_budget, repeats_itself, is_never_better_than_the_best, ends)
