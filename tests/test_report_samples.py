"""Laws of the report's samples: every picture and step that the data hold is there, nothing else.

Faults these must catch: a picture fetched from elsewhere, a step drawn at another's place, a row
lost, markup in a condition, an infinite log-SNR drawn off the chart.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from report_sample import certificate, sample, write
from test_report import Tree, words

from allot.files import write_json
from allot.report import ReportData, read, render
from allot.report.samples import samples_section

PNG = "iVBORw0KGgo="


def step(i: int, **fields: Any) -> dict[str, Any]:
    row = {"site": f"steps.{i}", "time": 950.0 - 50 * i, "log_snr": -4 + 0.5 * i, "bits": 8}
    return {**row, "label": f"does-{i}", "taken": True, "left": [], **fields}


STEPS = [
    step(0, bits=None, log_snr=-math.inf),
    step(1),
    step(2, left=["middle", "deep"], computed=0.4, bits=4),
    step(3, taken=False, bits=None),
    step(4, bits=4),
]


def found(**changed: Any) -> dict[str, Any]:
    """What `shown.shown` writes."""
    rows = [
        {"condition": c, "width": w, "height": 16,
         **{k: PNG for k in ("original", "compressed", "difference")}}
        for c, w in (("coat", 128), ("bag", 64))
    ]  # fmt: skip
    figures = [{"name": "psnr", "value": 31.234, "low": 30.9, "high": 31.6, "n": 1024}]
    return {"version": 1, "gain": 4.0, "rows": rows, "figures": figures, **changed}


def data(*, steps: Sequence[Mapping[str, Any]] = STEPS, **changed: Any) -> ReportData:
    whole = sample(4, 1)
    return replace(whole, samples=found(**changed), summary={**whole.summary, "steps": list(steps)})


def page(**changed: Any) -> str:
    return render(data(**changed))


def section(**changed: Any) -> str:
    return samples_section(data(**changed))


def bars(html: str) -> list[tuple[float, float, float]]:
    """(x, width, height) of what every step that is taken computes."""
    numbers = r'class="b\w" x="([\d.]+)" y="[\d.]+" width="([\d.]+)" height="([\d.]+)"'
    return [tuple(map(float, m)) for m in re.findall(numbers, html)]  # type: ignore[misc]


def test_without_samples_and_steps_there_is_no_section() -> None:
    assert samples_section(sample(3, 1)) == ""
    steps_alone = replace(data(), samples={})
    assert 'data-step="4"' in samples_section(steps_alone)
    assert "<img" not in samples_section(steps_alone)
    assert 'id="samples"' not in render(sample(3, 1))


def test_every_condition_has_three_pictures_inside_the_file() -> None:
    tree = Tree(page())
    sources = [a["src"] for a in tree.having("img", "src")]
    assert sources == 6 * [f"data:image/png;base64,{PNG}"]
    assert {"original coat", "difference bag"} <= {a["alt"] for a in tree.having("img", "alt")}
    assert ([], []) == (tree.faults, tree.open)
    assert "× 4" in words(page()) and "coat" in words(page())


def test_without_conditions_there_is_no_column_for_them() -> None:
    rows = [{**found()["rows"][0], "condition": ""}]
    tree = Tree(page(rows=rows))
    assert ([], []) == (tree.faults, tree.open)
    assert "original" in {a["alt"] for a in tree.having("img", "alt")}


def test_every_step_stands_once_in_the_strip_and_says_what_it_does() -> None:
    html = page()
    steps = [a["data-step"] for a in Tree(html).having("g", "data-step")]
    assert steps == ["0", "1", "2", "3", "4"]
    tips = re.findall(r"<title>(step[^<]*)</title>", html)
    assert "float" in tips[0] and "infinite" in tips[0]
    assert "does-2" in tips[2] and "4 bits, parts taken again, computes 40 %" in tips[2]
    assert "left out" in tips[3]


def test_bars_reach_from_each_step_taken_to_the_next_and_are_as_high_as_what_it_computes() -> None:
    found = bars(section())
    assert len(found) == 4
    for (x, width, _), (after, _, _) in pairwise(found):
        assert x + width + 1 == pytest.approx(after, abs=0.11)
    whole = found[0][2]
    assert [h / whole for *_, h in found] == pytest.approx([1, 1, 0.4, 1], abs=0.01)
    # the one after which a step is left out leads on twice as far
    assert found[2][1] + 1 == pytest.approx(2 * (found[1][1] + 1), abs=0.2)


@pytest.mark.parametrize(
    "steps", [[step(0)], [step(0, log_snr=math.inf)], [step(0, log_snr=None)], 3 * [step(0)]]
)
def test_strips_of_one_place_are_drawn_inside_the_chart(steps: list[dict[str, Any]]) -> None:
    found = bars(section(steps=steps))
    assert len(found) == len(steps)
    for x, width, _ in found:
        assert 0 <= x and x + width <= 700 and width > 0
    assert not re.search(r'="-?(nan|inf)', page(steps=steps))


def test_the_summary_counts_the_steps_and_what_they_compute() -> None:
    text = words(page())
    assert "is evaluated at 3 of 5 steps, parts of it are taken again at 1, 1 left out" in text
    assert f"{100 * (3 + 0.4) / 5:.0f} % of the multiplications" in text
    unknown = [step(0), step(1, left=["middle"])]
    assert "half where that is not known" in words(page(steps=unknown))
    assert "multiplications" not in words(page(steps=unknown))
    assert bars(section(steps=unknown))[1][2] == pytest.approx(
        bars(section(steps=unknown))[0][2] / 2
    )


def test_figures_are_shown_with_their_intervals_and_unknown_ones_as_a_dash() -> None:
    rows = [*found()["figures"], {"name": "kid", "value": None, "low": None, "high": 2.0, "n": 9}]
    text = words(page(figures=rows))
    assert "PSNR to the original, dB 31.23 [30.90, 31.60] 1024" in text
    assert "Kernel distance to the original – [–, 2.00] 9" in text


def test_markup_in_names_stays_text() -> None:
    bad = "<script>alert('x')</script>\"&"
    rows = [{k: f"{v}{bad}" for k, v in r.items()} for r in found()["rows"]]
    steps = [step(0, left=[bad], label=bad)]
    figures = [{"name": bad, "value": 1.0, "low": 0.0, "high": 2.0, "n": 3}]
    tree = Tree(page(rows=rows, steps=steps, figures=figures))
    assert 1 == sum(t == "script" for t, _ in tree.tags)
    assert all(str(a["src"]).endswith(bad) for a in tree.having("img", "src"))
    assert ([], []) == (tree.faults, tree.open)


def test_a_run_folder_may_hold_samples(tmp_path: Path) -> None:
    write(sample(), tmp_path)
    assert read(tmp_path).samples == {}
    write_json(tmp_path / "samples.json", found())
    assert read(tmp_path).samples == found()
    assert 'id="samples"' in render(read(tmp_path))


def test_a_summary_alone_with_samples_is_a_whole_page() -> None:
    html = render(ReportData(name="x", summary={"version": 1, "steps": STEPS}, samples=found()))
    assert ([], []) == (Tree(html).faults, Tree(html).open)
    assert not re.search(r"\b(None|nan|inf|True|False)\b", words(html))


def test_what_a_certificate_of_samples_bounds_is_called_so() -> None:
    bounded = {**certificate(0.42), "kind": "mean error"}
    text = words(render(replace(data(), certificate=bounded)))
    assert "Error of unseen samples" in text and "the feature error on data like those" in text
    assert "Error of unseen samples" not in words(page())
