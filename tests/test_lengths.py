"""Laws of lengths: a file of tokens runs at any length as the network does, or says why not.

Faults these must catch: a length frozen in silence; a file of one branch run at lengths of another;
a session that keeps the first length it saw; names that hide which axes go together.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from allot.artefact import write_artefact
from allot.cli.entry import call
from allot.deploy import deploy
from allot.errors import DataError
from allot.onnx_graph import load_proto, to_onnx
from allot.onnx_lengths import Lengths, lengths
from allot.plan import Plan
from allot.ports import check_inputs, describe
from allot.runtimes import OnnxRuntime, OpenVino
from allot.target import Workload
from allot.task import free_axes
from allot.trace import trace
from tests import attention, toys
from tests.deployables import coded, edge
from tests.rewrites import transformers_small

CPU = (OnnxRuntime(), OpenVino())
PLACES = 6


class Placed(nn.Module):
    """Tokens [n, t] -> [n, t, 5] with a table of places; kind: what it does with the length."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.embed, self.head = nn.Embedding(5, 8), nn.Linear(8, 5)
        self.places = nn.Parameter(torch.zeros(1, PLACES, 8))

    def forward(self, x: Tensor) -> Tensor:
        y = self.embed(x)
        if self.kind == "all places":
            y = y + self.places
        elif self.kind == "branch" and x.shape[1] > 4:
            y = 2 * y
        found: Tensor = self.head(y)
        return found


class Masked(nn.Module):
    """Two inputs that share their length: tokens, mask [n, t] -> [n, 5]."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(5, 8), nn.Linear(8, 5)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        kept = self.embed(tokens) * mask[..., None]
        found: Tensor = self.head(kept.sum(1))
        return found


def tokens(n: int, t: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 5, (n, t), generator=torch.Generator().manual_seed(seed))


def said(onnx: bytes) -> Lengths:
    return lengths(load_proto(onnx))


def quantized(kind: str) -> nn.Module:
    """A language model, one linear in 4 bits, one from codes to codes."""
    model: Any = attention.language() if kind == "plain" else transformers_small.gated().model
    model.requires_grad_(False)
    graph = trace(model, lambda m, b: m(b), tokens(2, PLACES))
    block = model.layers[0]
    block.up = edge(coded(block.up, 8), low=-3.0, high=3.0)
    model.head = coded(model.head, 4)
    return deploy(model, graph)


@pytest.fixture(scope="module", params=["plain", "gated"])
def file(request: Any) -> tuple[bytes, nn.Module]:
    made = quantized(request.param)
    return to_onnx(made, tokens(2, PLACES)), made


@pytest.mark.parametrize("target", CPU, ids=[t.name for t in CPU])
def test_a_file_of_tokens_runs_at_any_length(file: tuple[bytes, nn.Module], target: Any) -> None:
    onnx, network = file
    session = target.open(onnx, workload=Workload(batch=3))
    for n, t in ((3, PLACES), (3, 9), (2, 2), (3, PLACES), (1, 1), (1, 17)):
        x = tokens(n, t, seed=t)
        expected = network(x).numpy()
        got = session.run({"input": x.numpy()})["output"]
        # at the border of two codes either may come out
        assert np.abs(expected - got).max() < 0.02 * np.abs(expected).max(), (n, t)


def test_its_axes_have_names_and_nothing_is_said(file: tuple[bytes, nn.Module]) -> None:
    found = describe(file[0])
    assert [["batch", "length"]] == [x["shape"] for x in found["inputs"]]
    assert ["batch", "length"] == found["outputs"][0]["shape"][:2]
    assert Lengths() == said(file[0])
    check_inputs({"input": tokens(3, 50).numpy()}, found["inputs"])


def test_a_network_of_one_length_says_so_and_keeps_its_batch_free() -> None:
    network = toys.seeded(Placed("all places"))
    onnx = to_onnx(network, tokens(2, PLACES))
    assert f"static shape of {PLACES}" in said(onnx).fixed
    (port,) = describe(onnx)["inputs"]
    assert ["batch", PLACES] == port["shape"]
    with pytest.raises(DataError, match="has shape"):
        check_inputs({"input": tokens(2, 4).numpy()}, [port])


@pytest.mark.parametrize(("traced", "refused", "taken"), [(6, 4, 5), (3, 5, 4)])
def test_a_branch_on_the_length_bounds_it(traced: int, refused: int, taken: int) -> None:
    network = toys.seeded(Placed("branch"))
    onnx = to_onnx(network, tokens(2, traced))
    (port,) = describe(onnx)["inputs"]
    with pytest.raises(DataError, match=f"length {refused} along axis 1"):
        check_inputs({"input": tokens(2, refused).numpy()}, [port])
    x = tokens(2, taken)
    check_inputs({"input": x.numpy()}, [port])
    got = OnnxRuntime().open(onnx, workload=Workload(batch=2)).run({"input": x.numpy()})["output"]
    torch.testing.assert_close(network(x), torch.from_numpy(got), rtol=1e-4, atol=1e-5)


def test_the_verb_says_why_a_length_is_fixed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = toys.seeded(Placed("all places")).eval()
    graph = trace(network, lambda m, x: m(x), tokens(2, PLACES))
    deployed = deploy(network, graph)
    onnx = to_onnx(deployed, tokens(2, PLACES))
    summary = {**describe(onnx), "target_part": OnnxRuntime().dump(), "workload": {}}
    plan = Plan(graph="g", weights="w", options={}).dump()
    documents = {"plan.json": plan, "summary.json": summary}
    write_artefact(tmp_path / "run", onnx=onnx, deployed=deployed, graph=graph, documents=documents)
    asked = ["export", str(tmp_path / "run"), str(tmp_path / "net.onnx")]
    assert 0 == call(asked)
    assert f"static shape of {PLACES}" in capsys.readouterr().out
    assert 0 == call([*asked, "--json"])
    assert said(onnx).fixed == json.loads(capsys.readouterr().out)["fixed_lengths"]


def test_no_length_is_free_that_was_not_asked_for() -> None:
    network = toys.seeded(Placed("plain"))
    asked = to_onnx(network, tokens(2, PLACES), free={})
    assert ["batch", PLACES] == describe(asked)["inputs"][0]["shape"]
    assert Lengths() == said(asked)


def test_an_example_of_one_token_fixes_the_length_and_says_so() -> None:
    onnx = to_onnx(toys.seeded(Placed("plain")), tokens(2, 1))
    assert "length 1 in the example" in said(onnx).fixed
    assert ["batch", 1] == describe(onnx)["inputs"][0]["shape"]


def test_inputs_that_go_together_share_a_name() -> None:
    network = toys.seeded(Masked())
    example = {"tokens": tokens(2, PLACES), "mask": tokens(2, PLACES, seed=1) % 2}
    onnx = to_onnx(network, example)
    assert [["batch", "length"]] * 2 == [x["shape"] for x in describe(onnx)["inputs"]]
    given = {"tokens": tokens(4, 3), "mask": tokens(4, 3, seed=1) % 2}
    session = OpenVino().open(onnx, workload=Workload(batch=4))
    got = session.run({k: v.numpy() for k, v in given.items()})["output"]
    torch.testing.assert_close(network(**given), torch.from_numpy(got), rtol=1e-4, atol=1e-5)


def test_sides_of_an_image_are_free_where_a_task_says_so() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    toys.seeded(network)
    onnx = to_onnx(network, toys.images(2), free={"input": (2, 3)})
    assert ["batch", 3, "length", "length2"] == describe(onnx)["inputs"][0]["shape"]
    x = torch.cat([toys.images(2), toys.images(2)], 3)
    for target in CPU:
        got = target.open(onnx, workload=Workload(batch=2)).run({"input": x.numpy()})["output"]
        torch.testing.assert_close(network(x), torch.from_numpy(got), rtol=1e-4, atol=1e-5)


def test_axes_are_free_of_tokens_alone() -> None:
    assert {"input": (1,)} == free_axes(tokens(2, 3))
    assert {} == free_axes(torch.zeros(2, 3)) == free_axes(toys.images(2))
    assert {"a": (1,)} == free_axes({"a": tokens(2, 3), "b": torch.zeros(2, 3)})
