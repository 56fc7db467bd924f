"""QLLM's oracles: disassembly is an identity, assembly's loss is the one it states, and low rank
never makes a block worse.

Faults these must catch: channels split that change the output; channels that were added and are
not counted; a product left beside the weight; outliers that cost as much as before.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from allot.options.standins import OnGrid
from allot.recipes.bits import parsed
from allot.recipes.disassembly import qllm
from allot.reconstruct.low_rank import LowRankRounding
from allot.reconstruct.setting import Reconstruction
from allot.rewrites.channel_merge import merged
from allot.rewrites.channel_split import SplitInputs
from allot.rewrites.rewrite import rewritten
from allot.scheme import Scheme, quantized
from allot.sweep import unwrapped
from allot.task import Task
from tests import small, toys
from tests.rewrites import proofs


def outliers() -> Task:
    """A perceptron of which three hidden channels are twelve times as large."""
    model = toys.seeded(nn.Sequential(nn.Linear(12, 40), nn.ReLU(), nn.Linear(40, 5)))
    with torch.no_grad():
        model[0].weight[[3, 17, 30]] *= 12  # type: ignore[operator, index]
        model[2].weight[:, [3, 17, 30]] /= 12  # type: ignore[operator, index]
    g = torch.Generator().manual_seed(2)
    return proofs.of(model, torch.randn(240, 12, generator=g))


def scheme(bits: str, *, rank: int = 2, steps: int = 40) -> Scheme:
    """The recipe's, with less to do."""
    found = qllm(parsed(bits))
    setting = found.recovery.learning
    assert isinstance(setting, Reconstruction)
    assert isinstance(setting.rounding, LowRankRounding) and setting.rounding.rank == 4
    setting = replace(
        setting, steps=steps, samples=80, batch=20, rounding=replace(setting.rounding, rank=rank)
    )
    recovery = replace(found.recovery, samples=80, learning=setting)
    return replace(found, recovery=recovery)


def error(t: Task, s: Scheme) -> float:
    """Squared error of the output on data that were not looked at."""
    got = small.forward(t, quantized(t, s).network(), t.search)
    return float((got - proofs.output(t, t.search)).square().mean())


def test_disassembly_leaves_the_output_and_is_left_out_where_tensors_stay_in_float() -> None:
    t = outliers()
    (rewrite,) = scheme("W4A4").rewrites
    assert isinstance(rewrite, SplitInputs)
    proofs.check_rewrite(t, rewrite)
    assert scheme("W4A16").rewrites == ()


def test_the_channels_that_were_added_are_counted() -> None:
    t = outliers()
    plain = quantized(t, replace(scheme("W4A4", rank=0, steps=1), rewrites=()))
    split = quantized(t, scheme("W4A4", rank=0, steps=1))
    wide = [x.weight for x in split.graph.layers]
    assert wide == [(40, 13), (5, 42)]  # a twentieth more, rounded up
    # codes, and for each channel that is read which one it is of and its share of it
    assert split.bytes == plain.bytes + 0.5 * (40 * 1 + 5 * 2) + (8 + 4) * (13 + 42)


def test_split_outliers_cost_less() -> None:
    t = outliers()
    alone = scheme("W8A4", rank=0, steps=1)
    wide = replace(alone, rewrites=(SplitInputs(share=0.2),))
    assert error(t, wide) < error(t, alone) < error(t, replace(alone, rewrites=()))


def test_low_rank_tuning_lowers_what_is_lost_and_leaves_nothing_behind() -> None:
    t = small.task(toys.residual, calibrate=80)
    before, after = (quantized(t, scheme("W2A8", rank=r)) for r in (0, 2))
    wanted = proofs.output(t, t.certify)
    lost = [
        float(t.divergence(wanted, small.forward(t, q.network(), t.certify)).mean())
        for q in (before, after)
    ]
    assert lost[1] < lost[0] / 2
    assert after.bytes == before.bytes and after.standins.keys() == before.standins.keys()
    for name, module in after.standins.items():
        layer, old = unwrapped(module), unwrapped(before.standins[name])
        assert type(layer) is type(old)
        if isinstance(layer, OnGrid) and isinstance(old, OnGrid):
            codes = layer.encoded()
            assert torch.equal(codes.scale, old.encoded().scale)
            assert codes.format.grid.lo <= codes.codes.min()
            assert codes.codes.max() <= codes.format.grid.hi


@pytest.mark.parametrize("count", (2, 8))
def test_assembly_restores_the_width_at_the_loss_that_it_states(count: int) -> None:
    t = outliers()
    split = rewritten(t, [SplitInputs(share=count / 40, layers=("2",))]).model
    x = split[1](split[0](t.calibrate.inputs))  # type: ignore[index, operator]
    done = merged(split[2], x, count=count)  # type: ignore[index]
    layer = done.module.layer
    assert isinstance(layer, nn.Linear) and layer.weight.shape == (5, 40)
    wanted = t.model[2](x)  # type: ignore[index, operator]
    assert isinstance(wanted, Tensor)
    lost = float((done.module(x) - wanted).square().sum())
    assert lost == pytest.approx(done.error, rel=1e-3) and 0 < lost < float(wanted.square().sum())
