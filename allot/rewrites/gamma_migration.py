"""Gamma migration: a norm's weight moves into the linears that read the norm."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from allot.rewrites.channels import Divided, absorb_, linear_of, rescale_
from allot.rewrites.layers import copied, put
from allot.rewrites.norms import affine
from allot.rewrites.rewrite import Rewrite
from allot.rewrites.spaces import Space, some
from allot.rewrites.tracking import spaces
from allot.task import Task


@dataclass(frozen=True, kw_only=True)
class MigrateGamma(Rewrite):
    """Outlier Suppression's first step (Wei et al. 2022): norms return what they normalized.

    Where linears alone read a norm, its weight becomes one and its bias bias / gamma, and their
    columns take gamma in.  Where a shortcut reads it too (norms after the sum), the norm stays and
    each linear divides its input by gamma first: what is quantized there is the same.  The paper
    multiplies on the shortcut instead, which cannot be reached in a forward that is not ours; the
    price is one division per element and linear where the paper pays one product per element.
    A gamma of less than 1e-6 of the largest is left in the norm.
    """

    def apply(self, task: Task) -> nn.Module:
        """Raises ModelError where no linear reads a norm."""
        every = spaces(task)
        whole = [s for s in every if s.norm and s.readers and not (s.scale or s.rotate)]
        shared = [s for s in every if s not in whole and _from_norms(s)]
        some([*whole, *shared], every, change="scale", what="norm that linears read")
        model = copied(task)
        for space in whole:
            rescale_(model, space, _gamma(model, space.norm))
        for space in shared:
            _divide_(model, space)
        return model


def _from_norms(space: Space) -> list[tuple[str, int]]:
    """(norm, place of the reader) for linears that read what a norm alone made, channel by
    channel."""
    norms = {w.name for w in space.writers if w.kind == "norm"}
    return [(r.source, i) for i, r in enumerate(space.readers) if r.source in norms and r.whole]


def _divide_(model: nn.Module, space: Space) -> None:
    for norm, i in _from_norms(space):
        reader, gamma = space.readers[i], _gamma(model, norm)
        absorb_(model, reader, gamma)
        inner = linear_of(model, reader.name)
        put(model, reader.name, Divided(inner=inner, by=gamma.to(inner.weight)))


def _gamma(model: nn.Module, norm: str) -> Tensor:
    """The weight [d] of a norm, one where it is next to nothing."""
    gain, _ = affine(model.get_submodule(norm))
    return torch.where(gain.abs() > 1e-6 * gain.abs().max(), gain, torch.ones_like(gain))
