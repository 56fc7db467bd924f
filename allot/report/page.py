"""The report: one self-contained HTML page, made of its sections in the order they are read."""

from __future__ import annotations

from importlib.resources import files
from string import Template

from allot.report.data import ReportData
from allot.report.fronts import front_section
from allot.report.headline import headline
from allot.report.heat import harm_section
from allot.report.layers import along_section, layers_section
from allot.report.making import making_section
from allot.report.noise import noise_section
from allot.report.proof import certificate_section, table_section
from allot.report.samples import samples_section
from allot.report.text import esc


def render(data: ReportData) -> str:
    """The report of one run as an HTML page that needs no other file and no network."""
    sections = (
        headline(data),
        samples_section(data),
        front_section(data),
        layers_section(data),
        along_section(data),
        harm_section(data),
        table_section(data),
        certificate_section(data),
        noise_section(data),
        making_section(data),
    )
    return page(title=f"{data.task} · allot", body="\n".join(sections))


def page(*, title: str, body: str) -> str:
    """A whole page around a body, with the style sheet inside."""
    room = files("allot.report")
    style = (room / "style.css").read_text(encoding="utf-8")
    frame = Template((room / "page.html").read_text(encoding="utf-8"))
    return frame.substitute(title=esc(title), style=style, body=body)
