"""Two runs side by side: what differs, both fronts in one chart, both plans layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from allot.report import text
from allot.report.data import ReportData
from allot.report.fronts import chart
from allot.report.headline import BILLS
from allot.report.layers import bits_bar, width_bar
from allot.report.page import page
from allot.report.text import esc

Show = Callable[[Any], str]


def compare(a: ReportData, b: ReportData) -> str:
    """A self-contained page that sets the run `b` against the run `a`."""
    names = " and ".join(f"<b class=run{s}>{s.upper()}</b> {esc(d.name)}" for s, d in _both(a, b))
    head = (
        '<header><p class="brand">allot <span>comparison</span></p>'
        f'<h1>{esc(_title(a, b))}</h1><p class="about">{names}</p></header>'
        f'<p class="verdict">{_verdict(a, b)}</p>'
    )
    sections = (head, _table(a, b), _fronts(a, b), _layers(a, b))
    return page(title=f"{a.name} and {b.name} · allot", body="\n".join(sections))


def _both(a: ReportData, b: ReportData) -> tuple[tuple[str, ReportData], ...]:
    return (("a", a), ("b", b))


def _title(a: ReportData, b: ReportData) -> str:
    return a.task if a.task == b.task else f"{a.task} and {b.task}"


def _verdict(a: ReportData, b: ReportData) -> str:
    """How B lies to A in every quantity that both have, in words."""
    words = []
    for key, name, _ in BILLS:
        share = text.ratio(b.compressed.get(key), a.compressed.get(key))
        if share is not None and abs(share - 1) >= 5e-4:
            words.append(f"{esc(_lower(name))} <b>{text.signed(100 * (share - 1), 1)} %</b>")
    moved = text.moved(a.compressed.get("metric"), b.compressed.get("metric"))
    if moved is not None:
        words.append(f"{esc(b.metric)} <b>{text.signed(moved)} points</b>")
    return f"From A to B: {', '.join(words)}." if words else "The two are alike."


def _lower(name: str) -> str:
    return name if name == "BitOPs" else name.lower()


def _table(a: ReportData, b: ReportData) -> str:
    rows = [
        _row(name, a.compressed.get(key), b.compressed.get(key), show) for key, name, show in BILLS
    ]
    rows.append(_points(a, b))
    rows.append(
        _row(
            "divergence", a.compressed.get("divergence"), b.compressed.get("divergence"), text.nats
        )
    )
    rows.append(_row("bound on the loss, points", a.claim, b.claim, text.points))
    rows += [_plain(name, [pick(d) for d in (a, b)]) for name, pick in _PLAIN]
    return (
        '<section id="numbers"><h2>Differences</h2><div class="wide"><table class="numbers">'
        "<thead><tr><th></th><th><b class=runa>A</b></th><th><b class=runb>B</b></th>"
        f"<th>B against A</th></tr></thead><tbody>{''.join(rows)}</tbody></table></div></section>"
    )


_PLAIN: tuple[tuple[str, Callable[[ReportData], object]], ...] = (
    ("certified", lambda d: "yes" if d.certificate.get("certified") else "no"),
    ("target", lambda d: d.summary.get("target")),
    ("budgets", lambda d: _budgets(d.summary.get("budgets") or {})),
    ("allowed drop, points", lambda d: d.summary.get("max_drop")),
    ("points on the front", lambda d: len(d.points)),
    ("seed", lambda d: d.summary.get("seed")),
    ("time", lambda d: text.seconds(sum((d.summary.get("seconds") or {}).values()))),
)


def _budgets(budgets: Mapping[str, Mapping[str, Any]]) -> str:
    return ", ".join(f"{k} {v.get('asked') or v.get('limit')}" for k, v in budgets.items())


def _row(name: str, first: float | None, second: float | None, show: Show) -> str:
    share = text.ratio(second, first)
    change = text.signed(100 * (share - 1), 1) + " %" if share is not None else text.NOTHING
    kind = (
        "" if share is None or share == 1 else ' class="better"' if share < 1 else ' class="worse"'
    )
    return (
        f"<tr><th>{esc(name)}</th><td>{esc(show(first))}</td><td>{esc(show(second))}</td>"
        f"<td{kind}>{esc(change)}</td></tr>"
    )


def _points(a: ReportData, b: ReportData) -> str:
    """The metric's row: its change is in points, not relative."""
    first, second = a.compressed.get("metric"), b.compressed.get("metric")
    cells = [text.percent(first, 2), text.percent(second, 2)]
    change = f"{text.signed(text.moved(first, second))} points"
    shown = "".join(f"<td>{c}</td>" for c in (*cells, change))
    return f"<tr><th>{esc(b.metric)}</th>{shown}</tr>"


def _plain(name: str, values: list[object]) -> str:
    words = ["–" if v is None else str(v) for v in values]
    change = "same" if words[0] == words[1] else ""
    cells = "".join(f"<td>{esc(w)}</td>" for w in (*words, change))
    return f"<tr><th>{esc(name)}</th>{cells}</tr>"


def _fronts(a: ReportData, b: ReportData) -> str:
    shared = [
        key
        for key, *_ in BILLS
        if all(any(p["bills"].get(key) is not None for p in d.points) for d in (a, b))
    ]
    if not shared:
        return ""
    charts = [chart([a, b], key, large=i == 0) for i, key in enumerate(shared)]
    small = "".join(f"<div>{c}</div>" for c in charts[1:])
    side = f'<div class="small">{small}</div>' if small else ""
    key = "".join(
        f'<span><svg viewBox="0 0 14 14"><g class="dot {s} yes"><circle class="core" cx="7" '
        f'cy="7" r="4.6"/></g></svg>{s.upper()} · {esc(d.name)} <em>{len(d.points)} points</em>'
        "</span>"
        for s, d in _both(a, b)
    )
    return (
        '<section id="front"><h2>Both fronts</h2><p class="lead">Further left is cheaper, further '
        "down is closer to the original; rings mark the chosen points, hollow dots are not "
        f'certified.</p><div class="charts{"" if side else " alone"}"><div>{charts[0]}</div>{side}'
        f'</div><p class="legend">{key}</p></section>'
    )


def _layers(a: ReportData, b: ReportData) -> str:
    first, second = ({x["name"]: x for x in d.layers} for d in (a, b))
    names = [*first, *(n for n in second if n not in first)]
    if not names:
        return ""
    rows = "".join(_layer(n, first.get(n, {}), second.get(n, {})) for n in names)
    return (
        '<section id="layers"><h2>Layer by layer</h2><p class="lead">Above A, below B; layers that '
        'differ are set in bold.</p><div class="layers pair"><div class="row head">'
        "<span>layer</span><span></span><span>stored bits per weight</span>"
        f"<span>width kept</span><span>bytes</span></div>{rows}</div></section>"
    )


def _layer(name: str, x: Mapping[str, Any], y: Mapping[str, Any]) -> str:
    same = all(x.get(k) == y.get(k) for k in ("bits", "activation", "kept_in", "kept_out"))
    kind = "name" if same else "name differs"
    lines = [
        f'<span class="cell {s}"><b class="run{s}">{s.upper()}</b></span>'
        f'<span class="cell">{bits_bar(v.get("bits"))}</span>'
        f'<span class="cell">{width_bar(v)}</span>'
        f'<span class="num">{text.size(v.get("bytes"))}</span>'
        for s, v in (("a", x), ("b", y))
    ]
    return (
        f'<div class="row"><span class="{kind}">{esc(name)}</span>{lines[0]}'
        f'<span class="name"></span>{lines[1]}</div>'
    )
