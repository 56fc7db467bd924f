"""PyTorch on an NVIDIA GPU: int8 tensor cores for quantized linears, timed by CUDA events."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from allot.errors import MissingError
from allot.option import FIXED, Option
from allot.runtimes import kernels
from allot.runtimes.from_onnx import layers
from allot.runtimes.from_onnx.build import build, folded
from allot.runtimes.from_onnx.fused import fused
from allot.runtimes.from_onnx.integer import IntegerLayer, joined, needed
from allot.runtimes.from_onnx.read import Network, Node, read
from allot.runtimes.torch_kernels import OPERATORS as SHARED
from allot.runtimes.torch_kernels import coding, joined_codes
from allot.site import Graph, Site
from allot.target import Arrays, Session, Target, Workload

# torch._int_mm on CUDA takes more than 16 rows, and widths that are multiples of 8
ROWS, STEP = 32, 8


@dataclass(frozen=True, kw_only=True)
class TorchCuda(Target):
    """torch on the first CUDA device.

    Linears whose weight and input are integers run as int8 x int8 -> int32 (torch._int_mm);
    everything else in float32, without TF32 unless torch was told otherwise.  half: convolutions
    in float16, sums in float32.  compiled: through torch.compile.
    """

    name: ClassVar[str] = "torch-cuda"
    bills: ClassVar[tuple[str, ...]] = ("size", "bitops", "memory", "latency")
    install: ClassVar[str] = "pip install torch --index-url https://download.pytorch.org/whl/cu126"
    half: bool = False
    compiled: bool = False

    def missing(self) -> str:
        if torch.cuda.is_available():
            return ""
        if torch.version.cuda is None:
            return f"{self.name} needs a torch that was built for CUDA: {self.install}"
        return f"{self.name} needs an NVIDIA GPU; torch finds none here"

    def version(self) -> str:
        if self.missing():
            return ""
        ways = ", half" * self.half + ", compiled" * self.compiled
        return f"torch {torch.__version__}, {torch.cuda.get_device_name(0)}{ways}"

    def can(self, option: Option, site: Site, graph: Graph) -> str:
        if option.kind == "activation" and not option.is_original:
            if any(graph.layer(m).op != "linear" for m in site.reach):
                return f"{self.name} has int8 kernels for linears only"
            if option.effect(site).ranges != FIXED:
                return f"{self.name} takes tensors of one range that is known beforehand"
        return kernels.can(option, site, graph, name=self.name)

    def channel_step(self, size: int) -> int:
        return kernels.channel_step(size)

    def activation_bits(self) -> tuple[int, ...]:
        return (8,)

    def computes(self, weight_bits: float, input_bits: float) -> tuple[float, float]:
        return kernels.computes(weight_bits, input_bits)

    def open(self, onnx: bytes, *, workload: Workload) -> Session:
        if self.missing():
            raise MissingError(self.missing())
        return CudaSession(onnx, half=self.half, compiled=self.compiled)


class CudaSession:
    """A network on the device; it is timed by the device itself (see `allot.timing.Stopwatch`)."""

    def __init__(self, onnx: bytes, *, half: bool, compiled: bool, device: str = "cuda") -> None:
        network = read(onnx)
        self._names, self._outputs, self._device = network.inputs, network.outputs, device
        module = build(lowered(network, half=half), device=device, operators=OPERATORS)
        self._run: Any = torch.compile(module, dynamic=True) if compiled else module

    def run(self, inputs: Arrays) -> dict[str, NDArray[np.generic]]:
        with torch.inference_mode():
            found = self._run(*self._given(inputs))
        outputs = (np.array(x.cpu().contiguous().numpy()) for x in found)
        return dict(zip(self._outputs, outputs, strict=True))

    def call_seconds(self, inputs: Arrays) -> float:
        """Of one call on inputs that lie on the device already, from its first kernel to its last.

        The pauses in which the device waits for the next kernel to be launched count.
        """
        with torch.inference_mode():
            given = self._given(inputs)
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            start.record()
            self._run(*given)
            end.record()
            torch.cuda.synchronize()
        return float(start.elapsed_time(end)) / 1e3

    def _given(self, inputs: Arrays) -> list[Tensor]:
        arrays = (np.ascontiguousarray(inputs[n]) for n in self._names)
        return [torch.from_numpy(x).to(self._device) for x in arrays]


def lowered(network: Network, *, half: bool) -> Network:
    """The network with integer linears on `torch._int_mm`, convolutions in float16 if `half`."""
    network = fused(folded(needed(joined(network, _product))))
    nodes, constants = [], dict(network.constants)
    for node in network.nodes:
        made = coding(node, constants, compiled=False)
        if half and node.op == "Conv" and node.inputs[1] in constants:
            name = f"{node.outputs[0]}/half"
            constants[name] = constants[node.inputs[1]].half()
            node = replace(
                node, op="allot.ConvHalf", inputs=(node.inputs[0], name, *node.inputs[2:])
            )
        nodes.append(made[0] if made else node)
    return needed(replace(network, nodes=tuple(nodes), constants=constants))


def _product(layer: IntegerLayer) -> tuple[Node, Mapping[str, Tensor]] | None:
    """A linear on codes; None for a convolution, or codes out of another kind than uint8."""
    other = layer.out is not None and layer.out.kind != torch.uint8
    if layer.node.op == "Conv" or other:
        return None
    name, (outs, ins) = layer.node.outputs[0], layer.weight.shape
    shift = 128 if layer.x.kind == torch.uint8 else 0
    factor = layer.scale * layer.x.scale
    sums = layer.weight.sum(1, dtype=torch.float64)
    offset = -factor.double() * (layer.x.zero - shift) * sums
    if layer.bias is not None:
        offset = offset + layer.bias.double()
    wide = F.pad(layer.weight, (0, -ins % STEP, 0, -outs % STEP)).contiguous()
    constants = {f"{name}/codes": wide, f"{name}/factor": factor, f"{name}/offset": offset.float()}
    out = layer.out
    settings = {
        "shift": shift,
        "low": layer.low,
        "high": layer.high,
        "scale": None if out is None else out.scale,
        "zero": 0 if out is None else out.zero,
    }
    inputs = (layer.x.name, *constants)
    node = Node(op="allot.Product", inputs=inputs, outputs=(layer.result,), settings=settings)
    return node, constants


def product(
    x: Tensor, weight: Tensor, factor: Tensor, offset: Tensor, *, shift: int, low: float | None,
    high: float | None, scale: float | None, zero: int,
) -> Tensor:  # fmt: skip
    """x: codes [..., in], uint8 with a shift of 128 or int8.  weight: int8 [out, in], both padded
    to multiples of 8.  factor, offset: [out], of the sums -> float, or uint8 codes with a scale.
    """
    rows = x.reshape(-1, x.shape[-1])
    signed = rows.bitwise_xor(128).view(torch.int8) if shift else rows
    wide = F.pad(signed, (0, weight.shape[1] - signed.shape[1], 0, max(0, ROWS - len(signed))))
    sums = torch._int_mm(wide.contiguous(), weight.t())
    found = sums[: len(rows), : len(factor)].float() * factor + offset
    if low is not None or high is not None:
        found = found.clamp(low, high)
    if scale is not None:
        found = joined_codes(found, scale=scale, zero=zero)
    return found.reshape(*x.shape[:-1], len(factor))


def conv_half(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, kernel_shape: Sequence[int] = (),
    strides: Sequence[int] | None = None, pads: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None, group: int = 1,
) -> Tensor:  # fmt: skip
    """A convolution with a float16 weight, its bias added in float32."""
    found = layers.conv(
        x.half(), weight, strides=strides, pads=pads, dilations=dilations, group=group
    ).float()
    return found if bias is None else found + bias.view(-1, *[1] * (x.dim() - 2))


OPERATORS: Mapping[str, Callable[..., Any]] = {
    **SHARED,
    "allot.ConvHalf": conv_half,
    "allot.Product": product,
}
