"""Deployables: a small planned network and its graph, made by hand."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from allot.deploy import deploy
from allot.num.formats import Int
from allot.onnx_graph import to_onnx
from allot.options.standins import QuantizedInput, QuantizedLayer
from allot.site import Graph, Layer, Site, Touch


class Net(nn.Module):
    """Two convolutions with a shortcut, a loose norm, linear: [n, 3, 8, 8] -> [n, 5]."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.loose = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        y = self.bn(self.conv(x))
        y += x
        return self.head(self.loose(torch.relu(y)).mean((2, 3)))


def net(seed: int = 0) -> Net:
    """In eval mode, all numbers by seed, some norms with negative gains."""
    g = torch.Generator().manual_seed(seed)
    model = Net().eval().requires_grad_(False)
    for x in model.state_dict().values():
        if x.is_floating_point():
            x.copy_(torch.randn(x.shape, generator=g) * 0.4)
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            assert m.running_var is not None
            m.running_var.copy_(torch.rand(m.running_var.shape, generator=g) + 0.5)
    return model


def graph() -> Graph:
    """The graph of Net, by hand; 2 numbers a channel of the loose norm are loose bytes."""
    conv = {"op": "conv2d", "stride": (1, 1), "padding": (1, 1), "dilation": (1, 1)}
    layers = (
        Layer(
            module="stem.0", weight=(8, 3, 3, 3), in_shape=(3, 8, 8), out_shape=(8, 8, 8),
            macs=13824, norm="stem.1", input="stem.0.input", **conv,  # type: ignore[arg-type]
        ),
        Layer(
            module="conv", weight=(8, 8, 3, 3), in_shape=(8, 8, 8), out_shape=(8, 8, 8),
            macs=36864, norm="bn", bias=True, input="conv.input", **conv,  # type: ignore[arg-type]
        ),
        Layer(
            module="head", op="linear", weight=(5, 8), in_shape=(8,), out_shape=(5,),
            macs=40, bias=True, input="head.input",
        ),
    )  # fmt: skip
    sites = []
    for x in layers:
        m = x.module
        touch = (Touch(module=m, role="in"),)
        sites.append(_site(f"{m}.input", "activation", x.in_shape, touch, m))
        sites.append(_site(f"{m}.weight", "weight", x.weight, (Touch(module=m, role="weight"),), m))
    norms = ("stem.1", "bn", "loose")
    return Graph(layers=layers, sites=tuple(sites), norms=norms, order=(), loose=64)


def _site(
    name: str, kind: str, shape: tuple[int, ...], touches: tuple[Touch, ...], reach: str
) -> Site:
    return Site(name=name, kind=kind, shape=shape, touches=touches, reach=(reach,))


def coded(layer: nn.Conv2d | nn.Linear, bits: int) -> QuantizedLayer:
    """The layer on a grid of `bits`, every other scale negative where the grid is not symmetric."""
    top = layer.weight.detach().flatten(1).abs().amax(1)
    scale = top / max(2 ** (bits - 1) - 1, 1)
    if bits < 8:
        scale[::2] *= -1
    return QuantizedLayer(inner=layer, scale=scale, fmt=Int(bits=bits))


def edge(inner: nn.Module, *, bits: int = 8, low: float = 0.0, high: float = 4.0) -> QuantizedInput:
    """The module after its input was quantized in low..high."""
    scale = (high - low) / (2**bits - 1)
    return QuantizedInput(inner=inner, scale=scale, zero_point=round(-low / scale), bits=bits)


def planned(*, bits: tuple[int, int] = (8, 4), activations: int = 8, seed: int = 0) -> Net:
    """Net with stem and conv coded and their inputs quantized; the head stays float."""
    model = net(seed)
    stem, conv = model.stem[0], model.conv
    assert isinstance(stem, nn.Conv2d)
    model.stem[0] = edge(coded(stem, bits[0]), bits=activations, low=-3.0, high=3.0)
    model._modules["conv"] = edge(coded(conv, bits[1]), bits=activations)
    return model


def images(n: int = 6, seed: int = 1) -> Tensor:
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


@functools.cache
def exported(*, bits: tuple[int, int] = (8, 4), activations: int = 8) -> tuple[bytes, nn.Module]:
    """The planned network as ONNX bytes and the deployed module; not to be changed."""
    deployed = deploy(planned(bits=bits, activations=activations), graph())
    return to_onnx(deployed, images(2)), deployed
