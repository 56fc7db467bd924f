"""Bits and width per layer as bars, and how they change along the front."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from allot.report import text
from allot.report.data import ReportData
from allot.report.text import esc

FLOAT = 32


def layers_section(data: ReportData) -> str:
    """One row per layer: stored bits, kept width, activation bits, bytes."""
    if not data.layers:
        return ""
    top = max((x.get("original_bytes") or 0) for x in data.layers) or 1
    rows = "".join(_layer(x, top) for x in data.layers)
    return (
        '<section id="layers"><h2>Bits and width per layer</h2>'
        f'<p class="lead">{_average(data)}</p>'
        '<div class="layers"><div class="row head"><span>layer</span>'
        "<span>stored bits per weight</span><span>width kept (output channels)</span>"
        f"<span>activation</span><span>bytes, of the original</span></div>{rows}</div></section>"
    )


def _average(data: ReportData) -> str:
    kept = [(x, _weights(x)) for x in data.layers]
    total = sum(n for _, n in kept)
    if not total:
        return ""
    mean = sum((x.get("bits") or FLOAT) * n for x, n in kept) / total
    before = sum(math.prod(x.get("weight_shape") or (0,)) for x in data.layers)
    share = f" {text.percent(total / before)} of the weights are kept." if before else ""
    return (
        f"Kept weights are stored at <b>{text.figures(mean)} bits</b> on average, "
        f"without scales.{share}"
    )


def _weights(x: Mapping[str, Any]) -> float:
    """How many weights of a layer are kept."""
    n = float(math.prod(x.get("weight_shape") or (0,)))
    for kept, whole in (("kept_in", "in"), ("kept_out", "out")):
        share = text.ratio(x.get(kept), x.get(whole))
        n *= 1.0 if share is None else share
    return n


def _layer(x: Mapping[str, Any], top: float) -> str:
    shape = "×".join(str(s) for s in x.get("weight_shape") or ())
    about = f"{x.get('op', '')} {shape}, {text.count(x.get('macs'))} MACs"
    return (
        f'<div class="row"><span class="name" title="{esc(about)}">{esc(x["name"])}'
        f"<small>{esc(shape)}</small></span>"
        f'<span class="cell">{bits_bar(x.get("bits"))}</span>'
        f'<span class="cell">{width_bar(x)}</span>'
        f'<span class="act">{_activation(x.get("activation"))}</span>'
        f'<span class="cell">{_bytes_bar(x, top)}</span></div>'
    )


def colour(bits: float) -> str:
    """Class name of the colour of a width in bits."""
    return "bf" if bits > 16 else f"b{min(max(round(bits), 1), 8)}"


def bits_bar(bits: float | None) -> str:
    """A bar of eight segments, filled up to the bits; float is a full hatched bar."""
    if bits is None:
        return text.NOTHING
    words = "float" if bits > 16 else f"{bits:g}"
    width = min(100 * bits / 8, 100)
    fill = f'<i class="{colour(bits)}" style="width:{width:.1f}%"></i>'
    return f'<span class="bar seg">{fill}</span><em>{words}</em>'


def width_bar(x: Mapping[str, Any]) -> str:
    """Kept output channels as a fraction of a bar, with the counts."""
    share = text.ratio(x.get("kept_out"), x.get("out"))
    if share is None:
        return text.NOTHING
    words = f"{x['kept_out']}<small>/{x['out']}</small>"
    whole = " whole" if share >= 1 else ""
    fill = f'<i class="w{whole}" style="width:{100 * share:.1f}%"></i>'
    return f'<span class="bar">{fill}</span><em>{words}</em>'


def _activation(bits: float | None) -> str:
    if bits is None:
        return text.NOTHING
    words = "float" if bits > 16 else f"{bits:g} bit"
    return f'<b class="chip {colour(bits)}">{words}</b>'


def _bytes_bar(x: Mapping[str, Any], top: float) -> str:
    was, now = x.get("original_bytes") or 0, x.get("bytes") or 0
    share = text.ratio(now, was)
    return (
        f'<span class="bar bytes"><u style="width:{100 * was / top:.2f}%"></u>'
        f'<i class="w" style="width:{100 * now / top:.2f}%"></i></span>'
        f"<em>{text.size(now)}<small> {text.percent(share)}</small></em>"
    )


def along_section(data: ReportData) -> str:
    """A map of sites against points of the front: which precision and width each plan takes."""
    kinds = (("weight", "Stored bits of the weights"), ("channels", "Width kept"))
    maps = [m for kind, name in kinds if (m := _map(data, kind, name))]
    if len(data.points) < 2 or not maps:
        return ""
    return (
        '<section id="along"><h2>Along the front</h2><p class="lead">What every plan takes at '
        "every site, a column per point, by rising divergence; the chosen one is "
        f'framed.</p><div class="maps">{"".join(maps)}</div></section>'
    )


def _map(data: ReportData, kind: str, name: str) -> str:
    plans = [p.get("labels") or {} for p in data.points]
    sites = [s for s in (plans[0] if plans else {}) if s.rpartition(".")[2] == kind]
    if all(len({p.get(s) for p in plans}) < 2 for s in sites):
        return ""
    w, h = max(10.0, min(22.0, 400 / len(plans))), 15
    cells = []
    for j, site in enumerate(sites):
        for i, plan in enumerate(plans):
            label = str(plan.get(site, text.NOTHING))
            cells.append(
                f'<rect class="{shade(label, kind)}" x="{150 + i * w:.1f}" y="{18 + j * h}" '
                f'width="{w - 1:.1f}" height="{h - 1}"><title>{esc(site)}\npoint {i}: '
                f"{esc(label)}</title></rect>"
            )
        cells.append(f'<text class="tick" x="144" y="{18 + j * h + 11}" text-anchor="end">')
        cells.append(f"{esc(_short(site.rpartition('.')[0]))}</text>")
    every = 1 if w > 15 else 2 if len(plans) < 25 else 5
    for i in range(0, len(plans), every):
        at = f'x="{150 + (i + 0.5) * w:.1f}" y="12" text-anchor="middle"'
        cells.append(f'<text class="tick" {at}>{i}</text>')
    if data.chosen is not None:
        cells.append(
            f'<rect class="frame" x="{150 + data.chosen * w - 1:.1f}" y="17" '
            f'width="{w + 1:.1f}" height="{len(sites) * h + 1}"/>'
        )
    size = f"0 0 {150 + len(plans) * w + 2:.0f} {20 + len(sites) * h}"
    keys = sorted({str(p.get(s)) for p in plans for s in sites}, key=text.order)
    key = "".join(f'<span><b class="{shade(k, kind)}"></b>{esc(k)}</span>' for k in keys)
    return (
        f'<figure><figcaption>{esc(name)}</figcaption><svg class="map" viewBox="{size}" role="img" '
        f'aria-label="{esc(name)} of {len(plans)} points">{"".join(cells)}</svg>'
        f'<p class="legend key">{key}</p></figure>'
    )


def _short(name: str, most: int = 22) -> str:
    return name if len(name) <= most else "…" + name[1 - most :]


def shade(label: str, kind: str) -> str:
    """Colour class of an option label, by its number: bits of a weight, kept share of a width."""
    axis, number = text.order(label)
    if not math.isfinite(number) or not axis:
        return "bf" if kind == "weight" else "b8"
    return colour(-number if kind == "weight" else 1 + 7 * max(0.0, -number))
