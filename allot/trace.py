"""Trace: run a network once, opaque forward and all, to know its sites."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from allot import probe
from allot.edges import activation_sites, per_sample, result_sites
from allot.embeddings import embedding_sites
from allot.errors import DataError, ModelError
from allot.groups import channel_sites
from allot.proof import proven
from allot.provenance import tensors
from allot.record import Call, Record, is_unit, run
from allot.site import Graph, Layer, Site, Touch
from allot.streams import with_structure

Forward = Callable[[nn.Module, Any], Any]


def trace(model: nn.Module, task_forward: Forward, example: Any) -> Graph:
    """All sites of a model in execution order, from running a private copy of it on `example`.

    example: a small batch, as `task_forward(model, example) -> [n, ...]` takes it.  The order
    leaves out the network itself.  loose: 4 bytes per parameter that no layer holds, and a scale
    and a shift per channel of norms that cannot be folded.

    Raises ModelError for weights that are not finite, a network that is random in eval, has no
    layer or returns no tensor [n, ...]; DataError for an example that does not fit.
    """
    _check_weights(model)
    copied = copy.deepcopy(model).eval().requires_grad_(False)
    with torch.no_grad(), _own_random():
        batch = _check_example(copied, task_forward, example)
        record = run(copied, task_forward, example)
        layers, sites = _layers(copied, record, batch)
        groups = proven(copied, channel_sites(record, layers), task_forward, example)
        every = with_structure(
            copied, record, layers, [*sites, *groups], forward=task_forward, example=example
        )
    graph = _graph(copied, record, layers, every)
    return replace(
        graph,
        results=tuple(result_sites(record, layers, batch)),
        embeddings=tuple(embedding_sites(copied, {n for n, _ in record.order}, every)),
    )


@contextmanager
def _own_random() -> Iterator[None]:
    """The caller's random numbers are not used up."""
    with torch.random.fork_rng(devices=[]):
        yield


def _check_weights(model: nn.Module) -> None:
    for name, x in model.state_dict().items():
        if isinstance(x, Tensor) and x.is_floating_point() and not bool(x.isfinite().all()):
            bad = int((~x.isfinite()).sum())
            raise ModelError(f"{name} holds {bad} values that are NaN or infinite of {x.numel()}")


def _check_example(model: nn.Module, forward: Forward, example: Any) -> int:
    """The batch size; runs the network twice."""
    given = tensors(example)
    if not given or not all(t.dim() and len(t) for t in given):
        raise DataError("the example is empty: give a batch [n, ...] of at least one sample")
    if not all(bool(t.isfinite().all()) for t in given):
        raise DataError("the example holds values that are NaN or infinite")
    first, second = (probe.outputs(model, forward, example) for _ in range(2))
    output, n = first["output"][0], len(given[0])
    where = probe.first_nan(first)
    if where:
        raise ModelError(f"{where} gives NaN for the example; check its weights and its inputs")
    if not bool(output.isfinite().all()):
        raise ModelError("the network's output for the example holds infinite values")
    probe.check_equal(first, second)
    if not output.dim() or len(output) != n:
        raise ModelError(f"the output must be [n, ...] with n = {n}; it is {list(output.shape)}")
    return n


def _layers(model: nn.Module, record: Record, batch: int) -> tuple[list[Layer], list[Site]]:
    """Layers in execution order with their weight and activation sites."""
    calls: dict[str, list[Call]] = {}
    for call in sorted(record.calls, key=lambda c: c.start):
        calls.setdefault(call.module, []).append(call)
    modules = dict(model.named_modules())
    layers = []
    for name, group in calls.items():
        module = modules[name]
        if is_unit(module) and isinstance(module, nn.Conv2d | nn.Linear):
            layers.append(_layer(name, module, group, _norm(record, group, modules), batch))
    if any(not x.module for x in layers):
        raise ModelError("the network is a single layer; put it into an nn.Sequential")
    if not layers:
        raise ModelError("the network has no convolution (Conv2d) or linear (Linear) layer")
    sites, inputs = activation_sites(record, layers, batch)
    weights = [
        Site(
            name=f"{x.module}.weight",
            kind="weight",
            shape=x.weight,
            touches=(Touch(module=x.module, role="weight"),),
            reach=(x.module,),
        )
        for x in layers
    ]
    return [replace(x, input=inputs[x.module]) for x in layers], sites + weights


def _layer(
    name: str, module: nn.Conv2d | nn.Linear, calls: list[Call], norm: str, batch: int
) -> Layer:
    w = module.weight
    layer = Layer(
        module=name,
        op="linear",
        weight=tuple(w.shape),
        bias=module.bias is not None,
        in_shape=per_sample(calls[0].in_shape, batch),
        out_shape=per_sample(calls[0].out_shape, batch),
        macs=sum(math.prod(c.out_shape) for c in calls) // batch * w[0].numel(),
        norm=norm,
    )
    if isinstance(module, nn.Linear):
        return layer
    return replace(
        layer,
        op="conv2d",
        stride=tuple(module.stride),
        padding=_padding(module),
        dilation=tuple(module.dilation),
        groups=module.groups,
    )


def _padding(module: nn.Conv2d) -> tuple[int, ...]:
    """Padding per dim; "same" of an even kernel pads one less before than after."""
    if isinstance(module.padding, str):
        same = module.padding == "same"
        pairs = zip(module.kernel_size, module.dilation, strict=True)
        return tuple(d * (k - 1) // 2 if same else 0 for k, d in pairs)
    return tuple(module.padding)


def _norm(record: Record, calls: list[Call], modules: dict[str, nn.Module]) -> str:
    """The batch norm that alone reads what a layer makes, where both are called once."""
    made = calls[0].made
    if len(calls) != 1 or made is None or len(record.uses.get(made, ())) != 1:
        return ""
    times = Counter(c.module for c in record.calls)
    for c in record.calls:
        if c.read == made and times[c.module] == 1 and _is_norm(modules[c.module]):
            return c.module
    return ""


def _is_norm(module: nn.Module) -> bool:
    return is_unit(module) and isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)


def _graph(model: nn.Module, record: Record, layers: list[Layer], sites: list[Site]) -> Graph:
    order = [(name, event) for name, event in record.order if name]
    when = {name: i for i, (name, _) in reversed(list(enumerate(order)))}
    modules = dict(model.named_modules())
    norms = tuple(dict.fromkeys(n for n, _ in order if _is_norm(modules[n])))
    called = {name for name, _ in order}
    unknown = []
    for name, module in modules.items():
        own = sum(p.numel() for p in module.parameters(recurse=False))
        if name in called and not is_unit(module):
            own += _buffers(module)
        if own and not (is_unit(module) and name in called):
            unknown.append((name, type(module).__name__, own))
    folded = {x.norm for x in layers}
    unfolded = sum(len(modules[n].get_buffer("running_var")) for n in norms if n not in folded)
    kinds = ("activation", "weight", "channels", "block", "tokens")
    return Graph(
        layers=tuple(layers),
        sites=tuple(sorted(sites, key=lambda s: (when[_first(s)], kinds.index(s.kind)))),
        norms=norms,
        order=tuple(order),
        unknown=tuple(unknown),
        loose=4 * sum(n for _, _, n in unknown) + 8 * unfolded,
    )


def _buffers(module: nn.Module) -> int:
    """What a module keeps besides parameters and is stored with it, in words of 4 bytes."""
    kept = set(module.state_dict())
    found = [b for n, b in module.named_buffers(recurse=False) if n in kept]
    return -(-sum(b.numel() * b.element_size() for b in found) // 4)


def _first(site: Site) -> str:
    """The first module that a site concerns."""
    return site.reach[0] if site.kind == "activation" else site.touches[0].module
