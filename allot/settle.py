"""Settle: biases of convolutions that compute in integers, moved to whole units of their sums.

Integer kernels add the bias to the sum of products of codes, whose unit is the input's scale times
the row's: what they round away, half a unit at most, is taken out beforehand, so that simulation,
file and kernel have one bias.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from allot.deploy import fold_norm
from allot.options.quantizers import FormattedInput, FormattedOutput
from allot.options.standins import QuantizedInput, QuantizedLayer, QuantizedOutput
from allot.site import Graph, Layer
from allot.sweep import find, left_out, unwrapped


def settled_(planned: nn.Module, graph: Graph) -> nn.Module:
    """The planned network with settled biases, changed in place.

    They lie in the norm behind a convolution, or in the convolution itself.  Norms without a shift
    of their own, linears and rows of scale 0 stay as they are.
    """
    for layer in graph.layers:
        if layer.op == "conv2d" and layer.input and not left_out(planned, layer.module):
            _settle_(planned, layer, graph)
    return planned


def _settle_(planned: nn.Module, layer: Layer, graph: Graph) -> None:
    module = unwrapped(find(planned, layer.module))
    step = _scale(planned, layer, graph)
    if step is None or not isinstance(module, QuantizedLayer):
        return
    norm = unwrapped(find(planned, layer.norm)) if layer.norm else None
    shift = module.inner.bias if norm is None else norm.bias
    if not isinstance(shift, Tensor):
        return
    coded = module.coded(*fold_norm(norm, len(module.scale)))
    unit = step * coded.scale.detach().double().abs()
    bias = coded.bias.detach().double()
    moved = torch.where(unit > 0, (bias / unit).round() * unit - bias, 0.0)
    with torch.no_grad():
        shift.copy_(shift.double() + moved)


def _scale(planned: nn.Module, layer: Layer, graph: Graph) -> float | None:
    """Scale of the static codes that a layer reads; None where it reads none."""
    touch = graph.site(layer.input).touches[0]
    kind = QuantizedInput if touch.role == "in" else QuantizedOutput
    module = find(planned, touch.module)
    while getattr(module, "is_wrapper", False):
        if isinstance(module, kind):
            live = isinstance(module, FormattedInput | FormattedOutput)
            return None if live else float(module.scale)
        module = module.inner  # type: ignore[assignment]
    return None
