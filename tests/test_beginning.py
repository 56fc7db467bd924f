"""Laws of the beginning: a job's original is the user's network, whatever it then goes through.

Faults these laws must catch: times, bytes or BitOPs relative to a rewritten network; a network
traced or changed twice; a space that is not admitted and still worked in.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from allot import billed
from allot.beginning import Asked, begun, run_of
from allot.errors import InputError
from allot.job import Job
from allot.memo import Memo
from allot.options import precision
from allot.plan import weights_digest
from allot.rewrites.rewrite import Rewrite
from allot.rewrites.smoothing import Smooth
from allot.run import Run
from allot.runtimes.ideal import Ideal
from allot.space import Space
from allot.stages import Stages
from allot.target import Workload
from allot.task import Task
from allot.trace import trace
from tests import small, tiny


def asked(t: Task, **changes: Any) -> Asked:
    graph = trace(t.model, t.forward, t.example())
    given: dict[str, Any] = {"axes": {"precision": precision.space}, "target": Ideal(), **changes}
    return Asked(task=t, graph=graph, pins={}, excludes=(), **given)


def run(t: Task, folder: Path, *rewrites: Rewrite) -> Run:
    given = asked(t)
    start = begun(given, rewrites)
    job = Job(
        task="tiny", graph=start.space.graph.digest, weights=weights_digest(start.task.model),
        budgets=(), max_drop=1.0, axes=("precision",), target="ideal", workload=Workload(batch=4),
        seed=0, rewrites=rewrites,
    )  # fmt: skip
    return run_of(given, start, job=job, folder=folder, memo=Memo(), stages=Stages())


def holds(file: bytes) -> tuple[list[str], list[bytes]]:
    """Operators and weights of an ONNX file, in no order."""
    onnx = pytest.importorskip("onnx")
    graph = onnx.load_from_string(file).graph
    weights = [onnx.numpy_helper.to_array(x).tobytes() for x in graph.initializer]
    return sorted(n.op_type for n in graph.node), sorted(weights)


def test_the_original_that_is_timed_is_the_network_before_its_rewrites(tmp_path: Path) -> None:
    t = tiny.normed()
    before = small.state(t.model)
    plain, rewritten = run(t, tmp_path), run(t, tmp_path, Smooth())
    assert plain.job.weights != rewritten.job.weights
    # files that were edited and files that were exported hold the same in another order
    originals = [r.clock.original() for r in (rewritten, plain)]
    assert holds(originals[0]) == holds(originals[1])
    assert holds(rewritten.clock.exported({})) != holds(plain.clock.exported({}))
    assert plain.clock.exported({}) == plain.clock.original()
    assert plain.reference is None and rewritten.reference == trace(t.model, t.forward, t.example())
    assert small.same_state(before, small.state(t.model)) and small.hooks(t.model) == 0


def test_bills_of_the_original_are_those_of_its_layers() -> None:
    given = asked(tiny.normed())
    found = billed.originals(given.graph, workload=Workload(), asked=("memory",))
    assert found["size"] == given.graph.folded_bytes
    assert found["bitops"] == 1024 * sum(x.macs for x in given.graph.layers)
    assert found["memory"] > found["size"]
    space = begun(given, ()).space
    tables = billed.tables(space, Ideal(), workload=Workload(), asked=())
    assert set(tables) == {"size", "bitops"}
    assert tables["bitops"].of(space.original) == found["bitops"]


def test_a_space_that_is_not_admitted_ends_the_beginning() -> None:
    def refuse(space: Space) -> None:
        raise InputError(f"{len(space.choices)} choices are too many")

    with pytest.raises(InputError, match="are too many"):
        begun(asked(tiny.task(), admit=refuse), ())
