"""Laws of the rewrites on real networks: a vision transformer and a language model of the zoo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from allot.errors import MissingError
from allot.num.formats import Format, Int
from allot.rewrites.channels import rescale_
from allot.rewrites.gamma_migration import MigrateGamma
from allot.rewrites.layers import copied
from allot.rewrites.low_rank_branch import Branch
from allot.rewrites.outlier_tokens import OutlierTokens
from allot.rewrites.rewrite import Rewrite, change, rewritten
from allot.rewrites.rotate_input import RotateInput
from allot.rewrites.rotation import Rotate
from allot.rewrites.smoothing import ActivationAware, ShiftScale, Smooth
from allot.rewrites.tracking import spaces
from allot.task import Task
from tests.rewrites import transformers_small as made

VIT, LLAMA = "vit_fmnist", "llama_byte_python"
IN_GROUPS = Format(grid=Int(bits=4), group=32)
FIRST = {VIT: "vit.layers.0.attention.q_proj", LLAMA: "model.layers.1.self_attn.q_proj"}


def task(name: str) -> Task:
    """A network of the zoo on few inputs, its language model cut to two layers for time."""
    pytest.importorskip("transformers", reason="the zoo's transformers need the library")
    from benchmarks.search import languages, vits

    try:
        found = (vits if name == VIT else languages).task(name, Path("unused"))
    except MissingError as e:
        pytest.skip(f"the zoo is not here: {e}")
    if name == LLAMA:
        found.model.model.layers = found.model.model.layers[:2]  # type: ignore[union-attr, index]
    few = slice(0, 64 if name == VIT else 12)
    return replace(found, calibrate=found.calibrate.subset(few), search=found.search.subset(few))


def planted(task: Task) -> Task:
    """Every eleventh channel that a norm hands to linears 30 times as large, its readers undoing
    it."""
    model = copied(task)
    for space in spaces(task):
        if space.norm and space.readers and not space.scale:
            factor = torch.ones(space.size)
            factor[3::11] = 1 / 30
            rescale_(model, space, factor)
    return replace(task, model=model)


def divergence(task: Task, wanted: nn.Module, *, inputs: int) -> float:
    """Of the network with 4-bit weights and rounded inputs from another, over search inputs."""
    x = task.search.inputs
    with torch.no_grad():
        original = task.forward(wanted, x)
        with made.rounded(task.model, 4, inputs) as model:
            return float(task.divergence(original, task.forward(model, x)).mean())


@pytest.mark.parametrize("name", [VIT, LLAMA])
@pytest.mark.parametrize(
    "rewrite",
    [
        MigrateGamma(),
        Smooth(strengths=(0.5,)),
        ShiftScale(steps=3),
        ActivationAware(steps=2, weight=IN_GROUPS),
        Rotate(),
        RotateInput(),
        Branch(rank=8),
    ],
    ids=lambda r: type(r).__name__,
)
def test_the_network_computes_the_same(name: str, rewrite: Rewrite) -> None:
    before = task(name)
    new = rewritten(before, [rewrite])
    with torch.no_grad():
        outputs = [t.forward(t.model, t.search.inputs) for t in (before, new)]
    assert change(*outputs) < 1e-5


def test_the_first_token_of_the_first_layer_is_the_same_for_all_images() -> None:
    before = task(VIT)
    new = rewritten(before, [OutlierTokens(layers=(FIRST[VIT],))])
    assert new.model.get_submodule(FIRST[VIT]).made is not None
    after = rewritten(task(LLAMA), [OutlierTokens(layers=(FIRST[LLAMA],))])
    assert after.model.get_submodule(FIRST[LLAMA]).made is None


PASSES: Sequence[tuple[Rewrite, ...]] = (
    (MigrateGamma(),),
    (Smooth(strengths=(0.5, 0.7, 0.9)),),
    (ShiftScale(steps=10),),
    (Rotate(),),
    (Smooth(strengths=(0.7,)), Branch(rank=8)),
)


@pytest.mark.parametrize("name", [VIT, LLAMA])
@pytest.mark.parametrize("passes", PASSES, ids=lambda p: type(p[-1]).__name__)
def test_planted_outliers_cost_less_afterwards(name: str, passes: tuple[Rewrite, ...]) -> None:
    before = planted(task(name))
    new = rewritten(before, passes)
    for inputs in (8, 4):
        losses = [divergence(t, before.model, inputs=inputs) for t in (before, new)]
        assert losses[1] < 0.7 * losses[0], (inputs, losses)
