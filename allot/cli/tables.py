"""Tables: what a run came to, as people read it in a terminal."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from allot.report import text

_BILLS = (
    ("size", "size", text.size),
    ("bitops", "BitOPs", text.count),
    ("latency", "latency", text.seconds),
    ("energy", "energy", text.joules),
)


def grid(head: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """A table as text; the first `left` columns are set to the left, the others to the right."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, name in enumerate(head):
        table.add_column(name, justify="left" if i < left else "right", overflow="fold")
    for row in rows:
        table.add_row(*(cell.replace("[", r"\[") for cell in row))
    page = Console(file=io.StringIO(), width=120, color_system=None)
    page.print(table)
    assert isinstance(page.file, io.StringIO)
    lines = [line.rstrip() for line in page.file.getvalue().splitlines()]
    return "\n".join(line for line in lines if line)


def result(summary: Mapping[str, Any]) -> str:
    """Original, compressed, change and 95 % interval of everything that was measured."""
    rows = [_metric_row(summary), _divergence_row(summary)]
    rows += [_bill_row(summary, *b) for b in _BILLS if summary["original"].get(b[0]) is not None]
    head = ("", "original", "compressed", "change", "95 % interval")
    return grid(head, rows)


def _metric_row(summary: Mapping[str, Any]) -> tuple[str, ...]:
    before, after = summary["original"]["metric"], (summary["compressed"] or {}).get("metric")
    span = text.span((summary["compressed"] or {}).get("metric_interval"))
    change = f"{text.signed(text.moved(before, after))} points"
    name = f"{summary['metric']}, n = {summary['original']['n']}"
    return name, text.percent(before, 2), text.percent(after, 2), change, span


def _divergence_row(summary: Mapping[str, Any]) -> tuple[str, ...]:
    new = summary["compressed"] or {}
    span = text.span(new.get("divergence_interval"), text.nats)
    name = f"divergence, {summary.get('unit') or 'nats'}"
    return name, "0", text.nats(new.get("divergence")), "", span


def _bill_row(summary: Mapping[str, Any], key: str, name: str, show: Any) -> tuple[str, ...]:
    before, after = summary["original"].get(key), (summary["compressed"] or {}).get(key)
    span = text.span((summary["compressed"] or {}).get(f"{key}_interval"), show)
    share = text.percent(text.ratio(after, before))
    return name, show(before), show(after), f"{share} of it", span


def shares(seconds: Mapping[str, float]) -> str:
    """Where the time went: "harm 12 s (30 %), search ..."."""
    whole = sum(seconds.values())
    each = [f"{k} {v:.1f} s ({100 * v / max(whole, 1e-9):.0f} %)" for k, v in seconds.items()]
    return f"{whole:.0f} s: {', '.join(each)}"
