"""Laws of results: sites at what convolutions make, where no other site stands."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from allot.runtimes import OnnxRuntime, OpenVino
from allot.site import Graph
from allot.trace import trace
from benchmarks.tasks import ResNet20
from tests.runtimes.quantized import images, network


def traced(model: nn.Module, x: Tensor) -> Graph:
    return trace(model.eval(), lambda m, batch: m(batch), x)


def touched(graph: Graph) -> dict[str, str]:
    """Site -> where it sits."""
    return {s.name: s.touches[0].module for s in graph.results}


def test_sums_of_resnet20_have_one_at_the_norm_of_every_second_convolution() -> None:
    with torch.random.fork_rng(devices=[]):
        graph = traced(ResNet20(), torch.randn(2, 3, 32, 32))
    blocks = [f"layer{i}.{j}" for i in (1, 2, 3) for j in range(3)]
    assert {f"{b}.conv2.result": f"{b}.bn2" for b in blocks} == touched(graph)


class Ways(nn.Module):
    """A norm, a ReLU in place and pooling in a row; SiLU; ReLU6 as a module; one called twice."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.a, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.relu, self.pool = nn.ReLU(inplace=True), nn.MaxPool2d(2)
        self.b, self.silu = nn.Conv2d(8, 8, 3, padding=1), nn.SiLU()
        self.c, self.six = nn.Conv2d(8, 8, 1), nn.ReLU6()
        self.twice = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu(self.norm(self.a(x))))
        y = self.six(self.c(self.silu(self.b(x))))
        y = self.twice(self.twice(y))
        return self.head(F.relu(torch.cat([y, x], 1)).mean((2, 3))[:, :8])


def test_a_result_lies_behind_all_that_keeps_its_grid_and_before_all_else() -> None:
    graph = traced(Ways(), images("sums", 2, 0))
    # a: its pooled ReLU is what b reads, and has a site; twice: called twice
    assert {"b.result": "b", "c.result": "six"} == touched(graph)


def test_no_tensor_has_two_sites() -> None:
    for name in ("sums", "mixed"):
        graph = traced(network(name, 0), images(name, 2, 0))
        every = [(t.module, t.role) for s in (*graph.sites, *graph.results) for t in s.touches
                 if s.kind == "activation"]  # fmt: skip
        assert len(every) == len(set(every))


def test_results_change_nothing_for_who_does_not_ask() -> None:
    graph = traced(network("sums", 0), images("sums", 2, 0))
    assert graph.results and graph.digest == replace(graph, results=()).digest
    for site in graph.sites:
        assert () == OpenVino().tied(site, graph)


def test_onnx_runtime_ties_a_result_to_the_input_of_its_convolution() -> None:
    graph = traced(network("mixed", 0), images("mixed", 2, 0))
    tied = {s.name: OnnxRuntime().tied(s, graph) for s in graph.sites}
    # b reads what SiLU makes, c the concatenation
    assert {"a.input": ("a.result",), "b.input": ("b.result",), "c.input": ("c.result",)} == {
        k: v for k, v in tied.items() if v
    }
    made = [x for v in tied.values() for x in v]
    assert sorted(made) == sorted(s.name for s in graph.results)
