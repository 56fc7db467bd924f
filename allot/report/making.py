"""How it was made: where the time went, the seed, the inputs, notes, what was left in float."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from allot.report import text
from allot.report.data import ReportData
from allot.report.text import esc

COLOURS = 8


def making_section(data: ReportData) -> str:
    """The last section of the report."""
    s = data.summary
    facts = [
        ("forward passes over a set", _number(s.get("forward_passes"))),
        ("seed", s.get("seed")),
        ("target", s.get("target")),
        ("created", s.get("created")),
        ("allot", s.get("allot")),
        ("format of the files", f"version {s.get('version')}" if s.get("version") else None),
        ("recovery", s.get("recovery")),
        ("inputs", _tensors(s.get("inputs"))),
        ("outputs", _tensors(s.get("outputs"))),
        ("preprocessing", s.get("preprocess")),
        *((f"version of {k}", v) for k, v in (s.get("versions") or {}).items()),
    ]
    shown = "".join(
        f"<div><dt>{esc(k)}</dt><dd>{esc(v)}</dd></div>" for k, v in facts if v not in (None, "")
    )
    return (
        f'<section id="making"><h2>How it was made</h2>{_stages(s.get("seconds") or {})}'
        f'<dl class="facts">{shown}</dl>{_notes(s.get("notes") or ())}'
        f"{_unknown(s.get('unknown') or ())}</section>"
    )


def _number(n: float | None) -> str | None:
    return None if n is None else f"{n:,.1f}".replace(",", " ")


def _tensors(found: Sequence[Mapping[str, Any]] | None) -> str:
    return "; ".join(
        f"{t.get('name')} {t.get('dtype')} [{' × '.join(str(n) for n in t.get('shape') or ())}]"
        for t in found or ()
    )


def _stages(seconds: Mapping[str, float]) -> str:
    """One bar, cut in proportion to the seconds of each stage, and what each piece is."""
    total = sum(seconds.values())
    if total <= 0:
        return ""
    bar, key = [], []
    for i, (name, s) in enumerate(seconds.items()):
        tip = f"{name}: {text.seconds(s)}, {text.percent(s / total)}"
        kind = f"s{i % COLOURS}"
        bar.append(f'<i class="{kind}" style="flex-grow:{s / total:.5f}" title="{esc(tip)}"></i>')
        key.append(
            f'<span><b class="{kind}"></b>{esc(name)} <em>{text.seconds(s)}</em> '
            f"<small>{text.percent(s / total)}</small></span>"
        )
    return (
        f'<p class="lead"><b>{text.seconds(total)}</b> in all.</p>'
        f'<div class="stages">{"".join(bar)}</div><p class="legend key">{"".join(key)}</p>'
    )


def _notes(notes: Sequence[str]) -> str:
    if not notes:
        return ""
    return f"<h3>Notes</h3><ul>{''.join(f'<li>{esc(n)}</li>' for n in notes)}</ul>"


def _unknown(unknown: Sequence[Sequence[Any]]) -> str:
    """Modules with parameters that are not understood, and therefore stay in float."""
    if not unknown:
        return ""
    rows = "".join(
        f"<tr><th>{esc(name)}</th><td>{esc(kind)}</td><td>{esc(f'{count:,}'.replace(',', ' '))}"
        "</td></tr>"
        for name, kind, count in unknown
    )
    return (
        "<h3>Left in float, because not understood</h3><div class=wide><table class=numbers>"
        "<thead><tr><th>module</th><th>type</th><th>parameters</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )
