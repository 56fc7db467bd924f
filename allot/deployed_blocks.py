"""Deployed blocks: linears in blocks of few bits as runtimes read them, and ranges found live.

In the exported graph a block layer is the operator MatMulNBits, with a float input; where its input
has ranges found at run time in groups of the same size, it takes that over (`onnx_live`).
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from allot.deployed import Placed, expanded
from allot.num import blocks
from allot.num.formats import Encoded, Int
from allot.num.live_ranges import AtRunTime
from allot.options.quantizers import LiveQuantizer

# of the operator that stands for a live range until `onnx_live` writes it out
DOMAIN, LIVE = "allot", "Live"


class BlockLayer(Placed):
    """A linear stored on a format of integers in groups that there are kernels for (`blocks.fits`).

    encoded: codes [out, k] and scales.  gain [out] or None: what scales in half precision could
    not take in.  blocks, scales, zeros: both as kernels read them.
    """

    factors: ClassVar[tuple[()]] = ()
    blocks: Tensor
    scales: Tensor
    zeros: Tensor | None
    bias: Tensor | None

    def __init__(
        self, layer: nn.Linear, *, encoded: Encoded, gain: Tensor | None, bias: Tensor | None
    ) -> None:
        nn.Module.__init__(self)
        self.place(layer)
        self.encoded = encoded
        self.gain = None if gain is None else gain.detach().float()
        self._weight = expanded(encoded, self.gain, ())
        found = blocks.blocks(encoded, gain=self.gain)
        self.roles = tuple(found)
        for role, value in found.items():
            self.register_buffer(role, torch.from_numpy(value))
        if encoded.zero is None:
            self.register_buffer("zeros", None)
        self.register_buffer("bias", None if bias is None else bias.detach().float().contiguous())

    @property
    def shape(self) -> tuple[int, int]:
        """[out, k]."""
        rows, k = self.encoded.codes.shape
        return rows, k

    def forward(self, x: Tensor) -> Tensor:
        if not torch.onnx.is_in_onnx_export():
            return self.multiply(x, self._weight, self.bias)
        rows, k = self.shape
        fmt = self.encoded.format
        y: Tensor = torch.onnx.ops.symbolic(
            "com.microsoft::MatMulNBits",
            (x, *(getattr(self, role) for role in self.roles)),
            {"K": k, "N": rows, "bits": blocks.width(fmt), "block_size": fmt.group},
            dtype=x.dtype,
            shape=(*x.shape[:-1], rows),
            version=1,
        )
        return y if self.bias is None else y + self.bias


class LiveEdge(nn.Module):
    """Puts the tensor at one boundary of `inner` (role "in" or "out") on signed integers of 8 bits,
    ranges found in it.

    group: channels of a token that share a range, 0 for all of them, -1 for all of a sample.
    """

    is_wrapper: ClassVar[bool] = True

    def __init__(self, inner: nn.Module, *, role: str, group: int) -> None:
        nn.Module.__init__(self)
        self.inner, self.role, self.group = inner, role, group
        self.quantizer = LiveQuantizer(grid=Int(bits=8), ranges=AtRunTime(), dim=-1, group=group)

    def quantize(self, x: Tensor) -> Tensor:
        if not torch.onnx.is_in_onnx_export():
            found: Tensor = self.quantizer(x)
            return found
        marked: Tensor = torch.onnx.ops.symbolic(
            f"{DOMAIN}::{LIVE}",
            (x,),
            {"group": self.group},
            dtype=x.dtype,
            shape=x.shape,
            version=1,
        )
        return marked

    def forward(self, *inputs: Any, **named: Any) -> Any:
        if self.role == "in":
            return self.inner(self.quantize(inputs[0]), *inputs[1:], **named)
        return self.quantize(self.inner(*inputs, **named))
