"""A bank from a file gives what the bank that was written gives, to the last bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from allot.bank import Bank
from allot.bank_file import INDEX, TENSORS, load, save
from allot.errors import ArtefactError, PlanError
from allot.options import depth
from allot.options.standins import QuantizedLayer
from allot.runtimes.ideal import Ideal
from tests import small, toys


def _same(a: nn.Module, b: nn.Module) -> None:
    """Modules of the same classes and settings with equal tensors, all the way down."""
    assert type(a) is type(b)
    assert a.training == b.training
    assert a.extra_repr() == b.extra_repr()
    plain = set(vars(a)) - set(vars(nn.Module()))
    assert plain == set(vars(b)) - set(vars(nn.Module()))
    for k in plain:
        assert vars(a)[k] == vars(b)[k]
    mine, yours = (
        [*a.named_parameters(), *a.named_buffers()],
        [*b.named_parameters(), *b.named_buffers()],
    )
    for (n, x), (m, y) in zip(mine, yours, strict=True):
        assert n == m
        assert x.requires_grad == y.requires_grad
        assert x.dtype == y.dtype
        assert torch.equal(x, y)
    for x, y in zip(a.children(), b.children(), strict=True):
        _same(x, y)
    if isinstance(a, QuantizedLayer) and isinstance(b, QuantizedLayer):
        assert torch.equal(a.codes(), b.codes())


def _opened(kit: small.Kit, folder: Path) -> Bank:
    save(kit.bank, kit.space, folder)
    return load(folder, kit.task.model, kit.graph)


@pytest.mark.parametrize("make", [toys.chain, toys.residual, toys.separable])
def test_every_standin_is_the_same_to_the_last_bit(
    make: Callable[[], nn.Module], tmp_path: Path
) -> None:
    kit = small.kit(make)
    bank = _opened(kit, tmp_path)
    assert bank.stats.keys() == kit.bank.stats.keys()
    assert all(torch.equal(bank.stats[k], kit.bank.stats[k]) for k in bank.stats)
    for seed in range(6):
        options = kit.space.options(small.random_point(kit.space, seed))
        ours, theirs = kit.bank.standins(options), bank.standins(options)
        assert ours.keys() == theirs.keys()
        for name in ours:
            _same(ours[name], theirs[name])
        outputs = [
            small.forward(kit.task, model, kit.task.search)
            for b, s in ((kit.bank, ours), (bank, theirs))
            for model in [b.copy(s)]
        ]
        assert torch.equal(*outputs)


def test_nothing_of_the_space_is_encoded_again(tmp_path: Path) -> None:
    kit = small.kit()
    bank = _opened(kit, tmp_path)
    before = bank.encoded()
    assert before.keys() == kit.bank.encoded().keys()
    for i, choice in enumerate(kit.space.choices):
        for o in range(len(choice.options)):
            point = (*kit.space.original[:i], o, *kit.space.original[i + 1 :])
            bank.standins(kit.space.options(point))
    assert bank.encoded().keys() == before.keys()
    assert all(bank.encoded()[k] is before[k] for k in before)


def test_a_module_of_the_users_inside_is_encoded_again_and_the_same(tmp_path: Path) -> None:
    kit = small.kit(toys.residual)
    kit.space = kit.space + depth.space(kit.graph, Ideal())
    bank = _opened(kit, tmp_path)
    point = tuple(n - 1 for n in kit.space.counts)
    ours, theirs = (b.standins(kit.space.options(point)) for b in (kit.bank, bank))
    outputs = [
        small.forward(kit.task, b.copy(s), kit.task.search)
        for b, s in ((kit.bank, ours), (bank, theirs))
    ]
    assert torch.equal(*outputs)


def test_another_network_is_refused(tmp_path: Path) -> None:
    kit = small.kit()
    save(kit.bank, kit.space, tmp_path)
    other = small.kit(lambda: toys.chain(seed=3))
    with pytest.raises(PlanError, match="another network"):
        load(tmp_path, other.task.model, other.graph)


def test_a_missing_or_cut_file_is_refused(tmp_path: Path) -> None:
    kit = small.kit()
    save(kit.bank, kit.space, tmp_path)
    whole = (tmp_path / TENSORS).read_bytes()
    (tmp_path / TENSORS).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArtefactError, match="not a whole"):
        load(tmp_path, kit.task.model, kit.graph)
    (tmp_path / TENSORS).unlink()
    with pytest.raises(ArtefactError, match="missing"):
        load(tmp_path, kit.task.model, kit.graph)


def test_a_class_from_elsewhere_is_refused_before_it_is_imported(tmp_path: Path) -> None:
    kit = small.kit()
    save(kit.bank, kit.space, tmp_path)
    index = json.loads((tmp_path / INDEX).read_text())
    index["encodings"][0]["module"] = {"is": "antigravity:Flight"}
    (tmp_path / INDEX).write_text(json.dumps(index))
    with pytest.raises(PlanError, match="not to be trusted"):
        load(tmp_path, kit.task.model, kit.graph)
