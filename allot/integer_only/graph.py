"""Integer graph: a network as operations on whole numbers, every rescale a product and a shift."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from allot.num.dyadic import Integers

# least and largest whole number that a tensor can hold
Span = tuple[int, int]
Pair = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Window:
    """Where windows lie in [h, w].  padding: top, left, bottom, right.

    ceil: the last windows may hang over, as long as they begin inside the input or its padding at
    the top and left.
    """

    kernel: Pair
    stride: Pair = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: Pair = (1, 1)
    ceil: bool = False

    def places(self, size: Pair) -> Pair:
        """How many windows an input [h, w] has in each direction."""
        rows, columns = (self._along(size, d) for d in (0, 1))
        return rows, columns

    def _along(self, size: Pair, d: int) -> int:
        before, after = self.padding[d], self.padding[d + 2]
        room = size[d] + before + after - self.dilation[d] * (self.kernel[d] - 1) - 1
        if not self.ceil:
            return room // self.stride[d] + 1
        places = -(-room // self.stride[d]) + 1
        return places - ((places - 1) * self.stride[d] >= size[d] + before)


@dataclass(frozen=True, kw_only=True, eq=False)
class Convolution:
    """sum of codes * (x - zero) + bias: uint8 [n, in, h, w] -> int32 [n, out, h', w'].

    codes: int8 [out, in / groups, kh, kw].  bias: int32 [out].  Padded places hold `zero`.
    """

    layer: str
    input: str
    output: str
    zero: int
    codes: NDArray[np.int8]
    bias: NDArray[np.int32]
    window: Window
    groups: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Product:
    """(x - zero) codes^T + bias: uint8 [n, in] -> int32 [n, out]; codes int8 [out, in]."""

    layer: str
    input: str
    output: str
    zero: int
    codes: NDArray[np.int8]
    bias: NDArray[np.int32]


@dataclass(frozen=True, kw_only=True, eq=False)
class Term:
    """factors * (tensor - zero), factors int64 [n] per channel (dim 1) or [1]."""

    tensor: str
    zero: int
    factors: Integers


@dataclass(frozen=True, kw_only=True, eq=False)
class Rescale:
    """clip(floor((sum of terms + offset) / 2^shift + 1/2) + zero, low, high): halves go up.

    offset, shift: int64 [n] or [1].  kind: "uint8" or "int32", of the output.  rank: its dims.
    """

    output: str
    terms: tuple[Term, ...]
    offset: Integers
    shift: Integers
    zero: int
    low: int
    high: int
    kind: str
    rank: int


@dataclass(frozen=True, kw_only=True)
class MaxPool:
    """Largest code of every window, padding left out: uint8 -> uint8."""

    input: str
    output: str
    window: Window


@dataclass(frozen=True, kw_only=True)
class WindowSum:
    """Sum of (x - zero) over every window of x [n, c, *size], padding counted as 0: -> int64."""

    input: str
    output: str
    zero: int
    window: Window
    size: Pair


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Every step-th element from start to end of the named dims, steps above 0."""

    input: str
    output: str
    dims: tuple[int, ...]
    starts: tuple[int, ...]
    ends: tuple[int, ...]
    steps: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Pad:
    """`value` before and after in every dim: pads [2 * rank], all that go before first."""

    input: str
    output: str
    pads: tuple[int, ...]
    value: int
    kind: str


@dataclass(frozen=True, kw_only=True)
class Reshape:
    """The same elements as [n, *shape]."""

    input: str
    output: str
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Concat:
    """The inputs one after the other along a dim."""

    inputs: tuple[str, ...]
    output: str
    dim: int


Operation = Convolution | Product | Rescale | MaxPool | WindowSum | Slice | Pad | Reshape | Concat


@dataclass(frozen=True, kw_only=True)
class Port:
    """An input or output: real value = scale * (whole number - zero); low..high may occur.

    name: in the file.  tensor: in the graph.  shape: without the batch.  kind: "uint8" or "int32".
    """

    name: str
    tensor: str
    shape: tuple[int, ...]
    scale: float
    zero: int
    low: int
    high: int
    kind: str

    def dump(self) -> dict[str, Any]:
        """As JSON data."""
        kept = ("name", "scale", "zero", "low", "high", "kind")
        return {"shape": ["batch", *self.shape], **{k: getattr(self, k) for k in kept}}


@dataclass(frozen=True, kw_only=True, eq=False)
class IntegerGraph:
    """The operations in order.  spans: tensor -> what it can hold, proven when it was made."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    operations: tuple[Operation, ...]
    spans: Mapping[str, Span]

    def ports(self) -> dict[str, list[dict[str, Any]]]:
        """What goes in and comes out, as JSON data."""
        ends = {"inputs": self.inputs, "outputs": self.outputs}
        return {k: [p.dump() for p in v] for k, v in ends.items()}


def codes(port: Port, x: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Real inputs as the codes that the network takes, as QuantizeLinear makes them."""
    whole = np.rint(x.astype(np.float32) / np.float32(port.scale)) + port.zero
    return whole.clip(port.low, port.high).astype(np.uint8)


def reals(port: Port, y: NDArray[Any]) -> NDArray[np.float64]:
    """What the whole numbers of an output stand for."""
    return port.scale * (y.astype(np.float64) - port.zero)
