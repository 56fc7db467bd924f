"""Readers: what the layers behind a module weigh, see and undo, by the module's channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from allot.rewrites.flow import Flow, Reading
from allot.rewrites.layers import input_sizes, layer, scale_inputs


def read_sizes(model: nn.Module, flow: Flow) -> Tensor:
    """Largest weight that reads each channel, among all readers: float64 [channels]."""
    return most(flow, lambda r: input_sizes(layer(model, r.module)))


def most(flow: Flow, values: Callable[[Reading], Tensor | None]) -> Tensor:
    """Per channel the largest of what each reader says of its inputs: float64 [channels].

    values(reading): [in], not negative, or None where the reader says nothing; 0 where none does.
    """
    found = torch.zeros(flow.channels, dtype=torch.float64)
    for reading in flow.readers:
        said = values(reading)
        if said is not None:
            index, here = _index(reading.channels)
            found.scatter_reduce_(0, index, said.double().cpu()[here], "amax")
    return found


def scale_readers(model: nn.Module, flow: Flow, scale: Tensor) -> None:
    """Multiplies what reads each channel by scale [channels] (in place)."""
    for reading in flow.readers:
        index, here = _index(reading.channels)
        factors = torch.ones(len(reading.channels), dtype=torch.float64)
        factors[here] = scale.double().cpu()[index]
        scale_inputs(layer(model, reading.module), factors)


def _index(channels: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Channels that are read, and a mask of the positions that read them."""
    index = torch.tensor(channels)
    here = index >= 0
    return index[here], here
