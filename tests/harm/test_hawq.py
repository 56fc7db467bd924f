"""Laws of the Hessian trace: it is the trace, of the loss whose labels the network draws.

Faults these laws must catch: signs that are not +-1; a cross term between tensors that stays; a
trace of the labelled gradient; an error counted once for tied weights; a skeleton left trainable.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from allot.errors import InputError
from allot.harm.hawq import hawq, traces
from allot.scene import Scene
from allot.table import Table
from tests import toys
from tests.harm import laws, scenes


def signal(scene: Scene) -> Table:
    return hawq(scene, probes=10)


@pytest.mark.parametrize("law", laws.ADDITIVE)
def test_it_is_a_signal(law: object) -> None:
    law(signal)  # type: ignore[operator]


def test_progress() -> None:
    laws.progresses(lambda s, f: hawq(s, probes=9, progress=f))


def little() -> nn.Module:
    conv, head = nn.Conv2d(3, 2, 3, stride=2), nn.Linear(8, 5)
    return toys.seeded(nn.Sequential(conv, nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), head))


def exact(scene: Scene, name: str) -> float:
    """Trace of the Hessian of cross-entropy, in the mean over labels drawn by the network."""
    model, x = scene.bank.skeleton.double(), scene.data.inputs
    assert isinstance(x, Tensor)
    chance = model(x.double()).softmax(1)

    def loss(w: Tensor) -> Tensor:
        out = functional_call(model, {f"{name}.weight": w}, (x.double(),))
        return -(chance * out.log_softmax(1)).sum(1).mean()

    w = model.get_submodule(name).get_parameter("weight")
    h = torch.autograd.functional.hessian(loss, w)
    assert isinstance(h, Tensor)
    return float(h.reshape(w.numel(), w.numel()).trace())


def test_the_estimate_is_the_exact_trace_within_its_error() -> None:
    s = scenes.scene(little)
    found = traces(s, ["0", "4"], probes=300, accuracy=0)
    for name, (trace, error) in found.items():
        want = exact(s, name)
        assert abs(trace - want) < 4 * error and error < 0.1 * want


def test_probes_end_when_the_estimate_is_sure() -> None:
    s = scenes.scene(little)
    before = s.evaluator.spent
    found = traces(s, ["0", "4"], probes=3000, accuracy=0.05)
    assert all(error <= 0.0501 * trace for trace, error in found.values())
    probes = (s.evaluator.spent - before - 3) / 4
    assert 8 <= probes < 3000 and probes == int(probes)


def test_fewer_samples_cost_less() -> None:
    s = scenes.scene(little)
    traces(s, ["0"], probes=4, accuracy=0, samples=len(s.data) // 4)
    assert s.evaluator.spent == pytest.approx((3 + 4 * 4) / 4)


def test_a_small_error_that_points_nowhere_does_the_harm_that_is_said() -> None:
    """The mean divergence of random changes of a weight is half trace / m times their square."""
    s = scenes.scene(little)
    trace, _ = traces(s, ["4"], probes=300, accuracy=0)["4"]
    g, w = torch.Generator().manual_seed(1), s.bank.module("4").get_parameter("weight")
    assert isinstance(s.data.inputs, Tensor)
    model, x = s.bank.skeleton.double(), s.data.inputs.double()
    original, losses = model(x), []
    kept = w.data.clone()
    for _ in range(300):
        noise = 1e-3 * torch.randn(w.shape, generator=g, dtype=w.dtype)
        w.data = kept + noise
        loss = s.task.divergence(original, model(x)).mean()
        losses.append(float(loss / noise.square().sum()))
    assert np.mean(losses) == pytest.approx(0.5 * trace / w.numel(), rel=0.15)


def test_attention_has_a_trace_too() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix, self.head = nn.Linear(8, 24), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.mix(x.mean(1)).chunk(3, dim=-1)
            return self.head(nn.functional.scaled_dot_product_attention(q, k, v).mean(1))

    s = scenes.scene(lambda: toys.seeded(Attention()))
    found = traces(s, ["mix", "head"], probes=8)
    assert all(trace > 0 for trace, _ in found.values())


def test_a_loss_without_a_second_derivative_is_refused() -> None:
    s = scenes.scene(little)
    distance = replace(s.task, divergence=lambda a, b: (a - b).square().sum(1).sqrt())
    with pytest.raises(InputError, match="second derivative"):
        traces(replace(s, task=distance), ["0"], probes=2)


def test_the_harm_is_half_the_mean_curvature_times_the_squared_error() -> None:
    s = laws.scene("weight")
    table, found = signal(s), traces(s, ["conv1", "conv2", "head"], probes=10)
    for choice, term in zip(s.space.choices, table.terms, strict=True):
        name = choice.site.removesuffix(".weight")
        w = s.bank.module(name).get_parameter("weight")
        for option, value in zip(choice.options[1:], term.values[1:], strict=True):
            inner = s.bank.standins({choice.site: option})[name].inner
            assert isinstance(inner, nn.Conv2d | nn.Linear)
            error = float((inner.weight.double() - w.double()).square().sum())
            assert value == pytest.approx(0.5 * found[name][0] / w.numel() * error, rel=1e-9)
