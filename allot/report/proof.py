"""What was measured and proven: original against compressed, runtimes, the certificate."""

from __future__ import annotations

from collections.abc import Sequence

from allot.report import text
from allot.report.data import ReportData
from allot.report.headline import BILLS
from allot.report.svg import axis
from allot.report.text import esc

NOT_COVERED = (
    "data from another source, camera, sensor or time than the certify samples: for these "
    "nothing is proven",
    "other measures than {metric}, and single classes or samples: the bound is on the average",
    "inputs prepared in another way, or a runtime other than the one whose predictions were used",
    "a plan of this front that is not marked as certified, or the network after further training",
)


def table_section(data: ReportData) -> str:
    """Original against compressed with intervals and n, then every runtime that was timed."""
    rows = "".join(_rows(data))
    if not data.compressed or not rows:
        return ""
    return (
        '<section id="numbers"><h2>Original against compressed</h2><div class="wide">'
        '<table class="numbers"><thead><tr><th></th><th>original</th><th>compressed</th>'
        "<th>change</th><th>95 % interval</th><th>n</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div>{_runtimes(data)}</section>"
    )


def _rows(data: ReportData) -> list[str]:
    was, now, n = data.original, data.compressed, data.original.get("n")
    rows = []
    for key, name, show in BILLS:
        if now.get(key) is None:
            continue
        share = text.ratio(now[key], was.get(key))
        times = f" ({text.figures(1 / share)}× less)" if share and share < 1 else ""
        interval = text.span(now.get(f"{key}_interval"), show)
        cells = [show(was.get(key)), show(now[key]), text.percent(share) + times, interval, ""]
        rows.append(_row(name, cells))
    if now.get("metric") is not None:
        before = was.get("metric")
        moved = text.moved(before, now["metric"])
        interval = text.span(now.get("metric_interval"))
        shown = [text.percent(before, 2), text.percent(now["metric"], 2)]
        interval = f"{interval} points, paired" if interval else ""
        rows.append(_row(data.metric, [*shown, f"{text.signed(moved)} points", interval, n]))
    if now.get("divergence") is not None:
        interval = text.span(now.get("divergence_interval"), text.nats)
        shown = ["0", text.nats(now["divergence"]), f"{data.unit} per sample"]
        rows.append(_row("Divergence", [*shown, interval, n]))
    return rows


def _row(name: str, cells: Sequence[object]) -> str:
    shown = "".join(f"<td>{esc('' if c is None else c)}</td>" for c in cells)
    return f"<tr><th>{esc(name)}</th>{shown}</tr>"


def _runtimes(data: ReportData) -> str:
    found = data.summary.get("runtimes") or {}
    if not found:
        return ""
    rows = []
    for name, r in found.items():
        interval = text.span(r.get("ratio_interval"), text.percent)
        cells = [text.seconds(r.get("original_s")), text.seconds(r.get("median_s"))]
        rows.append(_row(name, [*cells, text.percent(r.get("ratio")), interval, r.get("n")]))
    load = data.summary.get("workload") or {}
    return (
        '<h3>Measured in runtimes</h3><div class="wide"><table class="numbers"><thead><tr><th></th>'
        "<th>original, median</th><th>compressed, median</th><th>ratio</th><th>95 % interval</th>"
        f"<th>runs</th></tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        f'<p class="note">Batch {esc(load.get("batch", text.NOTHING))}, threads '
        f"{esc(load.get('threads', text.NOTHING))}; the original runs in float32 in the same "
        "runtime, in alternation.</p>"
    )


def certificate_section(data: ReportData) -> str:
    """The certificate's own words, its numbers on one line, and what it does not cover."""
    c = data.certificate
    if not c:
        return (
            '<section id="certificate"><h2>Certificate</h2><p class="lead">There is none: '
            "nothing is proven about data that the search has not seen.</p></section>"
        )
    stamp = "certified" if c.get("certified") else "not certified"
    facts = [
        ("samples that no earlier stage saw", c.get("n")),
        ("confidence", text.percent(c.get("confidence"), 0)),
        ("samples that got worse", c.get("lost", c.get("b"))),
        ("samples that got better", c.get("gained", c.get("c"))),
        ("drawn from", c.get("data") or None),
        ("what is bounded", c.get("kind")),
    ]
    shown = "".join(
        f"<div><dt>{esc(k)}</dt><dd>{esc(v)}</dd></div>" for k, v in facts if v is not None
    )
    gaps = "".join(f"<li>{esc(g.format(metric=data.metric))}</li>" for g in NOT_COVERED)
    return (
        f'<section id="certificate"><h2>Certificate <span class="stamp {stamp.split()[0]}">{stamp}'
        f"</span></h2><blockquote>{esc(c.get('text') or '')}</blockquote>{_line(data)}"
        f'<dl class="facts">{shown}</dl><h3>What it does not cover</h3>'
        f'<ul class="gaps">{gaps}</ul></section>'
    )


def _line(data: ReportData) -> str:
    """The measured loss, its bound and what was allowed, on one scale in points."""
    c = data.certificate
    drop, bound, allowed = c.get("drop"), c.get("bound"), c.get("max_drop")
    if drop is None or bound is None:
        return ""
    x = axis([0.0, drop, bound, *([allowed] if allowed is not None else [])], start=14, end=545)
    ticks = "".join(
        f'<line class="mark" x1="{x.at(v):.1f}" x2="{x.at(v):.1f}" y1="62" y2="67"/>'
        f'<text class="tick" x="{x.at(v):.1f}" y="82" text-anchor="middle">'
        f"{text.signed(v, 1).lstrip('+')}</text>"
        for v in x.ticks(7)
    )
    low, high, zero = x.at(drop), x.at(bound), x.at(0.0)
    limit = ""
    if allowed is not None:
        at, side = x.at(allowed), "end" if allowed > bound else "start"
        nudge = -5 if side == "end" else 5
        words = f"allowed {text.points(allowed)}"
        limit = (
            f'<line class="limit" x1="{at:.1f}" x2="{at:.1f}" y1="8" y2="62"/><text class="limit" '
            f'x="{at + nudge:.1f}" y="17" text-anchor="{side}">{words}</text>'
        )
    return (
        '<svg class="chart line" viewBox="0 0 700 88" role="img" aria-label="loss on a scale">'
        f'<line class="rim" x1="{x.start}" x2="{x.end}" y1="62" y2="62"/>{ticks}'
        f'<line class="grid" x1="{zero:.1f}" x2="{zero:.1f}" y1="30" y2="62"/>'
        f'<line class="reach" x1="{low:.1f}" x2="{high:.1f}" y1="46" y2="46"/>{limit}'
        f'<circle class="seen" cx="{low:.1f}" cy="46" r="5"/>'
        f'<line class="cap" x1="{high:.1f}" x2="{high:.1f}" y1="38" y2="54"/>'
        f'<text class="words" x="{low - 5:.1f}" y="34">measured {text.points(drop)}</text>'
        f'<text class="words" x="{high + 9:.1f}" y="50.5">bound {text.points(bound)}</text></svg>'
        f'<p class="note">Loss in points on the certify samples.{_place(data)}</p>'
    )


def _place(data: ReportData) -> str:
    if not data.certificate.get("certified") or data.claim == data.certificate.get("bound"):
        return ""
    return (
        " The plan was picked from a sequence that was tested on the same samples: proven is what "
        "was allowed, not the bound of this plan alone."
    )
