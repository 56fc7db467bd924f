"""Where it will run: what mismatches between training and deployment change, where it was asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from allot.report import text
from allot.report.data import ReportData
from allot.report.text import esc

SHOWN = 5


def noise_section(data: ReportData) -> str:
    """A table of every mismatch alone and of the worst pairs; "" where none was tried."""
    found = data.noise
    if not found:
        return ""
    rows = [*found.get("singles", ()), *(found.get("pairs") or ())[:SHOWN]]
    body = "".join(f"<tr><th>{esc(a)}</th>{_cells(rest)}</tr>" for a, *rest in cells(rows))
    skipped = "".join(
        f"<li>{esc(s['label'])}: {esc(s['why'])}</li>" for s in found.get("skipped", ())
    )
    left = f"<p>Not tried:</p><ul>{skipped}</ul>" if skipped else ""
    return (
        '<section id="noise"><h2>Where it will run</h2>'
        f"<p>{esc(_start(str(found['verdict'])))}. On {esc(found['n'])} samples that the search "
        "has seen; each is a mismatch between training and deployment, compared with the "
        'compressed network without it.</p><div class="wide"><table class="numbers"><thead><tr>'
        f"<th></th><th>{esc(data.metric)} lost, points</th><th>95 % interval</th>"
        f"<th>divergence</th></tr></thead><tbody>{body}</tbody></table></div>{left}</section>"
    )


def cells(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str, str]]:
    """Mismatch, points lost, interval and divergence of every row, as text."""
    found = []
    for r in rows:
        lost = "" if r["lost"] is None else f"{r['lost']:.2f}"
        span = "" if not r["interval"] else text.span(r["interval"])
        nats = "no numbers" if r["nats"] is None else text.nats(r["nats"])
        found.append((" and ".join(r["labels"]), lost, span, "none" if r["same"] else nats))
    return found


def _cells(found: Sequence[str]) -> str:
    return "".join(f"<td>{esc(c)}</td>" for c in found)


def _start(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]
