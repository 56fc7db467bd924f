"""Rotation: the residual stream in another basis, in which no channel stands out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from allot.errors import ModelError
from allot.num.rotate import random_hadamard
from allot.rewrites.channels import (
    center_writer_,
    rescale_,
    rotate_reader_,
    rotate_writer_,
    set_affine_,
)
from allot.rewrites.layers import copied, put
from allot.rewrites.norms import affine, norm_kind
from allot.rewrites.rewrite import Rewrite
from allot.rewrites.spaces import Space
from allot.rewrites.tracking import spaces
from allot.task import Task


@dataclass(frozen=True, kw_only=True)
class Rotate(Rewrite):
    """Every residual stream times a random Hadamard matrix (QuaRot, Ashkboos et al. 2024).

    Embeddings, parameters, convolutions and linears that write a stream write it rotated; what
    norms had as weight and bias moves into the linears that read them, which undo the rotation.
    A LayerNorm becomes an RMS norm first: every writer's mean over channels is taken away, so that
    there is none left to subtract (SliceGPT, Ashkboos et al. 2024).  Streams are found from one
    run; those after whose norms something else than linears reads (norms after the sum) are left.
    Tied embeddings are no longer tied afterwards.  Online rotations are `RotateInput`'s.
    """

    seed: int = 0

    def apply(self, task: Task) -> nn.Module:
        """Raises ModelError, with the first reason, where no stream can be rotated."""
        every = spaces(task)
        written = {s.norm: s for s in every if s.norm}
        model = copied(task)
        kinds = {n: norm_kind(model.get_submodule(n)) for s in every for n in s.norms}
        streams = [s for s in every if s.norms and s.writers]
        told = {i: _obstacle(s, model, written, kinds) for i, s in enumerate(streams)}
        free = [s for i, s in enumerate(streams) if not told[i]]
        if not free:
            why = next(iter(told.values()), "no norm reads a sum of what layers write")
            raise ModelError(f"no residual stream can be rotated: {why}; leave this rewrite out")
        for i, stream in enumerate(free):
            inner = [written[n] for n in stream.norms]
            _absorb_norms_(model, stream, inner, kinds)
            q = random_hadamard(stream.size, seed=self.seed + i)
            _rotate_(model, stream, inner, q)
        return model


def _obstacle(
    stream: Space, model: nn.Module, written: Mapping[str, Space], kinds: Mapping[str, str]
) -> str:
    """Why a stream cannot be rotated, or ""."""
    first = stream.writers[0].name
    if stream.rotate:
        return f"{first}: {stream.rotate}"
    if any(w.kind == "norm" for w in stream.writers):
        return f"{first}: a norm writes it, whose weight cannot move into its readers"
    for norm in stream.norms:
        if norm not in written:
            return f"{norm}: a shortcut reads it besides linears"
        space = written[norm]
        why = space.rotate or space.scale or space.shift
        if why:
            return f"{norm}: {why}"
    return _mixed(stream, model, kinds)


def _mixed(stream: Space, model: nn.Module, kinds: Mapping[str, str]) -> str:
    """Why the norms of a stream cannot all be RMS norms, or ""."""
    found = {kinds[n] for n in stream.norms}
    if found == {"rms"}:
        return ""
    if len(found) > 1:
        return f"{stream.norms[0]}: norms of both kinds read the stream"
    if stream.readers:
        return f"{stream.readers[0].name} reads the stream itself, with its mean"
    odd = [n for n in stream.norms if not isinstance(model.get_submodule(n), nn.LayerNorm)]
    return f"{odd[0]} is a norm of an unknown class that subtracts the mean" if odd else ""


def _absorb_norms_(
    model: nn.Module, stream: Space, inner: Sequence[Space], kinds: Mapping[str, str]
) -> None:
    """Weights and biases of norms into their readers; layer norms into RMS norms."""
    for space in inner:
        gain, bias = affine(model.get_submodule(space.norm))
        safe = torch.where(gain == 0, torch.ones_like(gain), gain)
        rescale_(model, space, safe, bias if bool(bias.any()) else None)
        if bool((gain == 0).any()):
            _silence_(model, space, gain == 0)
        set_affine_(model, space.norm, torch.ones_like(gain), torch.zeros_like(gain))
    if kinds[stream.norms[0]] == "layer":
        for writer in stream.writers:
            center_writer_(model, writer)
        for name in stream.norms:
            put(model, name, _without_mean(model.get_submodule(name)))


def _silence_(model: nn.Module, space: Space, dead: Tensor) -> None:
    """Nobody reads channels that the norm's weight held at zero."""
    for reader in space.readers:
        weight = model.get_submodule(reader.name).weight
        assert isinstance(weight, Tensor)
        with torch.no_grad():
            weight[:, dead[torch.tensor(reader.index)]] = 0


def _without_mean(norm: nn.Module) -> nn.Module:
    """The RMS norm that computes what a layer norm does of tokens whose mean is zero."""
    assert isinstance(norm, nn.LayerNorm)
    new = nn.RMSNorm(norm.normalized_shape, eps=norm.eps, elementwise_affine=False)
    return new.train(norm.training)


def _rotate_(model: nn.Module, stream: Space, inner: Sequence[Space], q: Tensor) -> None:
    for writer in stream.writers:
        rotate_writer_(model, writer, q)
    for space in (stream, *inner):
        for reader in space.readers:
            rotate_reader_(model, reader, q)
