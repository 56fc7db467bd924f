"""Synthesis: inputs made from noise, whose batch statistics are those the norms remember."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from allot.errors import InputError
from allot.site import Graph
from allot.sweep import Observer, observed
from allot.task import Data, Task, call

# of Adam, the authors' own, per unit of the input's deviation
_RATE = 0.5


def synthesize(
    model: nn.Module,
    graph: Graph,
    like: Tensor,
    *,
    samples: int = 64,
    steps: int = 200,
    seed: int = 0,
    mean: float = 0.0,
    deviation: float = 1.0,
    forward: Callable[[nn.Module, Any], Tensor] = call,
    progress: Callable[[float], None] = lambda share: None,
) -> Tensor:
    """Distilled inputs [samples, ...] (Cai et al. 2020, eq. 3): Adam on noise until mean and
    deviation of what enters every batch norm are its running ones, those of the input `mean` and
    `deviation`.

    like: an input, of which only shape, kind of number and device are read.  All samples are one
    batch.  The rate falls linearly to 0, where the authors let it fall when the loss stalls: the
    number of steps is then known.  A step costs a forward and a backward pass.  Raises InputError
    for a network without batch norm and for inputs that are not of real numbers.
    """
    _check(graph, like)
    g = torch.Generator().manual_seed(seed)
    noise = torch.randn((samples, *like.shape[1:]), generator=g) * deviation + mean
    x = noise.to(device=like.device, dtype=like.dtype).requires_grad_(True)
    adam = torch.optim.Adam([x], lr=_RATE * deviation)
    with _gaps(model, graph) as gaps:
        for step in range(steps):
            adam.param_groups[0]["lr"] = _RATE * deviation * (1 - step / steps)
            gaps.clear()
            forward(model, x)
            loss = sum(gaps, _input_gap(x, mean, deviation))
            (x.grad,) = torch.autograd.grad(loss, [x])
            adam.step()
            progress((step + 1) / steps)
    return x.detach()


def distance(
    model: nn.Module, graph: Graph, x: Tensor, *, forward: Callable[..., Tensor] = call
) -> float:
    """Squared distance of batch from running statistics, per channel, summed over batch norms."""
    with _gaps(model, graph) as gaps, torch.no_grad():
        forward(model, x)
        return float(sum(gaps))


def distilled(
    task: Task, graph: Graph, *, samples: int = 128, steps: int = 200, seed: int = 0
) -> Task:
    """The task with distilled inputs to calibrate on; no real calibration data is used.

    Raises InputError like `synthesize`.
    """
    x = synthesize(
        task.model,
        graph,
        single(task.calibrate),
        samples=samples,
        steps=steps,
        seed=seed,
        forward=task.forward,
    )
    return replace(task, calibrate=Data(inputs=x))


def single(data: Data) -> Tensor:
    """The one input tensor of a network; raises InputError where there are several."""
    if isinstance(data.inputs, Tensor):
        return data.inputs
    raise InputError(
        f"inputs are synthesized for networks of one tensor; this one reads {sorted(data.inputs)}: "
        "give real calibration data"
    )


def _check(graph: Graph, like: Tensor) -> None:
    if not graph.norms:
        raise InputError(
            "the network has no batch norm whose statistics inputs could be synthesized from; "
            "give real calibration data"
        )
    if not like.is_floating_point():
        raise InputError(
            f"inputs of {like.dtype} cannot be synthesized by gradient descent; "
            "give real calibration data"
        )


@contextmanager
def _gaps(model: nn.Module, graph: Graph) -> Iterator[list[Tensor]]:
    """For a while every batch norm that runs adds how far its batch is from what it remembers.

    Parameters need no gradient meanwhile.
    """
    gaps: list[Tensor] = []
    wanted = [p for p in model.parameters() if p.requires_grad]
    try:
        for p in wanted:
            p.requires_grad_(False)
        hooks = {(n, "in"): [_observer(model.get_submodule(n), gaps)] for n in graph.norms}
        with observed(model, hooks):
            yield gaps
    finally:
        for p in wanted:
            p.requires_grad_(True)


def _observer(norm: nn.Module, gaps: list[Tensor]) -> Observer:
    mean, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")

    def observe(x: Tensor) -> None:
        gaps.append(_gap(x, mean, variance.sqrt()))

    return observe


def _input_gap(x: Tensor, mean: float, deviation: float) -> Tensor:
    if x.dim() < 3:  # rows of features: there is no channel whose places share statistics
        return x.new_zeros(())
    channels = x.new_ones(x.shape[1])
    return _gap(x, mean * channels, deviation * channels)


def _gap(x: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """Mean squared gap over channels of batch mean and deviation, each in its own right."""
    dims = [d for d in range(x.dim()) if d != 1]
    variance, found = torch.var_mean(x, dim=dims, correction=0)
    # a constant channel has no slope at 0
    spread = (variance + 1e-12).sqrt()
    return (found - mean).square().mean() + (spread - deviation).square().mean()
