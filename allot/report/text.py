"""Numbers and names as people read them: 129.4 KB, 6.12 ms, 88.06 %, −0.34 points."""

from __future__ import annotations

import html
import math
from collections import Counter
from collections.abc import Iterable, Sequence

NOTHING = "–"
MINUS = "−"
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def esc(value: object) -> str:
    """Any value as text that is safe inside HTML elements and quoted attributes."""
    return html.escape(str(value), quote=True)


def known(value: float | None) -> bool:
    """False for what was not measured: absent, NaN or infinite."""
    return value is not None and math.isfinite(value)


def size(n: float | None) -> str:
    """Bytes in decimal units: 129397 -> "129.4 KB"."""
    if n is None or not known(n):
        return NOTHING
    for unit, digits in (("B", 0), ("KB", 1), ("MB", 2), ("GB", 2)):
        # the switch is at what would be printed, so that 999 960 is not "1000.0 KB"
        if round(abs(n), digits) < 1000 or unit == "GB":
            return f"{n:.{digits}f} {unit}"
        n = n / 1000
    return NOTHING


def seconds(s: float | None) -> str:
    """A time: 0.00612 -> "6.12 ms", 245 -> "4 min 5 s"."""
    if s is None or not known(s):
        return NOTHING
    if s >= 100:
        return f"{int(round(s) // 60)} min {int(round(s) % 60)} s"
    for factor, unit in ((1.0, "s"), (1e3, "ms"), (1e6, "µs")):
        if s * factor >= 1 or unit == "µs":
            return f"{figures(s * factor)} {unit}"
    return NOTHING


def joules(e: float | None) -> str:
    """An energy: 0.00612 -> "6.12 mJ"."""
    if e is None or not known(e):
        return NOTHING
    for factor, unit in ((1.0, "J"), (1e3, "mJ"), (1e6, "µJ")):
        if e * factor >= 1 or unit == "µJ":
            return f"{figures(e * factor)} {unit}"
    return NOTHING


def count(n: float | None) -> str:
    """A large count with a prefix: 2.61e9 -> "2.61 G"."""
    if n is None or not known(n):
        return NOTHING
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(n) >= max(factor, 1e4):
            return f"{figures(n / factor)} {prefix}"
    return f"{n:.0f}"


def figures(x: float) -> str:
    """At least three significant figures, never an exponent: for numbers near one."""
    return f"{x:.0f}" if abs(x) >= 99.95 else f"{x:.1f}" if abs(x) >= 9.995 else f"{x:.2f}"


def percent(x: float | None, digits: int = 1) -> str:
    """A share: 0.12 -> "12.0 %"."""
    return NOTHING if x is None or not known(x) else f"{100 * x:.{digits}f} %"


def signed(x: float | None, digits: int = 2) -> str:
    """A change with its sign: -0.34 -> "−0.34"."""
    if x is None or not known(x):
        return NOTHING
    text = f"{abs(x):.{digits}f}"
    return text if float(text) == 0 else (MINUS if x < 0 else "+") + text


def moved(before: float | None, after: float | None) -> float | None:
    """Change of a metric in points: 0.88, 0.87 -> -1.0; None where either is not known."""
    return None if before is None or after is None else 100 * (after - before)


def points(x: float | None) -> str:
    """Points of a metric, of which a loss is positive: 0.92 -> "0.92"."""
    return signed(x).lstrip("+")


def nats(x: float | None) -> str:
    """A divergence with three significant figures: "0.0123", "3.1 × 10⁻⁵"."""
    if x is None or not known(x):
        return NOTHING
    if x == 0 or abs(x) >= 1e-4:
        digits = 0 if x == 0 else max(0, 2 - math.floor(math.log10(abs(x))))
        return f"{x:.{digits}f}"
    power = math.floor(math.log10(abs(x)))
    return f"{x / 10**power:.1f} × 10{str(power).translate(_SUPERSCRIPT)}"


def ratio(a: float | None, b: float | None) -> float | None:
    """a / b where both are known and b is not zero."""
    return None if a is None or b is None or not known(a) or not known(b) or b == 0 else a / b


def span(pair: Sequence[float | None] | None, show: object = None) -> str:
    """An interval: "[−0.82, +0.14]" by the formatter `show` (signed by default)."""
    if not pair or len(pair) != 2:
        return ""
    low, high = ((show(v) if callable(show) else signed(v)) for v in pair)
    return f"[{low}, {high}]"


def order(label: str) -> tuple[str, float]:
    """Sort key of option labels: by axis, from gentle to harsh ("W8" before "W2")."""
    name = label.rstrip("0123456789.")
    number = label[len(name) :].strip(".")
    return name, -float(number) if number.replace(".", "", 1).isdigit() else -math.inf


def tally(labels: Iterable[str]) -> str:
    """What a plan is made of: ["W4", "W4", "A8"] -> "A8 ×1 · W4 ×2"."""
    found = Counter(labels)
    return " · ".join(f"{name} ×{found[name]}" for name in sorted(found, key=order))
