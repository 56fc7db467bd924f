"""Harm as a heat strip: what every single option does to every site, in logarithmic colour."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from allot.report import text
from allot.report.data import ReportData
from allot.report.text import esc

KINDS = {"weight": "weights", "activation": "activations", "channels": "width"}
STEPS = 9
Cells = Mapping[tuple[str, str, str], float]


def harm_section(data: ReportData) -> str:
    """One row per layer, one column per option; empty without harm.json."""
    rows = [r for r in data.harm.get("rows") or () if r["divergence"] is not None]
    if not rows:
        return ""
    unit = str(data.harm.get("unit") or "nat")
    cells = {(_place(r), r["kind"], r["label"]): r["divergence"] for r in rows}
    positive = [v for v in cells.values() if v > 0 and math.isfinite(v)]
    low, high = (min(positive), max(positive)) if positive else (1.0, 1.0)
    columns = _columns(cells)
    body = "".join(
        f'<tr><th title="{esc(place)}">{esc(place)}</th>'
        + "".join(
            _cell(cells, place, c, low, high, i in _starts(columns)) for i, c in enumerate(columns)
        )
        + "</tr>"
        for place in dict.fromkeys(p for p, _, _ in cells)
    )
    scale = "".join(f'<b class="h{i}"></b>' for i in range(STEPS + 1))
    return (
        '<section id="harm"><h2>Harm of every option</h2><p class="lead">The divergence from the '
        f"original ({esc(unit)}s per sample) when one option alone is taken at one place and "
        'everything else is left in float.</p><div class="wide"><table class="heat">'
        f"<thead>{_heads(columns)}</thead><tbody>{body}</tbody></table></div>"
        f'<p class="legend scale"><span>{text.nats(low)}</span>{scale}'
        f"<span>{text.nats(high)} {esc(unit)}, logarithmic</span></p></section>"
    )


def _place(row: Mapping[str, Any]) -> str:
    """The module of a site's name: what weight, input and channels of one layer share."""
    site = str(row["site"])
    return site.rpartition(".")[0] or site


def _columns(cells: Cells) -> list[tuple[str, str]]:
    """(kind, label) in the order weights, activations, width, others; gentle options first."""
    found = {(kind, label) for _, kind, label in cells}
    ranks = {k: i for i, k in enumerate(KINDS)}
    return sorted(found, key=lambda c: (ranks.get(c[0], len(ranks)), c[0], text.order(c[1])))


def _starts(columns: Sequence[tuple[str, str]]) -> set[int]:
    """Positions where a new kind begins."""
    return {i for i, c in enumerate(columns) if i and columns[i - 1][0] != c[0]}


def _heads(columns: Sequence[tuple[str, str]]) -> str:
    gap = '<th class="gap"></th>'
    starts = sorted({0, *_starts(columns)})
    ends = [*starts[1:], len(columns)]
    groups = "".join(
        f'{gap if a else ""}<th colspan="{b - a}">'
        f"{esc(KINDS.get(columns[a][0], columns[a][0]))}</th>"
        for a, b in zip(starts, ends, strict=True)
    )
    labels = "".join(
        f"{gap if i in starts and i else ''}<th>{esc(label.removeprefix('keep'))}</th>"
        for i, (_, label) in enumerate(columns)
    )
    return f"<tr><th></th>{groups}</tr><tr><th></th>{labels}</tr>"


def _cell(
    cells: Cells, place: str, column: tuple[str, str], low: float, high: float, first: bool
) -> str:
    value = cells.get((place, *column))
    gap = '<td class="gap"></td>' if first else ""
    if value is None:
        return f"{gap}<td></td>"
    tip = f"{place}, {column[1]}: {text.nats(value)}"
    return f'{gap}<td class="h{heat(value, low, high)}" title="{esc(tip)}">{_brief(value)}</td>'


def heat(value: float, low: float, high: float) -> int:
    """Step of the colour scale, 0 .. STEPS, equal ratios being equal steps."""
    if value <= low or high <= low:
        return 0
    if not math.isfinite(value) or value >= high:
        return STEPS
    return round(STEPS * math.log(value / low) / math.log(high / low))


def _brief(value: float) -> str:
    """At most five characters: ".0123" would be precise beyond the interval anyway."""
    if not math.isfinite(value):
        return "∞"
    if value == 0:
        return "0"
    if abs(value) < 9.95e-4:
        mantissa, _, power = f"{value:.0e}".partition("e")
        return f"{mantissa}e{int(power)}".replace("-", text.MINUS)
    return text.figures(value) if value >= 0.995 else f"{value:.2g}".replace("0.", ".", 1)
