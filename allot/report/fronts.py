"""The front: measured plans in three charts and one table, the chosen one marked."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from allot.report import text
from allot.report.data import ReportData
from allot.report.headline import BILLS
from allot.report.layers import shade
from allot.report.svg import Dot, Frame, scatter
from allot.report.text import esc

STATES = {True: "yes", False: "no", None: "untested"}
WORDS = {"yes": "certified", "no": "not certified", "untested": "not tested"}
UNCHANGED = ("float", "keep1", "keep1.0")


def front_section(data: ReportData) -> str:
    """Charts of divergence against every bill there is, their legend, the table of points."""
    if not data.points:
        return ""
    keys = [k for k, *_ in BILLS if any(p["bills"].get(k) is not None for p in data.points)]
    charts = [chart([data], key, large=i == 0) for i, key in enumerate(keys)]
    main, rest = (charts[0], charts[1:]) if charts else ("", [])
    small = f'<div class="small">{"".join(f"<div>{c}</div>" for c in rest)}</div>' if rest else ""
    return (
        '<section id="front"><h2>The front</h2><p class="lead">Every dot is a plan that was '
        "applied, repaired and measured. Further left is cheaper, further down is closer to the "
        "original; a whisker is the 95 % interval of the measured divergence.</p>"
        f'<div class="charts{"" if rest else " alone"}"><div>{main}</div>{small}</div>'
        f"{legend(data)}{points_table(data)}</section>"
    )


def chart(runs: Sequence[ReportData], key: str, *, large: bool) -> str:
    """Divergence against one bill, for one run or for two in two colours."""
    found = [b for b in BILLS if b[0] == key]
    _, name, show = found[0]
    dots = [d for run, s in zip(runs, "ab", strict=False) for d in _dots(run, key, s, large)]
    asked = [((r.summary.get("budgets") or {}).get(key) or {}).get("limit") for r in runs]
    apart = len(set(asked)) > 1
    limits = {
        v: f"budget {f'{series} ' if apart else ''}{show(v)}"
        for v, series in zip(asked, "AB", strict=False)
        if v is not None
    }
    frame = Frame(
        width=700 if large else 350,
        height=470 if large else 232,
        x_title=name.lower() if key != "bitops" else name,
        y_title=f"divergence from the original, {runs[0].unit} per sample"
        if large
        else f"divergence, {runs[0].unit}",
        show_x=show,
        show_y=_tick,
        limits=tuple(limits.items()),
        numbered=large and len(runs) == 1,
    )
    return scatter(dots, frame)


def _tick(v: float) -> str:
    return text.nats(v) if v < 1e-4 else f"{v:.6f}"


def _dots(data: ReportData, key: str, series: str, whiskers: bool) -> list[Dot]:
    return [
        Dot(
            x=p["bills"][key],
            y=p["divergence"],
            key=i,
            state=STATES[data.verdicts[i]],
            tip=_tip(data, i, p),
            chosen=i == data.chosen,
            series=series,
            whisker=tuple(p["interval"]) if whiskers and p.get("interval") else None,
        )
        for i, p in enumerate(data.points)
        if p["bills"].get(key) is not None
    ]


def _tip(data: ReportData, i: int, p: Mapping[str, Any]) -> str:
    bills = " · ".join(show(p["bills"][k]) for k, _, show in BILLS if p["bills"].get(k) is not None)
    state = WORDS[STATES[data.verdicts[i]]]
    if i in data.bounds:
        state += f", bound {text.points(data.bounds[i])} points"
    chosen = " (chosen)" if i == data.chosen else ""
    return "\n".join(
        (
            f"Point {i}{chosen}",
            bills,
            f"divergence {text.nats(p['divergence'])} {text.span(p.get('interval'), text.nats)}",
            f"{data.metric} {text.percent(p.get('metric'), 2)} on the search samples",
            state,
            _made_of(p),
        )
    )


def _made_of(p: Mapping[str, Any]) -> str:
    """The labels of a plan, counted; what is left as it was is counted for weights alone."""
    return text.tally(
        label for site, label in _labels(p) if label not in UNCHANGED or site.endswith(".weight")
    )


def _mix(p: Mapping[str, Any]) -> str:
    """The shares of the weight sites by their bits as a bar, and the mean of the widths kept."""
    found = Counter(shade(v, "weight") for s, v in _labels(p) if s.endswith(".weight"))
    bar = "".join(
        f'<i class="{kind}" style="flex-grow:{found[kind]}"></i>' for kind in sorted(found)
    )
    kept = [-text.order(v)[1] for s, v in _labels(p) if s.endswith(".channels")]
    kept = [k if math.isfinite(k) else 1.0 for k in kept]
    width = f" {text.percent(sum(kept) / len(kept), 0)}" if kept else ""
    return f'<span class="mix">{bar}</span>{width}'


def _labels(p: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(str(s), str(v)) for s, v in (p.get("labels") or {}).items()]


def legend(data: ReportData) -> str:
    """What the dots mean, with how many there are of each."""
    states = [STATES[v] for v in data.verdicts.values()]
    items = [
        f'<span><svg viewBox="0 0 14 14"><g class="dot a {s}"><circle class="core" cx="7" cy="7" '
        f'r="4.6"/></g></svg>{WORDS[s]} <em>{states.count(s)}</em></span>'
        for s in ("yes", "no", "untested")
        if s in states
    ]
    if data.chosen is not None:
        items.append(
            '<span><svg viewBox="0 0 20 20"><circle class="ring" cx="10" cy="10" r="8"/></svg>'
            f"chosen <em>point {data.chosen}</em></span>"
        )
    return f'<p class="legend">{"".join(items)}</p>'


def points_table(data: ReportData) -> str:
    """All points; the number in the first column is what `allot apply --point` takes."""
    bills = [b for b in BILLS if any(p["bills"].get(b[0]) is not None for p in data.points)]
    heads = ["point", *(f"{name}" for _, name, _ in bills), "divergence", "95 % interval"]
    heads += [data.metric, "gap", "certified", "bound", "bits, width"]
    rows = "".join(_point(data, i, p, bills) for i, p in enumerate(data.points))
    head = "".join(f"<th>{esc(h)}</th>" for h in heads)
    allowed = text.points(data.summary.get("max_drop"))
    return (
        f'<div class="wide"><table class="points"><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
        '<p class="note">Take another point without searching again: '
        "<code>allot apply FOLDER --point NUMBER</code>. The metric is that of the search "
        "samples; the gap says how far above the best possible plan it may lie, by the tables; "
        "“bound” is what the certify samples say of that plan alone, in points; of all "
        f"points marked ✓ at once it is proven that they lose at most {allowed}. A latency marked "
        "~ is predicted from the table, not measured. The bar shows the shares of the layers by "
        "their stored bits, in the colours used below; beside it stands the mean width kept.</p>"
    )


def _point(data: ReportData, i: int, p: Mapping[str, Any], bills: Sequence[Any]) -> str:
    cells = [f"<th>{i}</th>"]
    for key, _, show in bills:
        guess = "~" if key == "latency" and p.get("latency_from") != "measured" else ""
        now = p["bills"].get(key)
        share = text.ratio(now, (data.front.get("original") or data.original).get(key))
        part = f"<small>{text.percent(share)}</small>" if share is not None else ""
        cells.append(f"<td>{guess if now is not None else ''}{esc(show(now))}{part}</td>")
    state = STATES[data.verdicts[i]]
    mark = {"yes": "✓", "no": "no", "untested": text.NOTHING}[state]
    bound = text.points(data.bounds.get(i))
    cells += [
        f"<td>{text.nats(p['divergence'])}</td>",
        f'<td class="soft">{text.span(p.get("interval"), text.nats)}</td>',
        f"<td>{text.percent(p.get('metric'), 2)}</td><td>{text.percent(p.get('gap'))}</td>",
        f'<td class="{state}" title="{WORDS[state]}">{mark}</td><td>{bound}</td>',
        f'<td class="made" title="{esc(_made_of(p))}">{_mix(p)}</td>',
    ]
    kind = ' class="chosen"' if i == data.chosen else ""
    return f'<tr{kind} data-point="a{i}">{"".join(cells)}</tr>'
