"""Laws of the forecast: what comes before the search is in it, as it is then counted.

Faults these laws must catch: rewritten originals that cost nothing; a forecast below what comparing
them took.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from allot.beginning import Asked
from allot.forecast import forecast
from allot.job import Job
from allot.memo import Memo
from allot.options import precision
from allot.originals import Comparison, compared, expected, named
from allot.plan import weights_digest
from allot.runtimes.ideal import Ideal
from allot.setup import space as space_of
from allot.space import Space
from allot.target import Workload
from allot.task import Task
from allot.trace import trace
from tests import tiny

AXES = {"precision": precision.space}
NAMES = ("fold-equalize", "rotate")


def made() -> tuple[Task, Space]:
    task = tiny.task()
    graph = trace(task.model, task.forward, task.example())
    return task, space_of(graph, AXES, target=Ideal(), pins={}, excludes=())


@pytest.mark.parametrize("names", [("fold-equalize",), NAMES])
def test_comparing_rewritten_originals_takes_what_was_forecast(
    names: tuple[str, ...], tmp_path: Path
) -> None:
    task, space = made()
    asked = Asked(
        task=task, graph=space.graph, axes=AXES, target=Ideal(), pins={}, excludes=()
    )  # fmt: skip
    job = Job(
        task="tiny", graph=space.graph.digest, weights=weights_digest(task.model), budgets=(),
        max_drop=1.0, axes=("precision",), target="ideal", workload=Workload(), seed=0,
    )  # fmt: skip
    tried = compared(Comparison(asked=asked, budgets=(), memo=Memo(), job=job), named(names))
    fit = [t.name for t in tried if t.loss is not None and t.name != "none"]
    took = sum(t.passes for t in tried)
    assert fit and took == pytest.approx(expected(task, space, fit))
    assert took <= expected(task, space, names) + 1e-9


def test_the_forecast_holds_them() -> None:
    task, space = made()
    plain = forecast(task, space, target=Ideal())
    more = forecast(task, space, target=Ideal(), originals=NAMES)
    assert expected(task, space, ()) == 0
    assert more.passes == pytest.approx(plain.passes + expected(task, space, NAMES))
    assert more.passes > plain.passes


def test_a_dry_run_counts_them(capsys: pytest.CaptureFixture[str]) -> None:
    import json

    from tests.test_cli import call

    found = []
    for more in ((), ("--try-rewrites", "auto")):
        assert call([*tiny.COMPRESS, "--axes", "precision", "--dry-run", "--json", *more]) == 0
        found.append(json.loads(capsys.readouterr().out)["forward_passes"])
    task, space = made()
    assert found[1] - found[0] == pytest.approx(expected(task, space, named(["auto"])), abs=1)
