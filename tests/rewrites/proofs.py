"""Proofs that every rewrite owes: same output, user's network untouched, traced and quantized."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from allot import part
from allot.bank import Bank
from allot.calibrate import calibrate, needed
from allot.options import precision
from allot.record import is_unit
from allot.rewrites.rewrite import Rewrite, change, rewritten
from allot.runtimes.ideal import Ideal
from allot.task import Data, Task
from allot.trace import trace
from tests import small


def of(model: nn.Module, inputs: Tensor) -> Task:
    """A task on three thirds of the inputs, its divergence the squared error."""
    third = len(inputs) // 3
    sets = [Data(inputs=inputs[i * third : (i + 1) * third]) for i in range(3)]
    return Task(
        name="toy",
        model=model.eval(),
        calibrate=sets[0],
        search=sets[1],
        certify=sets[2],
        divergence=lambda a, b: (a - b).flatten(1).square().mean(1),
    )


def check_rewrite(task: Task, rewrite: Rewrite, *, tolerance: float = 1e-5) -> Task:
    """The rewritten task, after every law that holds for all rewrites."""
    before, modules = small.state(task.model), small.identities(task.model)
    new = rewritten(task, [rewrite])
    assert small.same_state(before, task.model.state_dict())
    assert modules == small.identities(task.model) and not small.hooks(task.model)
    assert not shared(task.model, new.model) and not small.hooks(new.model)
    for data in (task.calibrate, task.search):
        wanted, got = output(task, data), output(new, data)
        assert change(wanted, got) <= tolerance
    again = part.load(rewrite.dump())
    assert again == rewrite
    assert small.same_state(again.apply(task).state_dict(), new.model.state_dict())
    check_quantizes(new)
    return new


def shared(a: nn.Module, b: nn.Module) -> set[int]:
    """Addresses at which both networks hold a parameter or buffer."""
    places = [{t.data_ptr() for t in m.state_dict().values() if t.numel()} for m in (a, b)]
    return places[0] & places[1]


def output(task: Task, data: Data | None = None) -> Tensor:
    return small.forward(task, task.model, task.calibrate if data is None else data)


def check_quantizes(task: Task) -> None:
    """Every layer is traced and takes 8-bit weights, close to the original, and 2-bit ones."""
    graph = trace(task.model, task.forward, task.example())
    called = {n for n, m in task.model.named_modules() if is_unit(m) and hasattr(m, "bias")}
    assert {x.module for x in graph.layers} <= called and graph.layers
    space = precision.space(graph, Ideal())
    bank = Bank(task.model, graph=graph, stats=calibrate(task, task.model, needed(space), batch=10))
    wanted = output(task)
    errors = []
    for label in ("W8", "W2"):
        options = {
            c.site: next(o for o in c.options if o.label == label)
            for c in space.choices
            if graph.site(c.site).kind == "weight"
        }
        with bank.trial(bank.standins(options)) as model:
            errors.append(change(wanted, small.forward(task, model, task.calibrate)))
    assert 0 < errors[0] < errors[1] and errors[0] < 0.2


def layers(model: nn.Module) -> list[tuple[str, Any]]:
    kinds = nn.Conv2d | nn.Linear
    return [(n, m) for n, m in model.named_modules() if is_unit(m) and isinstance(m, kinds)]


def rounded(x: Tensor, bits: int) -> Tensor:
    """Nearest on a symmetric grid with one scale for the whole tensor."""
    top = 2 ** (bits - 1) - 1
    scale = x.abs().max().clamp(min=1e-12) / top
    return (x / scale).round().clamp(-top, top) * scale


def every(name: str) -> bool:
    return True


def weight_error(
    task: Task, wanted: Tensor, bits: int = 4, *, only: Callable[[str], bool] = every
) -> float:
    """Squared error of the output with weights rounded, one scale per tensor."""
    state = small.state(task.model)
    try:
        for module in (m for n, m in layers(task.model) if only(n)):
            module.weight.data = rounded(module.weight.data, bits)
        return float((output(task) - wanted).square().mean())
    finally:
        task.model.load_state_dict(state)


def input_error(
    task: Task, wanted: Tensor, bits: int = 4, *, only: Callable[[str], bool] = every
) -> float:
    """Squared error of the output with layers' inputs rounded, one scale per batch."""

    def before(module: nn.Module, args: Any) -> Any:
        return (rounded(args[0], bits), *args[1:])

    handles = [m.register_forward_pre_hook(before) for n, m in layers(task.model) if only(n)]
    try:
        got = output(task)
    finally:
        for h in handles:
            h.remove()
    return float((got - wanted).square().mean())


def spread(n: int, decades: float, seed: int = 5) -> Tensor:
    """Powers of ten over some decades, shuffled: [n]."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return (10.0 ** torch.linspace(-decades / 2, decades / 2, n))[order]


def names(found: Sequence[tuple[str, Any]]) -> list[str]:
    return [n for n, _ in found]
