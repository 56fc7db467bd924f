"""Laws of norms: they are known by what they compute.

Faults these must catch: a name believed, a norm over other dims, one plus the weight, a batch norm.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from allot.rewrites.norms import affine, norm_kind, norm_size
from tests import toys
from tests.rewrites.transformers_small import OwnNorm


class OnePlus(OwnNorm):
    """Times one plus the weight."""

    def forward(self, x: Tensor) -> Tensor:
        return (1 + self.weight) * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6))


class Gain(OwnNorm):
    """Called a norm by its parameters alone."""

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


@pytest.mark.parametrize(
    ("module", "kind"),
    [
        (nn.LayerNorm(6), "layer"),
        (nn.LayerNorm(6, bias=False), "layer"),
        (nn.LayerNorm(6, elementwise_affine=False), "layer"),
        (nn.RMSNorm(6, eps=1e-6), "rms"),
        (nn.RMSNorm(6, elementwise_affine=False), "rms"),
        (OwnNorm(6), "rms"),
        (OnePlus(6), ""),
        (Gain(6), ""),
        (nn.LayerNorm((4, 6)), ""),
        (nn.BatchNorm1d(6), ""),
        (nn.GroupNorm(2, 6), ""),
        (nn.Linear(6, 6), ""),
        (nn.ReLU(), ""),
        (nn.PReLU(6), ""),
    ],
)
def test_a_norm_is_known_by_what_it_computes(module: nn.Module, kind: str) -> None:
    before = {k: v.clone() for k, v in module.state_dict().items()}
    assert norm_kind(toys.seeded(module)) == kind
    assert before.keys() == module.state_dict().keys()


def test_a_norm_without_parameters_has_weight_one_and_bias_zero() -> None:
    norm = nn.LayerNorm(6, elementwise_affine=False)
    gain, bias = affine(norm)
    assert norm_size(norm) == 6 and bool((gain == 1).all()) and bool((bias == 0).all())
