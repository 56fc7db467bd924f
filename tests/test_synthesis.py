"""Laws of distilled inputs: their statistics are the remembered ones, whatever real data say.

Faults these laws must catch: statistics of one batch norm alone; variance for deviation; a network
left without gradients, or with hooks; the global random state; real values read.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from allot.errors import InputError
from allot.site import Graph
from allot.synthesis import distance, distilled, synthesize
from allot.task import call
from allot.trace import trace
from tests import small, toys


def taught(model: nn.Module, x: Tensor) -> tuple[nn.Module, Graph]:
    """The model with the statistics that its batch norms see on x, in place."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for m in norms:
        m.momentum, m.training = 1.0, True
    with torch.no_grad():
        model(x)
    return model.eval(), trace(model, call, x[:2])


def noise(like: Tensor, n: int = 32) -> Tensor:
    return torch.randn((n, *like.shape[1:]), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("make", (toys.chain, toys.residual, toys.separable))
def test_statistics_come_near_to_those_remembered(make: object) -> None:
    real = toys.images(64) * toys.images(64, seed=2)  # not normal, so noise is no answer
    model, graph = taught(make(), real)  # type: ignore[operator]
    made = synthesize(model, graph, real, samples=32, steps=150)
    assert made.shape == (32, *real.shape[1:])
    assert distance(model, graph, made) < 0.05 * distance(model, graph, noise(real))
    assert distance(model, graph, real) < 0.05 * distance(model, graph, noise(real))


def test_inputs_have_the_statistics_that_are_given() -> None:
    real = 0.3 + 0.2 * toys.images(64)
    model, graph = taught(toys.chain(), real)
    made = synthesize(model, graph, real, samples=32, steps=150, mean=0.3, deviation=0.2)
    assert float(made.mean()) == pytest.approx(0.3, abs=0.05)
    assert float(made.std()) == pytest.approx(0.2, abs=0.05)


def test_channels_that_no_norm_sees_have_them_too() -> None:
    model = toys.seeded(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)))
    model.get_parameter("0.weight").data[:, 1:] = 0
    made = synthesize(
        model, trace(model, call, toys.images(2)), toys.images(2), samples=2, steps=100,
        mean=0.3, deviation=0.2,
    )  # fmt: skip
    assert made[:, 1:].mean((0, 2, 3)).tolist() == pytest.approx([0.3, 0.3], abs=1e-3)
    assert made[:, 1:].std((0, 2, 3), correction=0).tolist() == pytest.approx([0.2, 0.2], abs=1e-3)


def test_the_distance_is_that_of_mean_and_deviation() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3)).eval()
    x = toys.images(8)
    norm = model[0]
    assert isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None
    norm.running_mean.copy_(torch.tensor([0.5, -1.0, 2.0]))
    norm.running_var = torch.tensor([4.0, 1.0, 0.25])
    dims = (0, 2, 3)
    means, deviations = x.mean(dims), x.std(dims, correction=0)
    want = (means - norm.running_mean).square().mean()
    want = want + (deviations - torch.tensor([2.0, 1.0, 0.5])).square().mean()
    graph = Graph(layers=(), sites=(), norms=("0",), order=())
    assert distance(model, graph, x) == pytest.approx(float(want), rel=1e-5)


def test_it_is_decided_by_the_seed_alone() -> None:
    model, graph = taught(toys.chain(), toys.images(16))
    like = toys.images(2)
    state = torch.get_rng_state()
    a, b, c = (synthesize(model, graph, x, samples=4, steps=5) for x in (like, like, like * 0))
    other = synthesize(model, graph, like, samples=4, steps=5, seed=1)
    assert torch.equal(a, b) and torch.equal(a, c) and not torch.equal(a, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_network_is_left_as_it_was() -> None:
    model, graph = taught(toys.chain(), toys.images(16))
    frozen = model.get_parameter("head.bias").requires_grad_(False)
    before, identities = small.state(model), small.identities(model)
    synthesize(model, graph, toys.images(2), samples=4, steps=5)
    assert small.same_state(small.state(model), before)
    assert small.identities(model) == identities and small.hooks(model) == 0
    assert not frozen.requires_grad and all(
        p.requires_grad and p.grad is None for p in model.parameters() if p is not frozen
    )


def test_a_task_calibrates_on_what_was_made() -> None:
    task = small.task(toys.chain)
    graph = trace(task.model, task.forward, task.example())
    made = distilled(task, graph, samples=6, steps=3)
    assert len(made.calibrate) == 6 and made.calibrate.labels is None
    assert made.search is task.search and made.certify is task.certify
    assert made.model is task.model


def test_what_cannot_be_synthesized_is_refused() -> None:
    x = toys.images(4)
    bare = toys.constant()
    with pytest.raises(InputError, match=r"no batch norm.*real calibration data"):
        synthesize(bare, trace(bare, call, x), x)
    model, graph = taught(toys.chain(), x)
    with pytest.raises(InputError, match=r"torch.int64.*real calibration data"):
        synthesize(model, graph, torch.zeros(4, 3, 8, 8, dtype=torch.int64))
    two = small.task(toys.chain)
    pair = type(two.calibrate)(inputs=toys.pair_inputs())
    with pytest.raises(InputError, match=r"\['facts', 'image'\]"):
        distilled(type(two)(**{**two.__dict__, "calibrate": pair}), graph)
