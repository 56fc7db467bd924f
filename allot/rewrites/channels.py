"""Channels: those of a space changed in its writers and changed back in its readers, in place."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from allot.rewrites.layers import put
from allot.rewrites.norms import affine
from allot.rewrites.spaces import Reader, Space, Writer


class Shifted(nn.Module):
    """A norm without a bias of its own, and a bias [d] added to what it returns."""

    def __init__(self, *, inner: nn.Module, bias: Tensor) -> None:
        nn.Module.__init__(self)
        self.inner = inner
        self.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + self.bias


class Divided(nn.Module):
    """A linear whose input is divided by a number per channel before: `by` [in]."""

    def __init__(self, *, inner: nn.Linear, by: Tensor) -> None:
        nn.Module.__init__(self)
        self.inner = inner
        self.by = nn.Parameter(by.detach().clone(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x / self.by)


def rescale_(model: nn.Module, space: Space, factor: Tensor, shift: Tensor | None = None) -> None:
    """Channels become (x - shift) / factor, both [size] on the CPU, and readers undo it.

    factor: none of them 0.  Norms of a space that is shifted get a bias and linears one where they
    have none.  Sums are in float64.
    """
    for writer in space.writers:
        _rescale_writer_(model, writer, factor.double(), None if shift is None else shift.double())
    for reader in space.readers:
        absorb_(model, reader, factor, shift)


def absorb_(model: nn.Module, reader: Reader, factor: Tensor, shift: Tensor | None = None) -> None:
    """The reader of (x - shift) / factor computes what it computed of x."""
    index = torch.tensor(reader.index)
    old = linear_of(model, reader.name)
    w = old.weight.detach().cpu().double()
    bias = None if old.bias is None else old.bias.detach().cpu().double()
    if shift is not None:
        moved = w @ shift.double()[index]
        bias = moved if bias is None else bias + moved
    put(model, reader.name, linear(w * factor.double()[index], bias, like=old))


def linear_of(model: nn.Module, name: str) -> nn.Linear:
    """The linear of a name."""
    module = model.get_submodule(name)
    assert isinstance(module, nn.Linear)
    return module


def linear(weight: Tensor, bias: Tensor | None, *, like: nn.Linear) -> nn.Linear:
    """A linear of the dtype and device of another; without gradients."""
    out, k = weight.shape
    new = nn.Linear(k, out, bias=bias is not None, device="meta")
    new.weight = _parameter(weight, like.weight)
    if bias is not None:
        new.bias = _parameter(bias, like.weight)
    return new.train(like.training)


def _parameter(value: Tensor, like: Tensor) -> nn.Parameter:
    return nn.Parameter(value.detach().to(like).contiguous(), requires_grad=False)


def _rescale_writer_(
    model: nn.Module, writer: Writer, factor: Tensor, shift: Tensor | None
) -> None:
    if writer.kind == "norm":
        gain, bias = (v.double() for v in affine(model.get_submodule(writer.name)))
        bias = bias if shift is None else bias - shift
        set_affine_(model, writer.name, gain / factor, bias / factor)
        return
    for name, dim in _tensors(model, writer):
        owner, last = _owner(model, name)
        old = getattr(owner, last)
        new = old.detach().cpu().double()
        if shift is not None:
            assert writer.kind == "linear", "only norms and linears shift their channels"
            new = new - shift if new.dim() == 1 else new
        new = new / factor.view(-1, *[1] * (new.dim() - 1 - dim % new.dim()))
        owner._parameters[last] = _parameter(new, old)
    if shift is not None and linear_of(model, writer.name).bias is None:
        layer = linear_of(model, writer.name)
        put(model, writer.name, linear(layer.weight, -shift / factor, like=layer))


def center_writer_(model: nn.Module, writer: Writer) -> None:
    """What it writes [..., size] loses its mean over channels."""
    for name, dim in _tensors(model, writer):
        owner, last = _owner(model, name)
        old = getattr(owner, last)
        new = old.detach().cpu().double()
        owner._parameters[last] = _parameter(new - new.mean(dim, keepdim=True), old)


def rotate_writer_(model: nn.Module, writer: Writer, q: Tensor) -> None:
    """What it writes [..., size] becomes itself times q [size, size]."""
    for name, dim in _tensors(model, writer):
        owner, last = _owner(model, name)
        old = getattr(owner, last)
        new = (old.detach().cpu().double().movedim(dim, -1) @ q.double()).movedim(-1, dim)
        owner._parameters[last] = _parameter(new, old)


def rotate_reader_(model: nn.Module, reader: Reader, q: Tensor) -> None:
    """The reader of x times q, q orthogonal, computes what it computed of x."""
    old = linear_of(model, reader.name)
    put(
        model,
        reader.name,
        linear(old.weight.detach().cpu().double() @ q.double(), old.bias, like=old),
    )


def _tensors(model: nn.Module, writer: Writer) -> list[tuple[str, int]]:
    """The parameters of a writer other than a norm, and the dim that its channels lie along."""
    if writer.kind == "parameter":
        return [(writer.name, -1)]
    dim = -1 if writer.kind == "embedding" else 0
    module = model.get_submodule(writer.name)
    biases = [(f"{writer.name}.bias", 0)] if module._parameters.get("bias") is not None else []
    return [(f"{writer.name}.weight", dim), *biases]


def _owner(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    owner, _, last = name.rpartition(".")
    return model.get_submodule(owner), last


def set_affine_(model: nn.Module, name: str, gain: Tensor, bias: Tensor) -> None:
    """Gives a norm the weight and bias [d]; one without a place for a bias is put into Shifted."""
    norm = model.get_submodule(name)
    old = next(norm.parameters(), gain)
    if norm._parameters.get("weight") is not None or not bool((gain == 1).all()):
        norm._parameters["weight"] = _parameter(gain, old)
    if "bias" in norm._parameters:
        had = norm._parameters["bias"] is not None
        norm._parameters["bias"] = _parameter(bias, old) if had or bool(bias.any()) else None
    elif bool(bias.any()):
        put(model, name, Shifted(inner=norm, bias=bias.to(old)))
