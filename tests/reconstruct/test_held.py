"""Laws of what is held in files: it comes back to the bit, and memory keeps nothing of it.

Faults these laws must catch: strides or dtypes lost; values that share storage with what was given
or with each other; a codes' result that depends on where what enters a unit lies; a full disk that
ends in a traceback.
"""

from __future__ import annotations

import gc
import weakref
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from allot.errors import JobError
from allot.options.precision import Activation, Weight
from allot.reconstruct import work
from allot.reconstruct.held import Batches, Held
from allot.reconstruct.losses import FisherWeighted
from allot.reconstruct.reconstruct import reconstructed
from allot.reconstruct.setting import Reconstruction
from allot.task import take
from benchmarks.quantize.memory import Live
from tests import small, toys


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


TENSORS = (
    noise(3, 4, 5),
    noise(2, 6, 4, 4).to(memory_format=torch.channels_last),
    noise(4, 6).t(),
    noise(1, 5).expand(3, 5),
    noise(7)[2:5],
    noise(8).bfloat16(),
    noise(8).half(),
    noise(8).double(),
    torch.arange(9).view(3, 3),
    noise(9) > 0,
    torch.empty(0, 3),
    torch.tensor(2.5),
)


@pytest.mark.parametrize("x", TENSORS, ids=lambda x: f"{x.dtype}{list(x.shape)}{x.stride()}")
def test_a_tensor_comes_back_as_a_copy_of_it_would_be(x: Tensor) -> None:
    held = Held([x, x])
    for found in held:
        assert torch.equal(found, x) and found.dtype == x.dtype
        assert found.stride() == x.clone().stride()
        assert found.numel() == 0 or found.data_ptr() != x.data_ptr()
    assert held[0].data_ptr() != held[0].data_ptr() or x.numel() == 0


@dataclass(frozen=True, kw_only=True)
class Pair:
    a: Any
    b: Any = ()


def test_nested_values_keep_their_form_and_order() -> None:
    values = [
        Pair(a=(noise(2), 3, None, "x"), b=[{"k": noise(3, seed=i)}, Pair(a=noise(1, seed=i))])
        for i in range(4)
    ]
    held = Held[Pair]()
    for v in values:
        held.append(v)
    assert len(held) == 4 and [*held][2].a[1:] == (3, None, "x")
    for i in (3, 0, 2, -1):
        assert torch.equal(held[i].b[0]["k"], values[i].b[0]["k"])
        assert torch.equal(held[i].b[1].a, values[i].b[1].a)
    assert len(held[1:3]) == 2 and torch.equal(held[1:3][0].a[0], values[1].a[0])


def test_memory_keeps_no_tensor_of_what_is_held() -> None:
    x = noise(1000)
    storage = weakref.ref(x.untyped_storage())
    held = Held([x])
    del x
    gc.collect()
    assert storage() is None and len(held) == 1 and held[0].shape == (1000,)


def test_a_full_disk_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def seek(self, at: int) -> None: ...

        def write(self, data: object) -> None:
            raise OSError(28, "No space left on device")

        def close(self) -> None: ...

    monkeypatch.setattr("tempfile.TemporaryFile", Full)
    with pytest.raises(JobError, match=r"cannot hold the 12 bytes.*No space left.*TMPDIR"):
        Held([noise(3)])


@pytest.mark.parametrize("tensor", [True, False])
def test_batches_are_those_samples(tensor: bool) -> None:
    x = noise(10, 2)
    inputs = x if tensor else {"a": x, "b": x + 1}
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    batches = Batches(inputs, order.split(4))
    assert len(batches) == 3 and len(batches[1:]) == 2
    for found, index in zip(batches, order.split(4), strict=True):
        want = take(inputs, index)
        same = (
            torch.equal(found, want)
            if tensor
            else all(  # type: ignore[arg-type]
                torch.equal(found[k], want[k])
                for k in want  # type: ignore[call-overload, index]
            )
        )
        assert same


def peak(samples: int) -> int:
    """Most bytes alive at once while one unit is learned, beyond what was there before."""
    k = small.kit(toys.residual, calibrate=samples)
    options = {s.name: Weight(bits=2) for s in k.graph.sites if s.kind == "weight"}
    standins = k.bank.standins(options)
    setting = Reconstruction(steps=4, batch=8, samples=samples, float_inputs=0.5)
    tensors = [*k.bank.skeleton.parameters(), *k.bank.skeleton.buffers()]
    assert isinstance(k.task.calibrate.inputs, Tensor)
    with Live([*tensors, k.task.calibrate.inputs]) as live:
        reconstructed(k.bank, k.task, options, standins=standins, setting=setting)
    return live.peak


def test_memory_does_not_grow_with_the_samples() -> None:
    few, many = peak(16), peak(128)
    # indices and a loss per batch do; an image alone has 768 bytes
    assert few <= many <= few + 64 * (128 - 16)


def test_bytes_alive_are_counted_from_first_to_last() -> None:
    old = noise(10)
    with Live([old]) as live:
        a = old + 1
        assert live.now == live.peak == 40
        b = a.view(2, 5)[0]
        a = a + 1
        assert live.now == 80
        del b
        gc.collect()
        assert live.now == 40 and live.peak == 80
        old.add_(1)
        assert live.now == 40


@pytest.mark.parametrize(
    "setting",
    [
        Reconstruction(steps=6, batch=8, samples=24, drop=0.5, float_inputs=0.5),
        Reconstruction(steps=6, batch=8, samples=24, loss=FisherWeighted()),
    ],
    ids=["mixed", "weighted"],
)
def test_codes_are_the_same_to_the_bit_whether_files_or_memory_hold_what_enters(
    setting: Reconstruction, monkeypatch: pytest.MonkeyPatch
) -> None:
    k = small.kit(toys.residual)
    options = {
        s.name: Weight(bits=2) if s.kind == "weight" else Activation(bits=4)
        for s in k.graph.sites if s.kind in ("weight", "activation")
    }  # fmt: skip
    found = []
    for kind in (Held, list):
        monkeypatch.setattr(work, "Held", kind)
        made = reconstructed(k.bank, k.task, options, setting=setting, seed=3)
        found.append({n: m.state_dict() for n, m in made.items()})
    for name, state in found[0].items():
        assert all(torch.equal(v, found[1][name][k]) for k, v in state.items()), name
