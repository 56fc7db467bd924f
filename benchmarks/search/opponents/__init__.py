"""Opponents: published ways to search, each with the signals that it chooses by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from allot.searchers.bisect import floors, listed
from allot.searchers.ensemble import dele
from allot.searchers.evolve import nsga2
from allot.searchers.knapsack import verified
from allot.searchers.predictor import predicted, ridge
from benchmarks.search.opponents.evopress import evopress
from benchmarks.search.opponents.greedy import remeasured
from benchmarks.search.opponents.modelopt import gradient, least_worst
from benchmarks.search.opponents.plain import random, uniform


@dataclass(frozen=True, kw_only=True)
class Opponent:
    """One published way to search.

    signals: names of the tables that it is given as `harm`, in this order; what they take counts.
    single_level: to be given one level at a time, each with a budget of its own.
    """

    name: str
    signals: tuple[str, ...] = ()
    searcher: Callable[..., None]
    single_level: bool = False


# Integer and dynamic programs over a separable table are both exact and choose the same plans, so
# that one solver stands for the integer programs of HAWQ-V3, AdaQuant, LRP-QViT, ModelOpt and
# CLADO and for the dynamic programs of ZeroQ, AutoRound and HIGGS. All are given what few of them
# do: their plans are measured, and what is left of the budget goes to their next best ones. The
# one with Fisher pairs is not published in this form; it shows what the closed loop adds to them.
ALL = (
    Opponent(name="one at a time + knapsack", signals=("one_at_a_time",), searcher=verified),
    Opponent(name="Fisher pairs + knapsack", signals=("fisher",), searcher=verified),
    Opponent(name="HAWQ-V3", signals=("hawq",), searcher=verified),
    Opponent(name="ZeroQ", signals=("zeroq",), searcher=verified),
    Opponent(name="AdaQuant", signals=("adaquant",), searcher=verified),
    Opponent(name="AutoRound", signals=("autoround",), searcher=verified),
    Opponent(name="LRP-QViT", signals=("lrp",), searcher=verified),
    Opponent(name="HIGGS", signals=("higgs",), searcher=verified),
    Opponent(name="CLADO", signals=("clado",), searcher=verified),
    Opponent(name="CLADO, psd", signals=("clado_psd",), searcher=verified),
    Opponent(name="ModelOpt gradient", signals=("modelopt",), searcher=gradient),
    Opponent(name="ModelOpt KL", signals=("modelopt_kl",), searcher=least_worst),
    Opponent(name="augmented Hessian", signals=("augmented",), searcher=floors),
    Opponent(name="AIMET AMP", signals=("one_at_a_time",), searcher=listed),
    Opponent(name="greedy re-measured", searcher=remeasured),
    Opponent(name="EvoPress, split", searcher=evopress),
    Opponent(name="EvoPress", searcher=evopress, single_level=True),
    Opponent(name="NSGA-II", searcher=nsga2),
    Opponent(name="AMQ", searcher=predicted),
    Opponent(name="SimQ-NAS", searcher=partial(predicted, fit=ridge)),
    Opponent(name="DELE", signals=("one_at_a_time", "modelopt", "autoround"), searcher=dele),
    Opponent(name="random", searcher=random),
    Opponent(name="uniform", searcher=uniform),
)
