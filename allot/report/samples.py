"""Samples: the original's beside the compressed sampler's, and what every step of it does."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from allot.report import text
from allot.report.data import ReportData
from allot.report.layers import colour
from allot.report.svg import Axis, linear_ticks
from allot.report.text import esc

PICTURES = ("original", "compressed", "difference")
WIDTH, LEFT, RIGHT = 700, 8, 692
TOP, FLOOR, HEIGHT = 10, 74, 112
FLOAT = 32
# of a step that reuses spans, where it is not known which share it computes
HALF = 0.5
# name of a figure -> how it is called and shown
FIGURES: Mapping[str, tuple[str, Callable[[float | None], str]]] = {
    "psnr": ("PSNR to the original, dB", lambda v: text.NOTHING if v is None else f"{v:.2f}"),
    "ssim": ("SSIM to the original", text.nats),
    "feature error": ("Feature error", text.nats),
    "frechet": ("Fréchet distance to the original", text.nats),
    "kid": ("Kernel distance to the original", text.nats),
    "class histogram": ("Distance of class shares", text.nats),
    "coverage": ("Coverage of the original", text.percent),
    "real frechet": ("Fréchet distance to real data", text.nats),
    "real kid": ("Kernel distance to real data", text.nats),
}


def samples_section(data: ReportData) -> str:
    """Figures, pictures per condition and the strip of steps; "" where the run has none."""
    found, steps = data.samples, data.summary.get("steps") or ()
    if not found and not steps:
        return ""
    return (
        f'<section id="samples"><h2>Samples</h2>{_figures(found.get("figures") or ())}'
        f"{_pictures(found)}{_steps(steps)}</section>"
    )


def _figures(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    places = {name: i for i, name in enumerate(FIGURES)}
    rows = sorted(rows, key=lambda r: places.get(str(r["name"]), len(places)))
    body = "".join(_figure(r) for r in rows)
    return (
        '<div class="wide"><table class="numbers"><thead><tr><th></th><th>value</th>'
        f"<th>95 % interval</th><th>noises</th></tr></thead><tbody>{body}</tbody></table></div>"
    )


def _figure(row: Mapping[str, Any]) -> str:
    name = str(row["name"])
    words, show = FIGURES.get(name, (name, text.nats))
    interval = text.span([row.get("low"), row.get("high")], show)
    cells = "".join(f"<td>{esc(v)}</td>" for v in (show(row.get("value")), interval, row.get("n")))
    return f"<tr><th>{esc(words)}</th>{cells}</tr>"


def _pictures(found: Mapping[str, Any]) -> str:
    """A row per condition: the original, the compressed, and their difference."""
    rows = found.get("rows") or ()
    if not rows:
        return ""
    gain = f"{found.get('gain', 1):g}"
    named = any(r.get("condition") for r in rows)
    body = "".join(_row(r, named=named) for r in rows)
    heads = "".join(f"<th>{h}</th>" for h in (*PICTURES[:2], f"difference × {gain}"))
    return (
        '<p class="lead">What the original and the compressed sampler make of the same noise; the '
        f"difference is drawn {gain} times as large, grey being none.</p>"
        f'<div class="wide"><table class="samples"><thead><tr>{"<th></th>" if named else ""}'
        f"{heads}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _row(row: Mapping[str, Any], *, named: bool) -> str:
    name = str(row.get("condition") or "")
    size = f'width="{esc(row["width"])}" height="{esc(row["height"])}"'
    cells = "".join(
        f'<td><img {size} alt="{esc(f"{k} {name}".strip())}" '
        f'src="data:image/png;base64,{esc(row[k])}"></td>'
        for k in PICTURES
    )
    return f"<tr>{f'<th>{esc(name)}</th>' if named else ''}{cells}</tr>"


def _steps(rows: Sequence[Mapping[str, Any]]) -> str:
    """A bar per step from its log-SNR to that of the next one taken: colour is bits, height the
    share of the network that is computed; a cross marks a step left out."""
    if not rows:
        return ""
    places = _places([r["log_snr"] for r in rows])
    axis = Axis(low=places[0], high=places[-1], start=LEFT, end=RIGHT)
    taken = [i for i, r in enumerate(rows) if r["taken"]]
    ends = dict(zip(taken, [*taken[1:], len(rows)], strict=True))
    parts = [
        _bar(i, r, axis.at(places[i]), axis.at(places[ends[i]])) if i in ends
        else _cross(i, r, axis.at(places[i]))
        for i, r in enumerate(rows)
    ]  # fmt: skip
    label = esc(f"what each of {len(rows)} steps computes")
    return (
        f'<h3>Step by step</h3><p class="lead">{_summary(rows)}</p>'
        f'<svg class="chart steps" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
        f"{''.join(parts)}{_rule(axis)}</svg>{_legend(rows)}"
    )


def _places(snrs: Sequence[float | None]) -> list[float]:
    """Log-SNR of every step, then of the end; infinite ones one mean gap beyond the others."""
    known = [(i, v) for i, v in enumerate(snrs) if v is not None and math.isfinite(v)]
    first, last = known[0] if known else (0, 0.0), known[-1] if known else (0, 0.0)
    gap = (last[1] - first[1]) / max(1, last[0] - first[0])
    gap = gap if gap > 0 else 1.0
    exact = dict(known)
    found = [
        exact.get(
            i, first[1] - gap * (first[0] - i) if i < first[0] else last[1] + gap * (i - last[0])
        )
        for i in range(len(snrs))
    ]
    return [*found, max(found) + gap]


def _bar(i: int, row: Mapping[str, Any], start: float, end: float) -> str:
    height = max(2.0, (HALF if (share := _computed(row)) is None else share) * (FLOOR - TOP))
    width = max(1.0, end - start - 1)
    return (
        f'<g class="step" data-step="{i}"><title>{esc(_tip(i, row))}</title>'
        f'<rect class="rest" x="{start:.1f}" y="{TOP}" width="{width:.1f}" height="{FLOOR - TOP}"/>'
        f'<rect class="{colour(row.get("bits") or FLOAT)}" x="{start:.1f}" '
        f'y="{FLOOR - height:.1f}" width="{width:.1f}" height="{height:.1f}"/></g>'
    )


def _cross(i: int, row: Mapping[str, Any], at: float) -> str:
    return (
        f'<g class="step left" data-step="{i}"><title>{esc(_tip(i, row))}</title>'
        f'<path class="cross" d="M{at - 3.5:.1f},{FLOOR + 4.5}l7,7m0,-7l-7,7"/></g>'
    )


def _computed(row: Mapping[str, Any]) -> float | None:
    """Share of the network that a step computes; None where it is less and not known."""
    if not row["taken"]:
        return 0.0
    share: float | None = row.get("computed")
    return 1.0 if share is None and not row.get("left") else share


def _tip(i: int, row: Mapping[str, Any]) -> str:
    bits, share = row.get("bits"), _computed(row)
    does = "left out"
    if row["taken"]:
        does = f"{bits:g} bits" if bits else "float"
        does += ", parts taken again" if row.get("left") else ""
        does += f", computes {text.percent(share, 0)}" if share not in (None, 1.0) else ""
    snr = row["log_snr"]
    where = f"{snr:.2f}".replace("-", text.MINUS) if text.known(snr) else "infinite"
    return f"step {i}: {row['label']}\n{does}\ntime {row['time']:g}, log-SNR {where}"


def _rule(axis: Axis) -> str:
    out = [f'<line class="rim" x1="{LEFT}" x2="{RIGHT}" y1="{FLOOR}" y2="{FLOOR}"/>']
    for v in linear_ticks(axis.low, axis.high, 8):
        words = f"{v:g}".replace("-", text.MINUS)
        out.append(f'<text class="tick" x="{axis.at(v):.1f}" y="{FLOOR + 24}" ')
        out.append(f'text-anchor="middle">{words}</text>')
    out.append(f'<text class="title" x="{LEFT}" y="{HEIGHT - 1}">noise</text>')
    out.append(f'<text class="title" x="{RIGHT}" y="{HEIGHT - 1}" text-anchor="end">sample</text>')
    out.append(f'<text class="title" x="{WIDTH / 2}" y="{HEIGHT - 1}" text-anchor="middle">')
    out.append("half the logarithm of the signal-to-noise ratio</text>")
    return "".join(out)


def _summary(rows: Sequence[Mapping[str, Any]]) -> str:
    """How many steps do what, and how much of the network is computed in all."""
    left = sum(not r["taken"] for r in rows)
    reuse = sum(bool(r["taken"] and r.get("left")) for r in rows)
    words = f"The whole network is evaluated at {len(rows) - left - reuse} of {len(rows)} steps"
    words += f", parts of it are taken again at {reuse}" if reuse else ""
    words += f", {left} left out" if left else ""
    shares = [_computed(r) for r in rows]
    known = [s for s in shares if s is not None]
    if len(known) == len(shares):
        total = math.fsum(known) / len(rows)
        words += f"; {text.percent(total, 0)} of the multiplications are computed"
    unknown = "" if None not in shares else ", half where that is not known"
    return f"{words}. Colour is bits, height the share of the network that is computed{unknown}."


def _legend(rows: Sequence[Mapping[str, Any]]) -> str:
    used = sorted({r.get("bits") or FLOAT for r in rows if r["taken"]})
    key = "".join(
        f'<span><b class="{colour(b)}"></b>{"float" if b > 16 else f"{b:g} bits"}</span>'
        for b in used
    )
    if not all(r["taken"] for r in rows):
        key += "<span>× left out</span>"
    return f'<p class="legend key">{key}</p>'
