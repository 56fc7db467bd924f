"""Walk: what is known of every tensor of an exported file while its graph is walked."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from allot.errors import ModelError
from allot.integer_only.graph import Port
from allot.integer_only.layers import Weight
from allot.integer_only.values import Draft, Real, as_plain


@dataclass(frozen=True, kw_only=True)
class Codes:
    """What QuantizeLinear makes: scale and zero point of a uint8 tensor."""

    tensor: str
    scale: float
    zero: int


@dataclass(frozen=True, kw_only=True)
class Outside:
    """A float input of the network before it is quantized, clipped to low..high."""

    name: str
    low: float = -math.inf
    high: float = math.inf


class Size:
    """A number or list made of the batch's size; shapes are read off the file instead."""


Value = Real | Weight | Codes | Outside | Size | NDArray[Any]


@dataclass(kw_only=True, eq=False)
class Walk:
    proto: Any
    draft: Draft
    values: dict[str, Value]
    ports: dict[str, Port] = field(default_factory=dict)

    def real(self, name: str, node: Any) -> Real:
        """A float tensor that came from quantized ones; raises ModelError for any other."""
        found = self.values.get(name)
        if isinstance(found, Real):
            return found
        if isinstance(found, Outside):
            raise ModelError(
                f"{node.op_type} {node.output[0]} reads the network's input {name} before it is "
                "quantized, which has no integer form; quantize the input first"
            )
        raise ModelError(f"{node.op_type} {node.output[0]} reads {name}, which has no integer form")

    def plain(self, name: str, node: Any) -> Real:
        """The same as one integer tensor, written where it is not yet."""
        found = as_plain(self.draft, self.real(name, node), name=name)
        self.values[name] = found
        return found

    def constant(self, name: str) -> NDArray[Any] | None:
        found = self.values.get(name) if name else None
        return found if isinstance(found, np.ndarray) else None
