"""The report shows what the data say, all of it, safely, in one file."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from report_sample import NAMES, certificate, front, sample, summary, write

from allot.errors import ArtefactError
from allot.report import ReportData, compare, read, render, text

VOID = {"meta", "br", "hr", "img", "input", "link", "source", "wbr"}


class Tree(HTMLParser):
    """Reads a page: tags with their attributes, visible words, and what was not closed."""

    def __init__(self, page: str) -> None:
        HTMLParser.__init__(self)
        self.open: list[str] = []
        self.faults: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script", "title"):
            self.words.append(data)

    def having(self, tag: str, key: str) -> list[dict[str, str | None]]:
        return [a for t, a in self.tags if t == tag and key in a]


def words(page: str) -> str:
    return re.sub(r"\s+", " ", " ".join(Tree(page).words))


def changed(data: ReportData, **summary_fields: Any) -> ReportData:
    return replace(data, summary={**data.summary, **summary_fields})


def smaller() -> ReportData:
    return replace(
        sample(14, 9), name="smaller", certificate=certificate(1.31), summary=summary(14, 9)
    )


def refused() -> ReportData:
    found = {**front(12), "certified": {"0": False}, "bounds": {"0": 0.41}}
    return changed(
        ReportData(name="no", summary=summary(12, 0), front=found), compressed=None, chosen=None
    )


PAGES = {
    "whole": lambda: render(sample()),
    "no plan certified": lambda: render(refused()),
    "summary alone": lambda: render(ReportData(name="x", summary=summary(0, 0))),
    "least": lambda: render(ReportData(name="x", summary={"version": 1})),
    "one point": lambda: render(sample(1, 0)),
    "two runs": lambda: compare(sample(), smaller()),
    "two empty runs": lambda: compare(*[ReportData(name=n, summary={"version": 1}) for n in "ab"]),
}


@pytest.mark.parametrize("kind", PAGES)
def test_every_page_closes_what_it_opens(kind: str) -> None:
    tree = Tree(PAGES[kind]())
    assert ([], []) == (tree.faults, tree.open)


def test_the_balance_check_sees_an_unclosed_tag() -> None:
    assert Tree("<p><b>x</p>").faults


@pytest.mark.parametrize("kind", PAGES)
def test_no_page_asks_for_anything_outside_itself(kind: str) -> None:
    page = PAGES[kind]()
    tree = Tree(page)
    asked = [a[k] for _, a in tree.tags for k in ("src", "href", "xlink:href") if k in a]
    assert [] == asked
    assert not re.search(r"url\(|@import|https?://", page)
    assert "link" not in {t for t, _ in tree.tags}


@pytest.mark.parametrize("kind", PAGES)
def test_nothing_unknown_is_printed_as_a_python_word(kind: str) -> None:
    assert not re.search(r"\b(None|nan|inf|True|False)\b", words(PAGES[kind]()))


def test_every_point_stands_in_each_chart_and_in_the_table() -> None:
    tree = Tree(render(sample(30)))
    everything = {f"a{i}" for i in range(30)}
    rows = [a["data-point"] for a in tree.having("tr", "data-point")]
    dots = [a["data-point"] for a in tree.having("g", "data-point")]
    assert sorted(everything) == sorted(rows)
    assert sorted(3 * list(everything)) == sorted(dots)


def test_the_chosen_point_is_marked_once_in_each_chart_and_once_in_the_table() -> None:
    tree = Tree(render(sample(30, chosen=17)))
    assert 3 * ["a17"] == [a["data-point"] for a in tree.having("g", "data-chosen")]
    rows = [a["data-point"] for t, a in tree.tags if t == "tr" and a.get("class") == "chosen"]
    assert ["a17"] == rows
    assert [] == Tree(render(refused())).having("g", "data-chosen")


def test_filled_dots_are_exactly_the_certified_ones() -> None:
    data = sample(12)
    found = {0: True, 1: True, 2: False}
    dots = Tree(render(replace(data, front={**data.front, "certified": found}))).having(
        "g", "data-point"
    )
    kinds = {a["data-point"]: str(a["class"]).split()[-1] for a in dots}
    expected = {
        f"a{i}": {True: "yes", False: "no", None: "untested"}[found.get(i)] for i in range(12)
    }
    assert expected == kinds


def _poison(value: Any) -> Any:
    """The same data with a mark of HTML in every string, keys of labels included."""
    bad = "<script>alert('x')</script>\"&"
    if isinstance(value, str):
        return value + bad
    if isinstance(value, Mapping):
        return {k + bad if "." in str(k) else k: _poison(v) for k, v in value.items()}
    return [_poison(v) for v in value] if isinstance(value, (list, tuple)) else value


def test_markup_in_any_string_of_the_data_stays_text() -> None:
    clean = sample(12)
    files = ("summary", "front", "certificate", "harm")
    bad = ReportData(name=_poison("x"), **{f: _poison(getattr(clean, f)) for f in files})
    for page in (render(bad), compare(bad, bad)):
        tree = Tree(page)
        assert 1 == sum(t == "script" for t, _ in tree.tags)
        assert ([], []) == (tree.faults, tree.open)
        assert "<script>alert" in words(page)
        assert not [a for _, a in tree.tags if any(k.startswith("<") or "'" in k for k in a)]


def test_the_numbers_of_the_headline_are_those_of_the_data() -> None:
    page = words(render(sample()))
    for shown in (
        "127.9 KB",
        "6.12 ms",
        "1.42 G",
        "87.72 %",
        "88.06 %",
        "−0.34",
        "11.9 %",
        "[−0.82, +0.14]",
        "≤ 0.92",
        "129.4 KB",
        "6.57 ms",
        "1.08 MB",
        "14.6 ms",
    ):
        assert shown in page, shown


def test_every_number_of_a_point_is_shown_as_it_is_formatted() -> None:
    data = sample(12)
    page = words(render(data))
    for p in data.points:
        assert text.size(p["bills"]["size"]) in page
        assert text.nats(p["divergence"]) in page
        assert text.percent(p["metric"], 2) in page


def test_every_layer_and_its_bytes_are_shown() -> None:
    data = sample()
    page = words(render(data))
    for x in data.layers:
        assert re.search(rf"{re.escape(x['name'])} ", page)
        assert text.size(x["bytes"]) in page


def test_a_plan_picked_from_a_sequence_claims_what_was_allowed_not_its_own_bound() -> None:
    picked = {**certificate(0.42), "claim": 1.0, "place": 5}
    page = words(render(replace(sample(), certificate=picked)))
    assert "≤ 1.00" in page and "≤ 0.42" not in page
    assert "≤ 0.42" in words(render(replace(sample(), certificate=certificate(0.42))))


def test_what_is_not_certified_is_never_called_certified() -> None:
    page = words(render(replace(sample(), certificate=certificate(1.31))))
    assert "Not certified" in page and "≤ 1.31" in page and "missed" in page
    assert "No plan was proven" in words(render(refused()))
    assert "Nothing is certified" in words(render(replace(sample(), certificate={})))


def test_a_missed_budget_is_said() -> None:
    data = sample()
    late = {**data.compressed, "latency": 0.0071}
    assert "The budget for latency was missed" in words(render(changed(data, compressed=late)))
    assert "missed" not in words(render(data))


def test_reading_a_folder_gives_back_what_was_written(tmp_path: Path) -> None:
    data = sample()
    write(data, tmp_path)
    assert replace(data, name=tmp_path.name) == read(tmp_path)


@pytest.mark.parametrize("absent", ["front", "certificate", "harm"])
def test_an_absent_optional_file_costs_its_section_only(tmp_path: Path, absent: str) -> None:
    write(sample(), tmp_path)
    (tmp_path / f"{absent}.json").unlink()
    page = render(read(tmp_path))
    assert "127.9 KB" in page
    assert (f'id="{absent}"' in page) == (absent == "certificate")


def test_a_folder_without_a_readable_summary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match=r"no summary\.json"):
        read(tmp_path)
    for damage in ("{", "[1]", '{"version": 99}'):
        (tmp_path / "summary.json").write_text(damage)
        with pytest.raises(ArtefactError):
            read(tmp_path)


def test_a_comparison_shows_both_runs_and_the_change_between_them() -> None:
    a, b = sample(), smaller()
    b = changed(b, compressed={**b.compressed, "size": a.compressed["size"] // 2})
    page = compare(a, b)
    series = [a_["data-point"] for a_ in Tree(page).having("g", "data-point")]
    assert {f"a{i}" for i in range(30)} | {f"b{i}" for i in range(14)} == set(series)
    assert 2 == words(page).count("−50.0 %")  # in the sentence and in the table
    assert "mine" in words(page) and "smaller" in words(page)
    assert all(words(page).count(f" {name} ") == 1 for name in NAMES)


def test_runs_that_are_alike_have_no_difference() -> None:
    page = words(compare(sample(), sample()))
    assert "0.00 points" in page and not re.search(r"[+−][1-9][\d.]* %", page)


def test_a_site_with_infinite_or_zero_harm_is_drawn() -> None:
    rows = [
        {"site": "a.weight", "label": "W2", "kind": "weight", "divergence": v}
        for v in (0.0, math.inf)
    ]
    assert "∞" in words(render(replace(sample(), harm={"unit": "nat", "rows": rows})))


def test_a_front_of_zero_divergence_is_drawn() -> None:
    data = sample(2, 0)
    points = [{**p, "divergence": 0.0, "interval": [0.0, 0.0]} for p in data.points]
    page = render(replace(data, front={**data.front, "points": points}))
    assert not re.search(r'="-?(nan|inf)', page)
