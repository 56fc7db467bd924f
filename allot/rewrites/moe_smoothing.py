"""Shared smoothing: one vector for a router and all experts behind a norm, folded into the norm."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from allot.errors import InputError, ModelError
from allot.rewrites.flow import Flow, Reading, flows
from allot.rewrites.layers import copied, input_sizes, layer, magnitudes
from allot.rewrites.norms import norm_kind
from allot.rewrites.readers import most, scale_readers
from allot.rewrites.rewrite import Rewrite
from allot.task import Task


@dataclass(frozen=True, kw_only=True)
class SharedSmoothing(Rewrite):
    """Outliers of what a mixture of experts reads, moved into its weights (Fu et al. 2025).

    s_j is the largest, over every expert and the router, of max|x_j|^strength /
    max|w_j|^(1 - strength), where an expert's x are the tokens it was sent; an expert that was
    sent none says nothing.  The norm's weight and bias are divided by s, the readers' columns are
    multiplied by it, so that nothing is left to do at run time.  strength: 0 balances by the
    weights alone, 1 by the activations alone.  norms: by name, () for all norms (told by
    `norm_kind`) behind which modules stand in a numbered row, and one more layer.
    """

    strength: float = 0.5
    norms: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise InputError(f"the strength must lie in 0 to 1, got {self.strength}")

    def apply(self, task: Task) -> nn.Module:
        model = copied(task)
        found = _mixtures(task, model, self.norms)
        names = {r.module for flow in found for r in flow.readers}
        seen = magnitudes(task, model, tuple(sorted(names)))
        for flow in found:
            scale = smoothing(model, flow, seen, strength=self.strength)
            divide_norm(model.get_submodule(flow.source), scale)
            scale_readers(model, flow, scale)
        return model


def smoothing(
    model: nn.Module, flow: Flow, seen: Mapping[str, Tensor], *, strength: float
) -> Tensor:
    """s of every channel behind a norm, 1 where nothing is known: float64 [channels].

    seen: largest magnitude of each reader's input per channel.
    """

    def said(reading: Reading) -> Tensor | None:
        if reading.module not in seen:
            return None
        x = seen[reading.module].double()
        w = input_sizes(layer(model, reading.module)).double()
        s = x**strength / w.clamp(min=1e-12) ** (1 - strength)
        return torch.where((x > 0) & (w > 0), s, 0.0)

    s = most(flow, said)
    return torch.where(s > 0, s, 1.0)


def divide_norm(norm: nn.Module, scale: Tensor) -> None:
    """Divides what a norm puts out by a scale [channels] (in place)."""
    with torch.no_grad():
        for p in norm.parameters(recurse=False):
            p.copy_(p.double() / scale.to(p.device))


def _mixtures(task: Task, model: nn.Module, names: tuple[str, ...]) -> list[Flow]:
    able = [n for n, m in model.named_modules() if norm_kind(m) and list(m.parameters())]
    wanted = names or tuple(able)
    found = flows(task, [n for n in wanted if n in able])
    mixtures = [f for f in found.values() if names or _has_experts(f)]
    fit = [f for f in mixtures if f.closed]
    if not fit or (names and len(fit) < len(names)):
        leaks = "; ".join(f"{f.source}: {f.leak or 'no layer reads it'}" for f in mixtures
                          if not f.closed)  # fmt: skip
        raise ModelError(
            "no mixture of experts can be smoothed: this looks for a norm with a weight per "
            "channel whose output a router and numbered experts read, all of them Linear, and "
            "nothing else" + (f" ({leaks})" if leaks else "")
        )
    return fit


def _has_experts(flow: Flow) -> bool:
    """Whether modules in a numbered row read it, and something else does."""
    rows = Counter(
        tuple("#" if p.isdigit() else p for p in r.module.split(".")) for r in flow.readers
    )
    return bool(rows) and 1 < max(rows.values()) < len(flow.readers)
