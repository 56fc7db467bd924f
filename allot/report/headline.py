"""The headline: what was asked and what was reached, in five numbers and one sentence."""

from __future__ import annotations

from collections.abc import Callable

from allot.report import text
from allot.report.data import ReportData
from allot.report.text import esc

# kind of certificate -> name of its tile, and what is bounded in a sentence
LOSS = ("Loss on unseen data", "the loss")
BOUNDED = {
    "disagreement": ("Changed predictions", "the share of changed predictions"),
    "mean error": ("Error of unseen samples", "the feature error"),
}
BILLS: tuple[tuple[str, str, Callable[[float | None], str]], ...] = (
    ("size", "Size", text.size),
    ("latency", "Latency", text.seconds),
    ("bitops", "BitOPs", text.count),
)


def headline(data: ReportData) -> str:
    """The title, the verdict and the tiles."""
    load = data.summary.get("workload") or {}
    about = [str(data.summary[k]) for k in ("target", "created") if data.summary.get(k)]
    if load:
        threads = load.get("threads", 1)
        words = f"{threads} thread" + ("s" if threads != 1 else "")
        about.insert(1 if data.summary.get("target") else 0, f"batch {load.get('batch')}, {words}")
    tiles = [_bill(data, *b) for b in BILLS] + [_metric(data), _bound(data)]
    return (
        f'<header><p class="brand">allot <span>report</span></p><h1>{esc(data.task)}</h1>'
        f'<p class="about">{esc(" · ".join(about))}</p></header>'
        f'<p class="verdict">{verdict(data)}</p><div class="tiles">{"".join(tiles)}</div>'
    )


def verdict(data: ReportData) -> str:
    """One sentence on what was reached, or on why nothing was written; HTML."""
    if not data.compressed:
        return _refused(data)
    parts = []
    for key, _, show in BILLS[:2]:
        now, share = data.compressed.get(key), _share(data, key)
        if share is not None:
            parts.append(f"<b>{esc(show(now))}</b> ({text.percent(share)} of the original)")
    start = "The compressed network takes " + " and ".join(parts) if parts else "It was compressed"
    before, after = data.original.get("metric"), data.compressed.get("metric")
    change = f"its {esc(data.metric)} went from {text.percent(before, 2)} to "
    change += f"<b>{text.percent(after, 2)}</b>"
    return f"{start}; {change}. {_promise(data)}{_misses(data)}"


def _promise(data: ReportData) -> str:
    c = data.certificate
    if not c:
        return "Nothing is certified about unseen data."
    allowed = f"{text.points(c.get('max_drop'))} allowed"
    _, loss = BOUNDED.get(str(c.get("kind")), LOSS)
    if c.get("certified"):
        return (
            f"With {text.percent(c.get('confidence'), 0)} confidence {loss} on data like those "
            f"it was tested on is at most <b>{text.points(data.claim)} points</b> ({allowed})."
        )
    bound = text.points(c.get("bound"))
    return f"<b>Not certified</b>: {loss} is bounded by {bound} points only ({allowed})."


def _misses(data: ReportData) -> str:
    late = [key for key, *_ in BILLS if _met(data, key) is False]
    return f" The budget for {esc(' and '.join(late))} was <b>missed</b>." if late else ""


def _refused(data: ReportData) -> str:
    allowed = text.points(data.summary.get("max_drop"))
    first = (
        f"<b>No plan was proven</b> to lose at most {allowed} points of {esc(data.metric)}, "
        "so no artefact was written."
    )
    if not data.bounds:
        return first
    nearest = min(data.bounds, key=lambda i: data.bounds[i])
    return (
        f"{first} Nearest is point {nearest}, whose loss is bounded by "
        f"{text.points(data.bounds[nearest])} points."
    )


def _limit(data: ReportData, key: str) -> float | None:
    return ((data.summary.get("budgets") or {}).get(key) or {}).get("limit")


def _met(data: ReportData, key: str) -> bool | None:
    """Whether a budget was kept; None where there is none or nothing was measured."""
    limit, now = _limit(data, key), data.compressed.get(key)
    return None if limit is None or now is None else bool(now <= limit)


def _share(data: ReportData, key: str) -> float | None:
    return text.ratio(data.compressed.get(key), data.original.get(key))


def _bill(data: ReportData, key: str, name: str, show: Callable[[float | None], str]) -> str:
    limit, share = _limit(data, key), _share(data, key)
    was = data.original.get(key)
    if data.compressed.get(key) is None and limit is None:
        return ""
    change = (
        f"{text.percent(share)} of {show(was)}" if share is not None else f"original {show(was)}"
    )
    asked, met = "no budget", _met(data, key)
    if limit is not None:
        given = str(data.summary["budgets"][key].get("asked") or "")
        same = given.replace(" ", "") == show(limit).replace(" ", "")
        asked = f"asked {show(limit)}" + (
            f" ({given.replace('%', ' %')})" if given and not same else ""
        )
    gauge = _gauge(share, text.ratio(limit, was))
    return _tile(name, show(data.compressed.get(key)), change, gauge, asked, met)


def _metric(data: ReportData) -> str:
    before, after = data.original.get("metric"), data.compressed.get("metric")
    moved = text.signed(text.moved(before, after))
    interval = text.span(data.compressed.get("metric_interval"))
    n = data.original.get("n")
    asked = ", ".join([*([interval] if interval else []), *([f"n = {n}"] if n else [])])
    shown = text.percent(after, 2)
    change = "original" if after is None else f"{moved} from"
    return _tile(data.metric, shown, f"{change} {text.percent(before, 2)}", "", asked)


def _bound(data: ReportData) -> str:
    c = data.certificate
    if not c:
        return _tile("Loss on unseen data", "not proven", "there is no certificate", "", "")
    proven, bound, allowed = bool(c.get("certified")), c.get("bound"), c.get("max_drop")
    name, _ = BOUNDED.get(str(c.get("kind")), LOSS)
    change = f"points at {text.percent(c.get('confidence'), 0)}"
    gauge = _gauge(text.ratio(bound, 1.6 * allowed) if allowed else None, 1 / 1.6)
    alone = f"; alone {text.points(bound)}" if proven and data.claim != bound else ""
    asked = f"asked {text.points(allowed)}{alone}"
    return _tile(name, "≤ " + text.points(data.claim), change, gauge, asked, proven)


def _gauge(share: float | None, limit: float | None) -> str:
    """A thin bar of a share of the original, with a mark at the budget."""
    if share is None:
        return ""
    mark = ""
    if limit is not None and limit <= 1:
        mark = f'<b style="left:{100 * limit:.2f}%"></b>'
    width = min(max(100 * share, 0.5), 100)
    return f'<div class="gauge"><i style="width:{width:.2f}%"></i>{mark}</div>'


def _tile(
    name: str, value: str, change: str, gauge: str, asked: str, met: bool | None = None
) -> str:
    badge = ""
    if met is not None:
        badge = f'<span class="{"met" if met else "missed"}">{"✓" if met else "missed"}</span>'
    return (
        f'<div class="tile"><h3>{esc(name)}</h3><p class="big">{esc(value)}</p>'
        f'<p class="change">{esc(change)}</p>{gauge or "<div class=nogauge></div>"}'
        f'<p class="asked">{esc(asked)} {badge}</p></div>'
    )
