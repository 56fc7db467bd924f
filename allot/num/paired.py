"""Exact upper confidence bounds on a paired loss: accuracy drop, share of changes, mean.

Every bound holds with at least the stated confidence for every population and every n; none
rests on a normal approximation.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import betainc, betaincinv, gammaln, xlog1py, xlogy

Array = NDArray[np.float64]

# of the allowed error, the part that pays for bounding the unknown discordant share
NUISANCE = 0.05
# covers truncated tails, and per sample the rounding of log factorials
SLACK = 1e-9
ROUNDING = 1e-14
# width of the cells of discordant share above 1/2
CELL = 1 / 32
# of every bound
PRECISION = 1e-9
# a bet never risks more than this of the capital
RISK = 0.75


def drop_bound(b: int, c: int, n: int, *, confidence: float = 0.95) -> float:
    """Upper bound on theta = P(only the original is right) - P(only the compressed is right).

    b, c: how often the one and the other happened in n independent paired samples.  Returned is
    the least t in [-1, 1] (to 1e-9, rounded up) whose `drop_p_value` is at most 1 - confidence.
    It rises with b and falls with c.
    """
    return _least(
        lambda t: drop_p_value(b, c, n, t, confidence=confidence), 1 - confidence, (b - c) / n
    )


def drop_p_value(b: int, c: int, n: int, drop: float, *, confidence: float = 0.95) -> float:
    """p-value of "theta >= drop"; at most 1 - confidence exactly where `drop_bound` <= drop.

    Exact unconditional test with the statistic s = b - c, a sum of n independent values in
    {-1, 0, 1}.  The share of discordant samples is a nuisance; it is confined to [|drop|, U], U
    its Clopper-Pearson bound at a small error, which is added to the supremum of P(S <= s) over
    that set (Berger and Boos 1994).  See `_supremum` for why the supremum is not a grid's.
    `confidence` sets only how the error is divided.
    """
    if drop >= 1:
        return 0.0
    if drop <= -1:
        return 1.0
    spent = NUISANCE * (1 - confidence)
    most = share_bound(b + c, n, confidence=1 - spent)
    return min(1.0, spent + _supremum(b - c, n, drop, most))


def share_bound(k: int, n: int, *, confidence: float = 0.95) -> float:
    """Upper bound on a probability from k hits in n samples (Clopper and Pearson 1934)."""
    if k == n:
        return 1.0
    return float(betaincinv(k + 1, n - k, confidence))


def _supremum(s: int, n: int, t: float, most: float) -> float:
    """Bound on P(S <= s) over all populations with theta >= t and discordant share p <= most.

    At a fixed p a larger theta makes S larger, so theta = t is the worst (for t < 0 and p < |t|,
    p = |t|).  The derivative in p at fixed t is n/2 (f(s+1) - f(s)), f the pmf of the sum of
    n - 1.  For p <= 1/2 the polynomial of one step has real roots, so f is that of a sum of
    independent Bernoulli variables, unimodal with its mode less than 1 from the mean (n-1) t
    (Darroch 1964): for s + 2 <= (n-1) t the worst p is the largest.  Below that t, 1 is
    returned: U is never so small that a bound could lie there (but for n < 9).
    Above 1/2 parity breaks the argument.  There p runs through cells [l, h], in each of which
    P(S <= s) is at most that of the corner with (l + t)/2 steps up and (h - t)/2 steps down.
    """
    if (n - 1) * t < s + 2:
        return 1.0
    point = max(abs(t), min(most, 0.5))
    edges = np.append(np.arange(0.5, most, CELL), most) if most > 0.5 else np.zeros(1)
    low, high = np.maximum(edges[:-1], abs(t)), edges[1:]
    low, high = low[high >= abs(t)], high[high >= abs(t)]
    up, down = np.append(low, point) + t, np.append(high, point) - t
    return float(_at_most(s, n, up / 2, down / 2).max())


def _at_most(s: int, n: int, up: Array, down: Array) -> Array:
    """P(S <= s) for n steps of +1 with probability up [k], -1 with down [k], else 0: [k].

    Given the number m of steps that move, the ups are binomial.  m runs over a window outside
    of which lies less than 1e-12 of its mass (Bernstein's inequality).
    """
    p = up + down
    reach = 10 + np.sqrt(100 + 60 * n * p * (1 - p))
    first = np.maximum(np.floor(n * p - reach), 0)
    m = first[:, None] + np.arange(min(n, int(2 * reach.max()) + 2) + 1)
    inside = m <= n
    m = np.minimum(m, n)
    logs = gammaln(n + 1) - gammaln(m + 1) - gammaln(n - m + 1)
    logs += xlogy(m, p[:, None]) + xlog1py(n - m, -p[:, None])
    ups = np.floor((s + m) / 2)
    share = np.divide(up, p, out=np.zeros_like(p), where=p > 0)[:, None]
    tail = betainc(np.maximum(m - ups, 1), np.maximum(ups, 0) + 1, 1 - share)
    below = np.where(ups < 0, 0.0, np.where(ups >= m, 1.0, tail))
    return (inside * np.exp(logs) * below).sum(1) + SLACK + n * ROUNDING


def mean_bound(losses: Array, *, confidence: float = 0.95) -> float:
    """Upper bound on the mean of independent losses [n] in [0, 1]: [n] -> number.

    The least mean at which a gambler who bets against it multiplies the stake by
    1 / (1 - confidence) at some time (Waudby-Smith and Ramdas 2024); depends on the order of
    the samples, which therefore has to be fixed beforehand.
    """
    return _least(lambda m: mean_p_value(losses, m, confidence=confidence), 1 - confidence, 0.0)


def mean_p_value(losses: Array, mean: float, *, confidence: float = 0.95) -> float:
    """p-value of "the mean of the losses [n] is >= mean", 1 / the greatest capital reached.

    Bets are the predictable plug-in of the paper's section 4.2, for n samples, cut so that no
    bet risks more than 3/4 of the capital; so the capital rises with `mean`.  `confidence` sets
    only the size of the bets.
    """
    if mean >= 1:
        return 0.0
    if mean <= 0:
        return 1.0
    gains = 1 - np.asarray(losses, dtype=np.float64)
    n = len(gains)
    count = np.arange(1, n + 1)
    means = (0.5 + np.cumsum(gains)) / (count + 1)
    spreads = (0.25 + np.cumsum((gains - means) ** 2)) / (count + 1)
    before = np.concatenate([[0.25], spreads[:-1]])
    stakes = np.sqrt(2 * math.log(1 / (1 - confidence)) / (n * before))
    bets = np.minimum(stakes, RISK / (1 - mean))
    capital = np.cumsum(np.log1p(bets * (gains - (1 - mean))))
    return float(math.exp(-max(0.0, capital.max())))


def _least(p_value: Callable[[float], float], alpha: float, low: float) -> float:
    """Least t in [low, 1] (to 1e-9, rounded up) at which a falling p-value is at most alpha."""
    if p_value(low) <= alpha:
        return low
    t = float(brentq(lambda t: p_value(t) - alpha, low, 1.0, xtol=PRECISION))
    step = PRECISION
    while p_value(t) > alpha:
        t, step = min(t + step, 1.0), 2 * step
    return t


def drop_interval(b: int, c: int, n: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Two-sided interval of theta (see `drop_bound`): each side misses half as often."""
    each = (1 + confidence) / 2
    return -drop_bound(c, b, n, confidence=each), drop_bound(b, c, n, confidence=each)
