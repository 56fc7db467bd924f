"""Charts as SVG text: axes with nice ticks, linear or logarithmic, and scatters of fronts."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from allot.report.text import esc

Show = Callable[[float], str]
Box = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class Axis:
    """low..high in data units drawn from start to end in pixels; log: equal ratios equal steps."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """Where a value is drawn; values outside are drawn on the rim."""
        value = min(max(value, self.low), self.high)
        low, high = self.low, self.high
        if self.log:
            value, low, high = math.log(value), math.log(low), math.log(high)
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self, most: int) -> list[float]:
        """At most about `most` round values within the axis."""
        if not self.log:
            return linear_ticks(self.low, self.high, most)
        for marks in ((1, 2, 5), (1, 3), (1,)):
            found = log_ticks(self.low, self.high, marks)
            if len(found) <= most:
                return found if len(found) > 1 else linear_ticks(self.low, self.high, most)
        return log_ticks(self.low, self.high, (1,), every=math.ceil(len(found) / most))


def axis(values: Sequence[float], *, start: float, end: float, log: bool = False) -> Axis:
    """An axis around the values with a little room; log axes leave values <= 0 on the rim."""
    usable = [v for v in values if math.isfinite(v) and (v > 0 or not log)]
    low, high = (min(usable), max(usable)) if usable else (0.1, 1.0)
    if log:
        pad = max((high / low) ** 0.07, 1.12)
        return Axis(low=low / pad, high=high * pad, start=start, end=end, log=True)
    room = 0.07 * (high - low) or 0.1 * abs(high) or 1.0
    bottom = low - room if low < 0 else max(0.0, low - room)
    return Axis(low=bottom, high=high + room, start=start, end=end)


def linear_ticks(low: float, high: float, most: int) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten in [low, high]: one to `most` + 1 of them."""
    rough = (high - low) / max(most, 2)
    power = 10.0 ** math.floor(math.log10(rough))
    at = next((i for i, m in enumerate((1, 2, 5)) if m * power >= rough), 3)
    # A step can jump over the whole range (1 to 42 by 50); the next finer one never does.
    return _multiples(low, high, _step(power, at)) or _multiples(low, high, _step(power, at - 1))


def _step(power: float, at: int) -> float:
    return (0.5, 1, 2, 5, 10)[at + 1] * power


def _multiples(low: float, high: float, step: float) -> list[float]:
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float, marks: Sequence[int], every: int = 1) -> list[float]:
    """Marks times every power of ten (or each `every`-th) in [low, high]."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = [m * 10.0**p for p in powers if p % every == 0 for m in marks]
    return [v for v in values if low <= v * (1 + 1e-9) and v <= high * (1 + 1e-9)]


def trim(words: str) -> str:
    """A tick without idle zeros: "50.0 KB" -> "50 KB"."""
    return re.sub(r"(\.\d*?)0+(?=\D|$)", r"\1", words).replace(". ", " ").rstrip(".")


@dataclass(frozen=True, kw_only=True)
class Dot:
    """One plan in a scatter. state: "yes" (certified), "no", "untested". whisker: interval of y.

    key: index in its front.  series: "a" or "b", the colour.  tip: lines shown on hover.
    """

    x: float
    y: float
    key: int
    state: str
    tip: str
    chosen: bool = False
    series: str = "a"
    whisker: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Frame:
    """How a scatter is drawn. limit: (value of x, words) of a budget line; numbered: keys shown."""

    width: int
    height: int
    x_title: str
    y_title: str
    show_x: Show
    show_y: Show
    limits: Sequence[tuple[float, str]] = field(default=())
    numbered: bool = True


def scatter(dots: Sequence[Dot], frame: Frame) -> str:
    """Dots over a linear x and a logarithmic y, a staircase per series, budget lines, numbers."""
    left, right, top, bottom = 58, frame.width - 14, 48, frame.height - 44
    x = axis(_reach(dots, frame), start=left, end=right)
    y = axis([v for d in dots for v in (d.y, *(d.whisker or ()))], start=bottom, end=top, log=True)
    parts = [_grid(x, y, frame), *(_limit(v, words, x, y) for v, words in frame.limits)]
    for series in sorted({d.series for d in dots}):
        parts.append(_stairs([d for d in dots if d.series == series], x, y))
    parts += [_whisker(d, x, y) for d in dots]
    parts += [_dot(d, x, y) for d in sorted(dots, key=lambda d: d.chosen)]
    parts += _numbers(dots, x, y, all_of_them=frame.numbered)
    label = esc(f"{frame.y_title} against {frame.x_title}, {len(dots)} points")
    return (
        f'<svg class="chart" viewBox="0 0 {frame.width} {frame.height}" role="img" '
        f'aria-label="{label}">{"".join(parts)}</svg>'
    )


def _reach(dots: Sequence[Dot], frame: Frame) -> list[float]:
    """The x values that the axis must hold: the dots, and limits that do not dwarf them."""
    xs = [d.x for d in dots]
    span = (max(xs) - min(xs)) or max(xs) if xs else 0.0
    near = [v for v, _ in frame.limits if xs and min(xs) - span <= v <= max(xs) + span]
    return xs + near


def _grid(x: Axis, y: Axis, frame: Frame) -> str:
    out = []
    for v in y.ticks(7 if frame.height > 300 else 5):
        at = y.at(v)
        out.append(f'<line class="grid" x1="{x.start}" x2="{x.end}" y1="{at:.1f}" y2="{at:.1f}"/>')
        out.append(f'<text class="tick" x="{x.start - 8}" y="{at + 4:.1f}" text-anchor="end">')
        out.append(f"{esc(trim(frame.show_y(v)))}</text>")
    for v in x.ticks(6 if frame.width > 500 else 4):
        at = x.at(v)
        out.append(f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" ')
        out.append(f'y1="{y.start}" y2="{y.start + 5}"/><text class="tick" x="{at:.1f}" ')
        out.append(f'y="{y.start + 19}" text-anchor="middle">{esc(trim(frame.show_x(v)))}</text>')
    out.append(f'<line class="rim" x1="{x.start}" x2="{x.end}" y1="{y.start}" y2="{y.start}"/>')
    out.append(f'<text class="title" x="4" y="14">{esc(frame.y_title)}</text>')
    out.append(f'<text class="title" x="{x.end}" y="{frame.height - 6}" text-anchor="end">')
    out.append(f"{esc(frame.x_title)}</text>")
    return "".join(out)


def _limit(value: float, words: str, x: Axis, y: Axis) -> str:
    if not x.low <= value <= x.high:
        return ""
    at = x.at(value)
    side = "end" if at > (x.start + x.end) / 2 else "start"
    return (
        f'<line class="limit" x1="{at:.1f}" x2="{at:.1f}" y1="{y.end - 6}" y2="{y.start}"/>'
        f'<text class="limit" x="{at:.1f}" y="{y.end - 9}" '
        f'text-anchor="{side}">{esc(words)}</text>'
    )


def _stairs(dots: Sequence[Dot], x: Axis, y: Axis) -> str:
    """The staircase through the dots that no other dot beats in x and y."""
    path: list[str] = []
    best = math.inf
    for d in sorted(dots, key=lambda d: (d.x, d.y)):
        if d.y < best:
            corner = f"L{x.at(d.x):.1f},{y.at(best):.1f}" if path else ""
            path.append(f"{corner}{'L' if path else 'M'}{x.at(d.x):.1f},{y.at(d.y):.1f}")
            best = d.y
    series = dots[0].series if dots else "a"
    return f'<path class="stairs {series}" d="{"".join(path)}"/>' if path else ""


def _whisker(d: Dot, x: Axis, y: Axis) -> str:
    if d.whisker is None:
        return ""
    low, high = d.whisker
    return (
        f'<line class="whisker {d.series}" x1="{x.at(d.x):.1f}" x2="{x.at(d.x):.1f}" '
        f'y1="{_up(y, low):.1f}" y2="{_up(y, high):.1f}"/>'
    )


def _up(y: Axis, value: float) -> float:
    """Position on a log axis; what is not positive lies on its lower rim."""
    return y.at(value if value > 0 else y.low)


def _dot(d: Dot, x: Axis, y: Axis) -> str:
    cx, cy = f"{x.at(d.x):.1f}", f"{_up(y, d.y):.1f}"
    ring = f'<circle class="ring" cx="{cx}" cy="{cy}" r="9.5"/>' if d.chosen else ""
    mark = ' data-chosen="yes"' if d.chosen else ""
    return (
        f'<g class="dot {d.series} {d.state}" data-point="{d.series}{d.key}"{mark} tabindex="0">'
        f"<title>{esc(d.tip)}</title>{ring}"
        f'<circle class="hit" cx="{cx}" cy="{cy}" r="12"/>'
        f'<circle class="core" cx="{cx}" cy="{cy}" r="4.6"/></g>'
    )


def _numbers(dots: Sequence[Dot], x: Axis, y: Axis, *, all_of_them: bool) -> list[str]:
    """Keys beside the dots, the chosen first; one that would cover something is left out."""
    taken: list[Box] = [
        (x.at(d.x) - r, _up(y, d.y) - r, x.at(d.x) + r, _up(y, d.y) + r)
        for d in dots
        for r in (11.0 if d.chosen else 5.0,)
    ]
    out = []
    for d in sorted(dots, key=lambda d: not d.chosen):
        if not (all_of_them or d.chosen):
            continue
        words = f"{d.key} chosen" if d.chosen else str(d.key)
        words = f"{d.series.upper()} {d.key}" if len({o.series for o in dots}) > 1 else words
        place = _free(words, x.at(d.x), _up(y, d.y), taken, (x, y), gap=13 if d.chosen else 8)
        if place is not None:
            taken.append(place)
            kind = "number chosen" if d.chosen else "number"
            # anchored at the dot's side: where letters are set larger they grow away from it
            left, right = place[0] > x.at(d.x), place[2] < x.at(d.x)
            side = "start" if left else "end" if right else "middle"
            at = place[0] if left else place[2] if right else (place[0] + place[2]) / 2
            out.append(f'<text class="{kind}" x="{at:.1f}" y="{place[3] - 2.5:.1f}" ')
            out.append(f'text-anchor="{side}">{esc(words)}</text>')
    return out


def _free(
    words: str, cx: float, cy: float, taken: Sequence[Box], axes: tuple[Axis, Axis], *, gap: float
) -> Box | None:
    """A box for words beside (cx, cy) that meets no taken box and stays inside the axes."""
    w, h = (7.4 if gap > 8 else 6.4) * len(words) + 3, 12.0
    x, y = axes
    for dx, dy in ((1, -0.7), (-1, 0.7), (1, 0.7), (-1, -0.7), (1, 0), (-1, 0), (0, -1), (0, 1)):
        mx, my = cx + dx * (gap + w / 2) * (0.8 if dx and dy else 1), cy + dy * (gap + h / 2 - 2)
        box = (mx - w / 2, my - h / 2, mx + w / 2, my + h / 2)
        inside = box[0] >= x.start and box[2] <= x.end and box[1] >= y.end and box[3] <= y.start
        if inside and not any(
            box[0] < t[2] and t[0] < box[2] and box[1] < t[3] and t[1] < box[3] for t in taken
        ):
            return box
    return None
