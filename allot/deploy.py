"""Deploy: a planned network in the form that is stored and exported, its norms folded."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from allot.deployed import (
    CodedLayer,
    DeployedLayer,
    EdgeQuant,
    ExpandedLayer,
    FloatLayer,
    FormattedLayer,
    ScaleShift,
)
from allot.deployed_blocks import BlockLayer, LiveEdge
from allot.deployed_tables import CodedEmbedding
from allot.errors import ModelError
from allot.num import blocks
from allot.num.formats import Int, rowwise
from allot.num.live_ranges import AtRunTime
from allot.options.embeddings import QuantizedEmbedding
from allot.options.format_layer import FormatLayer
from allot.options.quantizers import FormattedInput, FormattedOutput, LiveQuantizer
from allot.options.standins import QuantizedInput, QuantizedLayer, QuantizedOutput
from allot.site import Graph, Layer
from allot.sweep import find, left_out, rewrapped, unwrapped


def fold_norm(norm: nn.Module | None, channels: int) -> tuple[Tensor, Tensor]:
    """gain, shift [channels] with norm(x) = gain * x + shift in eval mode; 1 and 0 for no norm."""
    if norm is None or isinstance(norm, nn.Identity):
        return torch.ones(channels), torch.zeros(channels)
    if not isinstance(norm, nn.modules.batchnorm._BatchNorm) or norm.running_var is None:
        raise ModelError(f"{type(norm).__name__} cannot be folded; a batch norm in eval mode can")
    assert norm.running_mean is not None
    gain = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.affine:
        gain = gain * norm.weight.detach().double()
    shift = -norm.running_mean.double() * gain
    if norm.affine:
        shift = shift + norm.bias.detach().double()
    return gain.float(), shift.float()


def deploy(planned: nn.Module, graph: Graph) -> nn.Module:
    """A copy of the planned network in the form that is stored and exported, in eval mode.

    Batch norms that follow a layer are folded, others become a scale and a shift, coded layers
    and tables hold their codes, edges quantize with the operators of the exported graph; blocks
    that are left out and modules that the graph does not know stay as they are.
    """
    model = copy.deepcopy(planned).eval().requires_grad_(False)
    layers = [x for x in graph.layers if not left_out(model, x.module)]
    integer = {x.module for x in layers if _quantized_input(model, x, graph)}
    for layer in layers:
        _replace(model, layer.module, _deployed(model, layer, layer.module in integer))
        if layer.norm:
            _replace(model, layer.norm, nn.Identity())
    loose = set(graph.norms) - {x.norm for x in graph.layers}
    for name in (n for n in loose if not left_out(model, n)):
        norm = unwrapped(find(model, name))
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            gain, shift = fold_norm(norm, norm.num_features)
            _replace(model, name, ScaleShift(scale=gain, shift=shift))
    for name in (s.touches[0].module for s in graph.embeddings if not s.fixed):
        table = unwrapped(find(model, name))
        if isinstance(table, QuantizedEmbedding):
            _replace(model, name, CodedEmbedding(table.encoded()))
    return _with_edges(model)


def _quantized_input(model: nn.Module, layer: Layer, graph: Graph) -> bool:
    """Whether the tensor that the layer reads has 8-bit codes in an integer kernel's reach."""
    if not layer.input:
        return False
    touch = graph.site(layer.input).touches[0]
    kind = QuantizedInput if touch.role == "in" else QuantizedOutput
    module = find(model, touch.module)
    while getattr(module, "is_wrapper", False):
        if isinstance(module, FormattedInput | FormattedOutput):
            # ranges of groups of channels meet weights in groups alone
            return getattr(module.quantizer, "group", 0) <= 0
        if isinstance(module, kind):
            return True
        module = module.inner  # type: ignore[assignment]
    return False


def _deployed(model: nn.Module, layer: Layer, integer: bool) -> nn.Module:
    module = unwrapped(find(model, layer.module))
    norm = unwrapped(find(model, layer.norm)) if layer.norm else None
    has_bias = layer.bias or bool(layer.norm)
    if isinstance(module, QuantizedLayer):
        out = module.scale.shape[0]
        coded = module.coded(*fold_norm(norm, out))
        kind = DeployedLayer if integer else ExpandedLayer
        return kind(coded, bias=coded.bias if has_bias else None)
    if isinstance(module, FormatLayer):
        return _formatted(module, norm, has_bias=has_bias)
    if isinstance(module, nn.Conv2d | nn.Linear):
        weight = module.weight.detach()
        gain, shift = fold_norm(norm, weight.shape[0])
        bias = shift if module.bias is None else shift + gain * module.bias.detach()
        return FloatLayer(
            module, weight=weight * rowwise(gain, weight), bias=bias if has_bias else None
        )
    raise ModelError(f"{layer.module} is a {type(module).__name__}, which has no deployed form")


def _formatted(
    module: FormatLayer, norm: nn.Module | None, *, has_bias: bool
) -> FormattedLayer | BlockLayer:
    """The layer with its norm in its scales, or beside them where they cannot take it in; a linear
    in blocks where there are kernels for its format, else to be expanded."""
    folded = module.affine(*fold_norm(norm, module.inner.weight.shape[0])) if norm else module
    gain = None
    if has_bias and not folded.format.takes_gain:
        gain = torch.ones(len(folded.inner.weight)) if folded.gain is None else folded.gain
    bias = folded.inner.bias.detach() if has_bias and folded.inner.bias is not None else None
    encoded = folded.encoded()
    if isinstance(folded.inner, nn.Linear) and folded.up is None and blocks.fits(folded.format):
        return BlockLayer(folded.inner, encoded=encoded, gain=gain, bias=bias)
    return FormattedLayer(
        folded.inner, encoded=encoded, gain=gain, up=folded.up, down=folded.down, bias=bias
    )


def _replace(model: nn.Module, name: str, new: nn.Module) -> None:
    """Puts a module in the place of the innermost one of a name, wrappers kept; in place."""
    parent_name, _, child = name.rpartition(".")
    parent = unwrapped(find(model, parent_name))
    old = parent._modules[child]
    assert old is not None
    parent._modules[child] = rewrapped(old, new)


def _with_edges(module: nn.Module) -> nn.Module:
    """The module with every quantizing wrapper in its exported form, changed in place inside."""
    for name, child in module._modules.items():
        if child is not None:
            module._modules[name] = _with_edges(child)
    if isinstance(module, QuantizedInput | QuantizedOutput):
        role = "in" if isinstance(module, QuantizedInput) else "out"
        if isinstance(module, FormattedInput | FormattedOutput):
            return LiveEdge(module.inner, role=role, group=_live(module.quantizer))
        return EdgeQuant(
            module.inner,
            role=role,
            scale=module.scale,
            zero_point=module.zero_point,
            bits=module.bits,
        )
    return module


def _live(quantizer: nn.Module) -> int:
    """Who shares a range of a quantizer whose ranges are found in the tensor."""
    if (
        isinstance(quantizer, LiveQuantizer)
        and quantizer.grid == Int(bits=8)
        and quantizer.ranges == AtRunTime()
        and quantizer.dim == -1
    ):
        return quantizer.group
    raise ModelError(
        f"a tensor through a {type(quantizer).__name__} has no deployed form; one with a single "
        "static range of unsigned integers has, and what a linear reads in signed ones of 8 bits "
        "with ranges found at run time"
    )


def named_layers(deployed: nn.Module) -> dict[str, FloatLayer | CodedLayer | BlockLayer]:
    """Name in the original network -> its deployed layer, in order of the modules."""
    found = {}
    for path, module in deployed.named_modules():
        if isinstance(module, FloatLayer | CodedLayer | BlockLayer):
            found[original_name(deployed, path)] = module
    return found


def tables(deployed: nn.Module) -> dict[str, CodedEmbedding]:
    """Name in the original network -> its deployed embedding, of those that hold codes."""
    return {
        original_name(deployed, path): module
        for path, module in deployed.named_modules()
        if isinstance(module, CodedEmbedding)
    }


def original_name(model: nn.Module, path: str) -> str:
    """The name in the original network of a module or tensor path: wrappers add no part."""
    module: nn.Module | None = model
    parts = []
    for part in path.split(".") if path else ():
        if not getattr(module, "is_wrapper", False):
            parts.append(part)
        elif part != "inner":
            parts.append(part)
        module = None if module is None else module._modules.get(part)
    return ".".join(parts)
