"""Laws of tasks: data cut and joined keep every sample, splits are disjoint, divergence is KL.

Faults these laws must catch: a last batch lost; labels cut apart from inputs; a split that
repeats a sample or follows the global seed; a divergence that can be negative.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from allot.errors import DataError
from allot.task import Data, call, kl_to_original, split, take, top1
from tests import small, toys


def numbered(n: int = 23) -> Data:
    x = torch.arange(n)
    return Data(inputs={"a": x[:, None] * 10, "b": x * 2}, labels=x)


@pytest.mark.parametrize("size", (1, 5, 23, 100))
def test_batches_hold_every_sample_once_in_order(size: int) -> None:
    data = numbered()
    parts = list(data.batches(size))
    assert all(isinstance(p, dict) and len(p["a"]) == len(p["b"]) <= size for p in parts)
    for key in ("a", "b"):
        assert torch.equal(data.inputs[key], torch.cat([p[key] for p in parts]))  # type: ignore
    plain = Data(inputs=torch.arange(7.0))
    assert torch.equal(torch.arange(7.0), torch.cat(list(plain.batches(size))))  # type: ignore


def test_a_subset_keeps_inputs_and_labels_together() -> None:
    for index in (slice(3, 9), torch.tensor([4, 0, 22])):
        part = numbered().subset(index)
        assert isinstance(part.inputs, dict) and part.labels is not None
        assert torch.equal(part.inputs["b"], 2 * part.labels)
        assert torch.equal(part.inputs["a"][:, 0], 10 * part.labels)
    assert Data(inputs=torch.zeros(5)).subset(slice(0, 2)).labels is None


def test_the_length_is_the_number_of_samples() -> None:
    assert len(numbered()) == 23 and len(Data(inputs=torch.zeros(4, 3))) == 4


def test_a_split_is_disjoint_and_takes_as_many_as_it_is_asked() -> None:
    search, certify = split(numbered(), search=7, certify=16, seed=3)
    assert search.labels is not None and certify.labels is not None
    a, b = set(search.labels.tolist()), set(certify.labels.tolist())
    assert len(a) == 7 and len(b) == 16 and not a & b


def test_a_split_depends_on_its_seed_alone() -> None:
    first = split(numbered(), search=7, certify=9, seed=0)[0].labels
    torch.manual_seed(99)
    state = torch.get_rng_state()
    again = split(numbered(), search=7, certify=9, seed=0)[0].labels
    other = split(numbered(), search=7, certify=9, seed=1)[0].labels
    assert first is not None and again is not None and other is not None
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())


def test_a_split_of_too_few_samples_says_how_many_lack() -> None:
    with pytest.raises(DataError, match="need 24; there are 23"):
        split(numbered(), search=8, certify=16, seed=0)


def test_call_hands_a_tensor_as_it_is_and_a_dict_by_name() -> None:
    class Minus(nn.Module):
        def forward(self, a: Tensor, b: Tensor | None = None) -> Tensor:
            return a if b is None else a - b

    assert float(call(Minus(), torch.tensor(3.0))) == 3
    assert float(call(Minus(), {"b": torch.tensor(1.0), "a": torch.tensor(3.0)})) == 2


def logits(seed: int, scale: float = 1.0) -> Tensor:
    return torch.randn(50, 6, generator=torch.Generator().manual_seed(seed)) * scale


@pytest.mark.parametrize("scale", (0.1, 1.0, 100.0))
def test_the_divergence_of_a_sample_is_that_of_its_distributions(scale: float) -> None:
    p, q = logits(0, scale), logits(1, scale)
    got = kl_to_original(p, q)
    assert got.dtype == torch.float64 and got.shape == (50,) and bool((got >= 0).all())
    want = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=p.double()),
        torch.distributions.Categorical(logits=q.double()),
    )
    assert torch.allclose(want, got, rtol=1e-6, atol=1e-12)


def test_the_divergence_is_zero_where_the_distributions_are_the_same() -> None:
    p = logits(0)
    assert not kl_to_original(p, p).any()
    assert float(kl_to_original(p, p + 7.5).max()) < 1e-10
    assert float(kl_to_original(p, logits(1)).min()) > 0


def test_the_divergence_is_counted_from_the_original() -> None:
    p, q = logits(0), logits(1)
    assert not torch.allclose(kl_to_original(p, q), kl_to_original(q, p))


def test_top1_is_one_where_the_largest_logit_is_the_labels() -> None:
    output = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 1.0]])
    assert top1(output, torch.tensor([1, 2])).tolist() == [1.0, 0.0]


def test_an_example_is_a_few_calibration_inputs() -> None:
    t = small.task()
    assert isinstance(t.calibrate.inputs, Tensor)
    assert torch.equal(t.calibrate.inputs[:3], t.example(3))  # type: ignore[arg-type]
    both = take(toys.pair_inputs(), slice(1, 3))
    assert isinstance(both, dict) and len(both["facts"]) == 2
