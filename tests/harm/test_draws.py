"""Laws of draws: their second moment is the curvature of the divergence they were told of.

Faults these laws must catch: probabilities of the wrong dim; a sum taken for a mean over
positions; signs that depend on how the data are cut; directions whose sums are not exact when
there are enough of them; a divergence of another kind that passes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import hessian

from allot.errors import InputError
from allot.harm.draws import Categorical, Squared, curved, signs
from tests import small


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def kl(dim: int, *, mean: bool) -> Callable[[Tensor, Tensor], Tensor]:
    def divergence(original: Tensor, output: Tensor) -> Tensor:
        p, q = (torch.log_softmax(x.double(), dim) for x in (original, output))
        each = (p.exp() * (p - q)).sum(dim).reshape(len(p), -1)
        return each.mean(1) if mean else each.sum(1)

    return divergence


def squared(original: Tensor, output: Tensor) -> Tensor:
    return 3 * (output - original).square().flatten(1).sum(1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


CASES: tuple[tuple[Any, tuple[int, ...]], ...] = (
    (kl(1, mean=True), (4,)),
    (kl(-1, mean=True), (3, 4)),
    (kl(-1, mean=False), (3, 4)),
    (kl(1, mean=True), (4, 2, 2)),
    (squared, (4,)),
    (squared, (2, 3)),
)


@pytest.mark.parametrize(("divergence", "shape"), CASES)
def test_many_directions_add_up_to_the_second_derivative(
    divergence: Any, shape: tuple[int, ...]
) -> None:
    f = normal(1, *shape)
    task = small.task(divergence=divergence)
    found = curved(task, f, generator())
    h = hessian(lambda x: divergence(f, x)[0])(f).reshape(f.numel(), -1)
    draws = 512
    many = f.expand(20, *shape)
    xi = found.directions(many, signs(many.shape, draws, generator())).reshape(draws * 20, -1)
    moment = xi.T @ xi / len(xi)
    assert float((moment - h).abs().max()) < 0.02 * float(h.abs().max())


def test_as_many_draws_as_classes_are_exact() -> None:
    f = normal(5, 7)
    xi = Categorical(dim=1, weight=1.0).directions(f, signs(f.shape, 8, generator()))
    for s in range(5):
        p = f[s].softmax(0)
        want = p.diag() - torch.outer(p, p)
        assert torch.allclose(xi[:, s].T @ xi[:, s] / 8, want, atol=1e-12)


def test_signs_do_not_depend_on_how_the_data_are_cut() -> None:
    whole = signs(torch.Size((9, 5)), 3, generator())
    one = generator()
    parts = [signs(torch.Size((n, 5)), 3, one) for n in (4, 1, 4)]
    assert torch.equal(torch.cat(parts, 1), whole)
    assert whole.abs().unique().tolist() == [1]
    assert abs(float(signs(torch.Size((4000, 5)), 1, generator()).double().mean())) < 0.02


@pytest.mark.parametrize("draws", (2, 4, 8))
def test_draws_of_one_output_differ(draws: int) -> None:
    found = signs(torch.Size((1, 8)), draws, generator())[:, 0].double()
    if draws == 8:
        assert torch.equal(found @ found.T, 8 * torch.eye(8).double())
    assert len({tuple(row.tolist()) for row in found}) == draws


def test_the_kind_is_told_from_values_alone() -> None:
    f = normal(6, 4)
    assert isinstance(curved(small.task(), f, generator()), Categorical)
    found = curved(small.task(divergence=squared), f, generator())
    assert isinstance(found, Squared) and found.weight == pytest.approx(3)


@pytest.mark.parametrize(
    "divergence",
    (
        lambda a, b: (a - b).abs().sum(1),
        lambda a, b: (a - b).square().sum(1) * (1 + a[:, 0].square()),
        lambda a, b: (a.argmax(1) != b.argmax(1)).double(),
        lambda a, b: kl(1, mean=True)(b, a),
    ),
)
def test_another_divergence_is_refused(divergence: Any) -> None:
    with pytest.raises(InputError, match="neither a KL of softmax outputs nor a squared"):
        curved(small.task(divergence=divergence), normal(6, 4), generator())
