"""Laws of replay for forwards that are more than their modules: the losses of plain runs.

Faults these laws must catch: a value asked of a ghost; a mask made on the device of a ghost; a
record of the first of two calls; a change in place that only some inputs bring; a stand-in
without what its layer has; sharing given up where nothing asks for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from allot.bank import Bank
from allot.calibrate import calibrate, needed
from allot.in_process import InProcess
from allot.measure import Meter
from allot.memo import Memo
from allot.options.precision import Activation, Weight
from allot.recover import Recovery
from allot.space import Choice, Point, Space
from allot.task import Data, Task
from allot.trace import trace
from tests import small, toys

MATCHED = Recovery(samples=24)
NOTHING = Recovery(samples=0, matched=False)


class Opaque(nn.Module):
    """Convolutions, and code between them that looks at values. limit, sign: how it does."""

    limit: float = 0.0
    sign: int = 1

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.conv1, self.conv2, self.conv3 = (nn.Conv2d(c, 6, 3, padding=1) for c in (3, 6, 6))
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        a = self.conv1(x)
        b = self.conv2(functional.relu(a))
        return self.head(self.end(a, b, self.conv3(functional.relu(b))).mean((2, 3)))

    def over(self, x: Tensor) -> bool:
        return bool(self.sign * x.mean() > self.limit)

    def end(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        raise NotImplementedError


class Decides(Opaque):
    """Reads a, and decides by b, where c is large."""

    def end(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        if self.over(c):
            return c * a.mean() if b.mean() > 0 else c + 0.5
        return c


class Again(Opaque):
    """Calls its second and third layer again where c is large."""

    def end(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        return c + self.conv2(functional.relu(self.conv3(c))) if self.over(c) else c


class InPlace(Opaque):
    """Changes a and b, which others read then, where c is large."""

    def end(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        if self.over(c):
            a += 1
            b.relu_()
        return a + b * c


class Placed(Opaque):
    """Asks where a is; works otherwise where it is not in memory."""

    def end(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        return c if a.is_cpu else c + 1


class Masked(Opaque):
    """Makes positions and a mask on the device of a tensor of which it needs no value."""

    def end(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        at = torch.arange(a.shape[-1], device=a.device)
        mask = torch.zeros(a.shape[-2:], device=a.device).masked_fill(at[:, None] > at, -2.0)
        return (c + mask.to(a.device)).relu() * at.to(c.dtype)


def opaque(kind: type[Opaque], sign: int = 1, *, first: bool = False) -> Callable[[], nn.Module]:
    """A maker; the example lies at the limit, other batches on either side of it.

    first: whether the example is the one that is over it.
    """

    def make() -> nn.Module:
        model = toys.seeded(kind())
        assert isinstance(model, Opaque)
        example = toys.images(84)[:2]
        convs = nn.Sequential(model.conv1, nn.ReLU(), model.conv2, nn.ReLU(), model.conv3)
        with torch.no_grad():
            model.limit = float(sign * convs(example).mean()) + (-1e-4 if first else 1e-4)
        model.sign = sign
        return model

    return make


def spaced(t: Task, *, activations: bool = True) -> small.Kit:
    """A kit of any task: weights of its layers, and what enters them."""
    graph = trace(t.model, t.forward, t.example())
    bits = tuple(Weight(bits=b) for b in (32, 4, 3))
    choices = [Choice(site=f"{x.module}.weight", options=bits) for x in graph.layers]
    if activations:
        sites = [s for s in graph.sites if s.kind == "activation" and not s.fixed]
        either = (Activation(bits=32), Activation(bits=4))
        choices += [Choice(site=s.name, options=either) for s in sites]
    space = Space(graph=graph, choices=tuple(choices))
    stats = calibrate(t, t.model, needed(space), batch=10)
    bank = Bank(t.model, graph=graph, stats=stats)
    meter = Meter(t, bank, t.search, memo=Memo(), batch=7)
    return small.Kit(task=t, graph=graph, space=space, bank=bank, meter=meter)


def evaluator(k: small.Kit, how: Recovery) -> InProcess:
    t = k.task
    return InProcess(
        space=k.space, task=t, bank=k.bank, data=t.search, recovery=how, memo=Memo(), batch=7
    )


def points(space: Space, seed: int = 0) -> list[Point]:
    """A random point with one neighbour for every choice, another one, and the original."""
    p, q = small.random_point(space, seed), small.random_point(space, seed + 1)
    near = [(*p[:i], (p[i] + 1) % n, *p[i + 1 :]) for i, n in enumerate(space.counts)]
    return list(dict.fromkeys([p, q, *near, space.original]))


def whole(k: small.Kit, point: Point) -> tuple[float, ...]:
    """Divergences of a plan without recovery, run from the start, nothing replayed."""
    found: list[Tensor] = []
    for x in k.task.search.batches(7):
        with torch.no_grad():
            original = k.task.forward(k.task.model, x)
            with k.bank.trial(k.bank.standins(k.space.options(point))) as model:
                found.append(k.task.divergence(original, k.task.forward(model, x)))
    return tuple(float(f"{v:.9g}") for v in torch.cat(found).double().tolist())


def check(k: small.Kit, recovery: Recovery) -> None:
    """Losses are the meter's, in two calls of which the second starts from other records."""
    e, at = evaluator(k, recovery), points(k.space)
    want = {p: k.meter.loss(k.space.options(p), recovery=recovery) for p in at}
    for part in (at[::2], at[1::2]):
        assert e.losses(part) == [want[p] for p in part]


KINDS = (Decides, Again, InPlace, Placed, Masked)


@pytest.mark.parametrize("first", (False, True))
@pytest.mark.parametrize("sign", (1, -1))
@pytest.mark.parametrize("kind", KINDS)
def test_losses_are_those_of_whole_runs(kind: type[Opaque], sign: int, first: bool) -> None:
    k = spaced(small.task(opaque(kind, sign, first=first)), activations=False)
    e, at = evaluator(k, NOTHING), points(k.space)
    for part in (at[::2], at[1::2]):
        assert [x.divergences for x in e.losses(part)] == [whole(k, p) for p in part]


@pytest.mark.parametrize("kind", (Decides, Placed, Masked))
def test_losses_with_recovery_are_the_plain_ones(kind: type[Opaque]) -> None:
    check(spaced(small.task(opaque(kind))), MATCHED)


def test_what_asks_for_no_value_runs_what_costs_claim() -> None:
    k = spaced(small.task(opaque(Masked)))
    macs = sum(x.macs for x in k.graph.layers) * len(k.task.search)
    e = evaluator(k, NOTHING)
    e.losses([k.space.original])
    claimed = sum(e.costs(points(k.space)))
    with FlopCounterMode(display=False) as counter:
        e.losses(points(k.space))
    assert counter.get_total_flops() / (2 * macs) == pytest.approx(claimed, rel=1e-9)


def test_an_error_of_the_network_itself_is_raised_as_it_is() -> None:
    class Fails(Opaque):
        limit = torch.inf

        def end(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
            if self.over(c):
                raise ValueError("too large")
            return c

    k = spaced(small.task(lambda: toys.seeded(Fails())))
    e = evaluator(k, NOTHING)
    e.losses([k.space.original])
    skeleton = k.bank.skeleton
    assert isinstance(skeleton, Fails)
    skeleton.limit = -torch.inf
    before = small.identities(skeleton)
    with pytest.raises(ValueError, match="too large"):
        e.losses([small.random_point(k.space, 3)])
    assert small.identities(skeleton) == before


def drawn(model: nn.Module, forward: Callable[[nn.Module, Tensor], Tensor], x: Tensor) -> Task:
    """A task of a network with weights by seed."""
    parts = [Data(inputs=part) for part in x.split((24, 20, 40))]
    return Task(
        name="stock", model=toys.seeded(model), forward=forward,
        calibrate=parts[0], search=parts[1], certify=parts[2],
    )  # fmt: skip


@pytest.mark.parametrize("padded", (False, True))
def test_a_stock_language_model(padded: bool) -> None:
    transformers = pytest.importorskip("transformers", reason="its own networks are tested")
    config = transformers.LlamaConfig(
        vocab_size=11, hidden_size=8, intermediate_size=12, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=16, pad_token_id=0,
    )  # fmt: skip

    def forward(model: nn.Module, x: Tensor) -> Tensor:
        mask = (x > 0).long() if padded else None
        return model(input_ids=x, attention_mask=mask).logits[:, -1]

    g = torch.Generator().manual_seed(1)
    x = torch.randint(1, 11, (84, 6), generator=g)
    x[::3, :2] = 0
    k = spaced(drawn(transformers.LlamaForCausalLM(config), forward, x), activations=False)
    check(k, NOTHING)


def test_a_stock_vision_model() -> None:
    transformers = pytest.importorskip("transformers", reason="its own networks are tested")
    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12,
        image_size=8, patch_size=4, num_labels=5,
    )  # fmt: skip

    def forward(model: nn.Module, x: Tensor) -> Tensor:
        return model(pixel_values=x).logits

    k = spaced(drawn(transformers.ViTForImageClassification(config), forward, toys.images(84)))
    first = [c for c in k.space.choices if "projection" in c.site]
    assert {type(c.options[0]) for c in first} == {Weight, Activation}
    for recovery in (MATCHED, NOTHING):
        check(replace(k, space=replace(k.space, choices=(*first, *k.space.choices[-3:]))), recovery)
