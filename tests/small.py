"""Small: toy tasks with everything that stands before a search, fresh on each call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from allot.bank import Bank
from allot.calibrate import calibrate, needed
from allot.measure import Meter
from allot.memo import Memo
from allot.option import Option
from allot.options import precision, width
from allot.options.width import removals
from allot.runtimes.ideal import Ideal
from allot.site import Graph
from allot.space import Point, Space
from allot.task import Data, Task
from allot.trace import trace
from tests import toys


def task(
    make: Callable[[], nn.Module] = toys.chain,
    *,
    calibrate: int = 24,
    search: int = 20,
    certify: int = 40,
    labels: bool = True,
    **changes: Any,
) -> Task:
    """A toy with random images; its labels are what it says itself, some of them wrong.

    The bias of its last layer is set (in place) so that it says every class.
    """
    model = make()
    x = toys.images(calibrate + search + certify)
    with torch.no_grad():
        last = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]
        last.bias -= model(x).mean(0)
        said = model(x).argmax(1)
    said[::7] = (said[::7] + 1) % 5
    data = Data(inputs=x, labels=said if labels else None)
    ends = (calibrate, calibrate + search)
    parts = {
        "calibrate": data.subset(slice(0, ends[0])),
        "search": data.subset(slice(*ends)),
        "certify": data.subset(slice(ends[1], None)),
    }
    return Task(**{"name": make.__name__, "model": model, **parts, **changes})


@dataclass(kw_only=True)
class Kit:
    """A task with its graph, space, bank and meter."""

    task: Task
    graph: Graph
    space: Space
    bank: Bank
    meter: Meter

    def options(self, point: Point) -> dict[str, Option]:
        return self.space.options(point)


def kit(
    make: Callable[[], nn.Module] = toys.chain, *, memo: Memo | None = None, **changes: Any
) -> Kit:
    """Everything up to the first measurement; precision and width on the ideal target."""
    t = task(make, **changes)
    graph = trace(t.model, t.forward, t.example())
    space = precision.space(graph, Ideal()) + width.space(graph, Ideal())
    stats = calibrate(t, t.model, needed(space), batch=10)
    stats |= removals(t.model, graph, stats)
    bank = Bank(t.model, graph=graph, stats=stats)
    meter = Meter(t, bank, t.search, memo=Memo() if memo is None else memo, batch=7)
    return Kit(task=t, graph=graph, space=space, bank=bank, meter=meter)


def at(space: Space, **labels: str) -> Point:
    """The point with the label wherever a site's name, dots as underscores, starts so."""
    point = list(space.original)
    for i, choice in enumerate(space.choices):
        for start, label in labels.items():
            if choice.site.replace(".", "_").startswith(start):
                point[i] = [o.label for o in choice.options].index(label)
    return tuple(point)


def random_point(space: Space, seed: int) -> Point:
    g = torch.Generator().manual_seed(seed)
    return tuple(int(torch.randint(n, (1,), generator=g)) for n in space.counts)


def identities(model: nn.Module) -> dict[str, int]:
    """Every module by its path and which object it is."""
    return {n: id(m) for n, m in model.named_modules(remove_duplicate=False)}


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def state(model: nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items()}


def same_state(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def forward(t: Task, model: nn.Module, data: Data, *, batch: int = 7) -> Tensor:
    """Outputs for all data, in the same batches as the kit's meter: [n, ...]."""
    with torch.no_grad():
        return torch.cat([t.forward(model, b) for b in data.batches(batch)])


def width_and_bits(k: Kit) -> Point:
    """A point in which every axis changes something, everywhere but at the first input."""
    point = []
    for choice in k.space.choices:
        last = len(choice.options) - 1
        kind = k.graph.site(choice.site).kind
        point.append({"weight": 5, "activation": 1, "channels": min(2, last)}[kind])
    point[0] = 0
    return tuple(point)


__all__ = ["Kit", "at", "forward", "hooks", "identities", "kit", "random_point", "task"]
