"""Finalists: the best plans within the budgets get strong recovery and are timed for real."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from scipy.stats import spearmanr

from allot import disk
from allot.clock import Clock, key
from allot.deploy import deploy
from allot.errors import BudgetError
from allot.front import Front, Measured, unbeaten
from allot.measure import Meter
from allot.recover import BY_NAME, STEADY, STRONG, Recovery
from allot.trials import Limits, Spent, Trials

# a plan is timed again when it is delivered: what lies closer to the limit may then break it
_MARGIN = 0.98
_STRENGTHENED, _TIMED, _TRIES = 5, 3, 3
# rank correlation of two recoveries from which the lighter one may decide; plans measured below it
_AGREEING, _MANY = 0.8, 15


def finalists(
    trials: Trials,
    meter: Meter,
    clock: Clock,
    *,
    near: Callable[[Limits], None],
    limits: Mapping[str, float],
    strong: Recovery = STRONG,
    progress: Callable[[float], None] = lambda share: None,
    tell: Callable[[str], None] = lambda text: None,
) -> tuple[Front, Measured | None]:
    """The front after strong recovery, and its best plan within the limits (None without limits).

    Plans that are slower in truth than the table said are put right; when none of the timed ones
    meets a latency limit, the table's limit is tightened by what it was off and further plans are
    measured near it (`near`).
    """
    strengthen(
        trials, meter, limits, recovery=strong, progress=lambda s: progress(0.6 * s), tell=tell
    )
    if "disk" in limits:
        count(trials, meter, limits, strong=strong)
    if "latency" not in limits or not clock.target.timed:
        front = trials.front()
        return front, best_within(front.points, limits)
    aim, sure = dict(limits), {**limits, "latency": _MARGIN * limits["latency"]}
    for attempt in range(_TRIES):
        timed = _time(trials, meter, clock, aim)
        progress(0.6 + 0.4 * (attempt + 1) / _TRIES)
        if any(fits(m, sure) for m in timed):
            break
        off = min((m.bills["latency"] for m in timed), default=limits["latency"])
        aim["latency"] *= min(0.99, sure["latency"] / off)
        try:
            near(aim)
        except (BudgetError, Spent):
            break
    timed = [m for m in trials.plans.values() if m.latency_from == "measured"]
    preferred = best_within(timed, sure) or best_within(timed, limits)
    return with_point(trials.front(), preferred), preferred


def strengthen(
    trials: Trials,
    meter: Meter,
    limits: Mapping[str, float],
    *,
    recovery: Recovery = STRONG,
    progress: Callable[[float], None] = lambda share: None,
    tell: Callable[[str], None] = lambda text: None,
) -> None:
    """The best few plans within limits measured again after strong recovery; the better stays.

    Where the two recoveries do not agree which plans are better, many more are measured so: then
    what the search saw does not tell which plan ends best.  How far they agree is told.
    """
    points = unbeaten(list(trials.plans.values()), sorted(trials.bills))
    within = [m for m in points if fits(m, limits)]
    ranked = sorted(within, key=lambda m: m.divergence)
    pairs: list[tuple[float, float]] = []
    many = _STRENGTHENED
    while len(pairs) < len(ranked[:many]):
        m = ranked[len(pairs)]
        loss = meter.loss(trials.space.options(m.point), recovery=recovery)
        pairs.append((m.divergence, loss.divergence))
        if loss.divergence < m.divergence:
            trials.plans[m.point] = replace(
                m,
                divergence=loss.divergence,
                interval=loss.interval,
                metric=loss.metric,
                recovery=recovery.name,
            )
        progress(len(pairs) / len(ranked[:many]))
        if trials.out_of_time():
            return
        if len(pairs) == _STRENGTHENED:
            agreement = float(spearmanr(pairs).statistic)
            many = _STRENGTHENED if agreement >= _AGREEING else _MANY
            tell(_agreement(agreement, more=len(ranked[:many]) - len(pairs)))


def count(
    trials: Trials, meter: Meter, limits: Mapping[str, float], *, strong: Recovery = STRONG
) -> None:
    """The best few plans within limits with the bytes that their own codes take, entropy coded.

    The table is of the bank's codes; recovery may have rounded them anew.  Plans that turn out
    larger than the limit make room for the next.
    """
    ranked = sorted((m for m in trials.plans.values() if fits(m, limits)), key=_divergence)
    left = _STRENGTHENED
    for m in ranked:
        recovery = strong if m.recovery == strong.name else BY_NAME.get(m.recovery, STEADY)
        standins = meter.standins(trials.space.options(m.point), recovery)
        deployed = deploy(meter.bank.copy(standins), trials.space.graph)
        size = float(disk.file_bytes(deployed, trials.space.graph))
        trials.plans[m.point] = replace(m, bills={**m.bills, "disk": size})
        left -= fits(trials.plans[m.point], limits)
        if not left:
            return


def _divergence(m: Measured) -> float:
    return m.divergence


def _agreement(agreement: float, *, more: int) -> str:
    text = (
        f"losses after the search's recovery and after the strong one: rank correlation "
        f"{agreement:.2f} over the best {_STRENGTHENED} plans"
    )
    return text + (f"; {more} more are recovered so" if more else "")


def _time(
    trials: Trials, meter: Meter, clock: Clock, limits: Mapping[str, float]
) -> list[Measured]:
    """The best few plans within limits with their latency as measured."""
    within = [m for m in trials.plans.values() if fits(m, limits)]
    within = sorted(within, key=lambda m: m.divergence)[:_TIMED]
    plans = {key(m.point): meter.bank.standins(trials.space.options(m.point)) for m in within}
    times = clock.times(plans) if plans else {}
    found = []
    for m in within:
        seconds = times[key(m.point)].ratio * clock.original_s()
        new = replace(m, bills={**m.bills, "latency": seconds}, latency_from="measured")
        trials.plans[m.point] = new
        found.append(new)
    return found


def fits(m: Measured, limits: Mapping[str, float]) -> bool:
    """Whether a measured plan is within all limits."""
    return all(m.bills[k] <= v for k, v in limits.items())


def best_within(points: Sequence[Measured], limits: Mapping[str, float]) -> Measured | None:
    """The plan of least divergence within the limits; None without limits or without a plan."""
    within = [p for p in points if limits and fits(p, limits)]
    return min(within, key=lambda p: p.divergence, default=None)


def with_point(front: Front, m: Measured | None) -> Front:
    """The front with a plan on it that only an estimate beats."""
    if m is None or m in front.points:
        return front
    points = sorted((*front.points, m), key=lambda p: p.divergence)
    return replace(front, points=tuple(points))
