"""Laws of channel splits: the same output, the largest part as small as the share allows."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from allot.errors import InputError, ModelError
from allot.rewrites.channel_split import SplitInputs, SplitWeights, parts_of
from allot.rewrites.regroup import offsets, repeats
from allot.rewrites.rewrite import Rewrite
from allot.task import Task
from tests import small, toys
from tests.rewrites import proofs


def task(*, weights: bool = False, inputs: bool = False) -> Task:
    """Linear, ReLU, linear with a channel of large inputs or a column of large weights."""
    model = toys.seeded(nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 5)))
    x = torch.randn(60, 12, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        if weights:
            model[2].weight[:, 3] *= 12
        if inputs:
            model[0].weight[3] *= 12
            model[0].bias[3] *= 12
            model[2].weight[:, 3] /= 12
    return proofs.of(model, x)


@pytest.mark.parametrize("rewrite", (SplitWeights(share=0.2), SplitInputs(share=0.2)))
def test_convolutions_and_linears_give_the_same_output(rewrite: Rewrite) -> None:
    new = proofs.check_rewrite(small.task(toys.chain), rewrite)
    added = [math.ceil(0.2 * n) for n in (3, 8, 24)]
    inner = [m.weight.shape[1] for _, m in proofs.layers(new.model)]
    assert inner == [a + n for a, n in zip(added, (3, 8, 24), strict=True)]


def test_a_column_of_large_weights_gains_at_four_bits() -> None:
    t = task(weights=True)
    wanted = proofs.output(t)
    new = proofs.check_rewrite(t, SplitWeights(share=0.2, layers=("2",)))
    was = proofs.weight_error(t, wanted, only=lambda n: n == "2")
    assert proofs.weight_error(new, wanted, only=lambda n: n == "2.layer") < was / 2


def test_a_channel_of_large_inputs_gains_at_four_bits() -> None:
    t = task(inputs=True)
    wanted = proofs.output(t)
    new = proofs.check_rewrite(t, SplitInputs(share=0.5, layers=("2",)))
    was = proofs.input_error(t, wanted, only=lambda n: n == "2")
    assert proofs.input_error(new, wanted, only=lambda n: n == "2.layer") < was / 2


@pytest.mark.parametrize("t", range(1, 8))
def test_shifted_parts_round_to_the_rounded_whole(t: int) -> None:
    counts = torch.tensor([t, 1])
    index = repeats(counts)
    assert index.tolist() == [0, 1] + [0] * (t - 1)
    found = offsets(index, counts)
    shares = found[index == 0]
    assert abs(float(found.sum())) < 1e-12 and float(found[1]) == 0
    u = torch.linspace(-9, 9, 1001, dtype=torch.float64) + 1e-4
    assert torch.equal((u[:, None] / t + shares).round().sum(1), u.round())


def test_weights_on_the_grid_that_was_said_add_up_to_the_rounded_whole() -> None:
    t = task(weights=True)
    new = SplitWeights(share=0.3, layers=("2",), bits=4).apply(t)
    plain = SplitWeights(share=0.3, layers=("2",), bits=0).apply(t)
    old = t.model[2].weight.detach().double()  # type: ignore[index, union-attr]
    index = new[2].regroup.first  # type: ignore[index, union-attr]
    parts, whole = (
        m[2].layer.weight.detach().double()
        for m in (new, plain)  # type: ignore[index, union-attr]
    )
    step = whole.abs().amax(1, keepdim=True) / 7
    codes = (parts / step).round()
    added_up = torch.zeros_like(old).index_add_(1, index, codes)
    assert torch.equal(added_up, (old / step).round())
    assert float(whole.abs().max()) < float(old.abs().max()) / 2


def test_inputs_on_the_grid_that_was_said_add_up_to_the_rounded_whole() -> None:
    t = task(inputs=True)
    with torch.no_grad():
        x = t.model[1](t.model[0](t.calibrate.inputs)).double()  # type: ignore[index, operator]
    errors = {}
    for bits in (0, 4):
        new = proofs.check_rewrite(t, SplitInputs(share=0.5, layers=("2",), bits=bits))
        regroup = new.model[2].regroup.double()  # type: ignore[index, union-attr, operator]
        step = float((x.amax(0)[regroup.first] * regroup.gain).max()) / 15
        codes = (regroup(x) / step).round()
        whole = torch.zeros_like(x).index_add_(1, regroup.first, codes) * step
        errors[bits] = float((whole - x).abs().max()) / step
    assert errors[4] < 0.501 < errors[0]


def test_shifted_parts_add_up_at_the_border_of_a_padded_convolution() -> None:
    new = proofs.check_rewrite(small.task(toys.chain), SplitInputs(share=0.5, bits=3))
    assert float(new.model.conv2.regroup.shift.abs().max()) > 0  # type: ignore[union-attr]


@pytest.mark.parametrize("seed", range(5))
def test_parts_are_those_of_the_least_threshold_that_fits(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    sizes = torch.randn(7, generator=g).abs() * 3 + 0.01
    sizes[0] = 0
    for count in (1, 3, 6):
        parts = parts_of(sizes, count)
        assert int(parts.min()) == 1 and int((parts - 1).sum()) <= count
        largest = float((sizes / parts).max())
        best = min(
            float((sizes / torch.tensor(p)).max())
            for p in itertools.product(range(1, count + 2), repeat=7)
            if sum(p) - 7 <= count
        ) if count < 4 else largest  # fmt: skip
        assert largest == pytest.approx(best)


def test_nothing_is_split_where_all_inputs_are_zero() -> None:
    assert parts_of(torch.zeros(4), 3).tolist() == [1, 1, 1, 1]


class Grouped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, groups=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).mean((2, 3))


@pytest.mark.parametrize("kind", (SplitWeights, SplitInputs))
def test_bad_input_is_told(kind: type[SplitWeights] | type[SplitInputs]) -> None:
    with pytest.raises(InputError, match="above 0 and at most 1, got 0"):
        kind(share=0)
    with pytest.raises(InputError, match="at least 2 bits, got 1"):
        kind(bits=1)
    with pytest.raises(ModelError, match="groups=1"):
        kind().apply(proofs.of(Grouped(), toys.images(12, channels=4)))
    with pytest.raises(ModelError, match="ReLU"):
        kind(layers=("1",)).apply(task())
