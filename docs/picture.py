"""Picture: the front of a finished run as docs/front.svg, drawn by the report's own functions.

python docs/picture.py RUN docs/front.svg "ResNet-20 on CIFAR-10"
"""

from __future__ import annotations

import re
import sys
from importlib import resources
from pathlib import Path

from allot.report.data import ReportData, read
from allot.report.fronts import chart
from allot.report.text import esc, percent, points, size

WIDTH, HEIGHT, MARGIN, HEAD = 700, 470, 22, 80
KEY = "filled dots are certified, hollow ones are not; a whisker is a 95 % interval"
# what the chart needs of the report's style: colours of both schemes, and its marks
KEPT = re.compile(
    r"^(:root|@media screen|  :root|\.tick|\.chart \.title|\.grid|\.rim|line\.limit|text\.limit|"
    r"\.stairs|\.whisker|\.dot|\.core|\.hit|\.ring|\.number\b(?!s))"
)


def picture(data: ReportData, *, title: str, bill: str = "size") -> str:
    """The chart on a card of its own, so that it reads on a light page and on a dark one."""
    inner = chart([data], bill, large=True)
    inner = inner.replace("<svg ", f'<svg x="{MARGIN}" y="{HEAD}" width="{WIDTH}" ', 1)
    inner = inner.replace('role="img"', f'height="{HEIGHT}" role="img"', 1)
    inner = inner.replace('class="title"', 'class="tick"')
    w, h = WIDTH + 2 * MARGIN, HEIGHT + HEAD + MARGIN
    head, under = f"{title}: {len(data.points)} measured plans", _words(data)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}" width="{w}" height="{h}">'
        f"<style>{_style()}</style>"
        f'<rect class="card" width="{w}" height="{h}" rx="12"/>'
        f'<text class="head" x="{MARGIN + 4}" y="32">{esc(head)}</text>'
        f'<text class="tick" x="{MARGIN + 4}" y="53">{esc(under)}</text>'
        f'<text class="tick" x="{MARGIN + 4}" y="70">{esc(KEY)}</text>'
        f"{inner}</svg>\n"
    )


def _words(data: ReportData) -> str:
    a, b = data.original, data.compressed
    if not b:
        return "none of them certified"
    return (
        f"chosen: {size(b['size'])} of {size(a['size'])} ({percent(b['size'] / a['size'])}), "
        f"{data.metric} {percent(b['metric'], 2)} (original {percent(a['metric'], 2)}), certified "
        f"to lose at most {points(data.claim)} points"
    )


def _style() -> str:
    text = resources.files("allot.report").joinpath("style.css").read_text(encoding="utf-8")
    rules = re.findall(r"(?m)^@media screen.*?\n\}|^[^\s}].*?\{[^{}]*\}", text, flags=re.DOTALL)
    own = (
        "text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,Helvetica,Arial,sans-serif}"
        ".card{fill:var(--paper);stroke:var(--rule)}"
        ".head{fill:var(--ink);font-size:17px;font-weight:650}"
    )
    kept = [re.sub(r"\s+", " ", r) for r in rules if KEPT.match(r)]
    return own + "".join(kept)


if __name__ == "__main__":
    run, svg, name = sys.argv[1:4]
    Path(svg).write_text(picture(read(Path(run)), title=name), encoding="utf-8")
