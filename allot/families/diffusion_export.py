"""Export: one ONNX file for every variant of a planned sampler's network."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from allot.deploy import deploy
from allot.errors import InputError
from allot.families.diffusion_variants import (
    GIVEN,
    OUTPUT,
    Evaluation,
    Variant,
    results_of,
    variants,
)
from allot.onnx_graph import to_onnx
from allot.options.by_step import TimedQuantizer
from allot.options.quantizers import FormattedInput, FormattedOutput
from allot.sampling.moment import Timed
from allot.sampling.sampler import Sampler
from allot.site import Graph

_M = TypeVar("_M", bound=nn.Module)


@dataclass(frozen=True, kw_only=True, eq=False)
class Exported:
    """One variant. onnx: the complete file.  module: what was exported."""

    variant: Variant
    onnx: bytes
    module: Evaluation


def exported(sampler: Sampler, graph: Graph, example: Mapping[str, Tensor]) -> tuple[Exported, ...]:
    """Every variant that the sampler's steps ask for, in order of their first step.

    graph: of the sampler (`allot.samplers.graph.graph_of`).  example: its inputs, "noise" [n, ...]
    and conditions, n >= 2.  Raises InputError for what no file holds, ModelError where torch
    cannot export the network.
    """
    wanted = dict.fromkeys(variants(sampler).values())
    inputs = evaluation_inputs(sampler, example)
    spans = dict.fromkeys(s for v in wanted for s in (*v.given, *v.gone, *v.told))
    results = results_of(sampler.denoiser, inputs, tuple(spans))
    found = []
    for variant in wanted:
        settled = at_bits(sampler, variant.bits)
        _refuse_timed(settled.denoiser)
        network = deploy(settled, graph).get_submodule("denoiser")
        module = Evaluation(network, variant, shapes=results.shapes, names=tuple(inputs))
        values = [v for s in variant.given for v in results.values[s.name]]
        given = dict(zip(module.given(), values, strict=True))
        data = to_onnx(module, {**inputs, **given}, output_names=(OUTPUT, *module.told()), free={})
        found.append(Exported(variant=variant, onnx=data, module=module))
    return tuple(found)


def _refuse_timed(network: nn.Module) -> None:
    """Raises InputError where a file, which is not told the step, would compute something else."""
    found = [n for n, m in network.named_modules() if isinstance(m, Timed)]
    if found:
        raise InputError(
            f"{found[0]} computes differently from step to step, which a file that many steps "
            "share does not; plan it with what holds at every step, or with bits by step alone"
        )


def evaluation_inputs(sampler: Sampler, example: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the network is told at the first step, from inputs of the sampler."""
    told = dict(example)
    x = told.pop("noise")
    if len(x) < 2:
        raise InputError("an example of at least two samples is needed: one would fix the batch")
    foreign = [k for k in told if k.startswith(GIVEN)]
    if foreign:
        raise InputError(f"conditions named {', '.join(foreign)} clash with results of spans")
    return {"x": x, "time": torch.full((len(x),), sampler.grid.times[0]), **told}


def at_bits(model: _M, bits: int | None) -> _M:
    """A copy whose tensors between layers are in as many bits as one kind of step asks for.

    Raises InputError for widths that a tensor has no ranges for.
    """
    found = _settled(copy.deepcopy(model), bits)
    assert isinstance(found, type(model))
    return found


def _settled(module: nn.Module, bits: int | None) -> nn.Module:
    for name, child in module._modules.items():
        if child is not None:
            module._modules[name] = _settled(child, bits)
    if not isinstance(module, FormattedInput | FormattedOutput):
        return module
    timed = module.quantizer
    if not isinstance(timed, TimedQuantizer):
        return module
    inner = module._modules["inner"]
    assert inner is not None
    if bits is None:
        return inner
    if str(bits) not in timed.by_bits:
        raise InputError(f"a step rounds to {bits} bits, for which a tensor has no ranges")
    edge = timed.by_bits[str(bits)]
    edge._modules["inner"] = inner
    return edge
