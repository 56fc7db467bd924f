"""Laws of spans inside one another: what did not run keeps what it gave before."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from allot.sampling.sampler import Step, Way
from allot.sampling.spans import HOLD, RESIDUAL, Span
from tests import tiny_sampler as tiny

OUTER = Span(name="outer", modules=("blocks.0", "blocks.1", "blocks.2"), keeps=RESIDUAL)
INNER = Span(name="inner", modules=("blocks.1", "blocks.2"), keeps=RESIDUAL)
LATER = Span(name="later", modules=("blocks.2",), keeps=RESIDUAL)
SPANS = (OUTER, INNER, LATER)


def run(ways: dict[int, Span]) -> Tensor:
    sampler = tiny.sampler(5)
    sampler.spans = SPANS
    for i, span in ways.items():
        sampler.steps[i] = Step(index=i, way=Way(reuse={span: HOLD}))
    noise = torch.randn(3, *tiny.SHAPE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found: Tensor = sampler(noise, label=torch.arange(3))
    return found


def by_hand(ways: dict[int, Span]) -> Tensor:
    """The same, with what every block adds written down at every step that runs it."""
    sampler = tiny.sampler(5)
    noise = torch.randn(3, *tiny.SHAPE, generator=torch.Generator().manual_seed(0))
    net, g, label = sampler.denoiser, sampler.grid, torch.arange(3)
    kept: dict[str, Tensor] = {}
    x, past = noise, []
    with torch.no_grad():
        for i in range(5):
            x = g.move(x, past, g.level(i))
            time = torch.full((3,), g.level(i).time)
            waves = torch.cos(time[:, None] * torch.logspace(-2, 0, 8))
            told = torch.tanh(net.embed(waves) + net.label(label))  # type: ignore[operator]
            h = through(net, net.enter(x), told, left=ways.get(i), kept=kept)  # type: ignore[operator]
            past.append(g.read(x, net.leave(h), g.level(i)))  # type: ignore[operator]
        return g.move(x, past, g.level(5), last=True)


def through(
    net: nn.Module, h: Tensor, told: Tensor, *, left: Span | None, kept: dict[str, Tensor]
) -> Tensor:
    """All blocks of one evaluation, a span of them left out; what the others add is kept."""
    before: dict[str, Tensor] = {}
    out = () if left is None else left.modules
    for b, block in enumerate(net.get_submodule("blocks").children()):
        name = f"blocks.{b}"
        before |= {s.name: h for s in SPANS if s.modules[0] == name}
        if left is not None and name in out:
            h = before[left.name] + kept[left.name] if out[-1] == name else h
            continue
        h = block(h, told)
        ending = [s for s in SPANS if s.modules[-1] == name and s.modules[0] not in out]
        kept |= {s.name: h - before[s.name] for s in ending}
    return h


@pytest.mark.parametrize(
    "ways",
    ({2: OUTER, 3: INNER}, {2: INNER, 3: OUTER}, {1: OUTER, 2: LATER, 3: INNER, 4: OUTER},
     {1: LATER, 2: INNER, 4: LATER}, {3: OUTER, 4: LATER}),
)  # fmt: skip
def test_a_span_that_did_not_run_keeps_what_it_gave_before(ways: dict[int, Span]) -> None:
    assert torch.allclose(run(ways), by_hand(ways), atol=1e-6)
