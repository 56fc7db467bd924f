"""Streams: the places of a network behind which some of its tokens may be left out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from allot.blocks import Block, Forward, block_sites, blocks, swapped
from allot.edges import per_sample
from allot.option import kept_tokens
from allot.options.tokens import Spread, Thinned
from allot.provenance import tensors
from allot.quiet import quiet
from allot.record import Record
from allot.site import Layer, Site, Touch

_RATIO = 0.5
# layer -> its input's shape per sample and all output elements per sample; "": the output's shape
Seen = Mapping[str, tuple[tuple[int, ...], int]]


def with_structure(
    model: nn.Module, record: Record, layers: Sequence[Layer], sites: Sequence[Site], *,
    forward: Forward, example: Any,
) -> list[Site]:  # fmt: skip
    """The sites of a network with those of its blocks and of their tokens added."""
    found = blocks(model, record, layers, forward, example)
    if not found:
        return list(sites)
    every = block_sites(model, record, found, sites=sites, forward=forward, example=example)
    return every + token_sites(model, found, layers, forward=forward, example=example)


def token_sites(
    model: nn.Module, blocks: Sequence[Block], layers: Sequence[Layer], *, forward: Forward,
    example: Any,
) -> list[Site]:  # fmt: skip
    """One site per block over tokens [t, c] that layers read behind it; runs the network.

    Half of the tokens are left out there, once: reach is what sees fewer of them.  Fixed where
    the network does not run so, changes the shape of its output, or has layers whose work does
    not follow the number of tokens; and all of them where that happens with all together, or where
    torch exports the network but not with fewer tokens.
    """
    whole = _seen(model, {}, layers, forward, example)
    found = []
    for b in blocks:
        if len(b.shape) == 2 and b.shape[0] > 2:
            site = _site(model, b, whole, layers, forward, example)
            found += [site] if site.fixed or site.reach else []
    free = [s for s in found if not s.fixed]
    why = _together(model, free, whole, layers, forward, example) if free else ""
    return [replace(s, fixed=s.fixed or why) for s in found]


def _site(
    model: nn.Module, b: Block, whole: Seen, layers: Sequence[Layer], forward: Forward, example: Any
) -> Site:
    site = Site(
        name=f"{b.module}.tokens",
        kind="tokens",
        shape=b.shape,
        touches=(Touch(module=b.module, role="out"),),
        reach=(),
    )
    thinned = _thinned(model, [site])
    try:
        seen = _seen(model, thinned, layers, forward, example)
    except (RuntimeError, ValueError, IndexError, TypeError, AssertionError):
        return replace(site, fixed="the network does not run with fewer tokens behind it")
    if seen[""] != whole[""]:
        return replace(site, fixed="the network's output changes shape with fewer tokens")
    reach = tuple(x.module for x in layers if seen.get(x.module) != whole.get(x.module))
    left = kept_tokens(b.shape[0], _RATIO)
    if any(not _follows(whole[n], seen.get(n), b.shape[0], left) for n in reach):
        return replace(
            site, fixed="the work of layers behind it does not follow the number of tokens"
        )
    return replace(site, reach=reach)


def _follows(
    whole: tuple[tuple[int, ...], int], seen: tuple[tuple[int, ...], int] | None, t: int, left: int
) -> bool:
    """Whether a layer reads [left, c] where it read [t, c], for as large a share of its work."""
    if seen is None:
        return False
    (shape, n), (new, m) = whole, seen
    return len(shape) > 1 and shape[0] == t and new == (left, *shape[1:]) and m * t == n * left


def _together(
    model: nn.Module, sites: Sequence[Site], whole: Seen, layers: Sequence[Layer], forward: Forward,
    example: Any,
) -> str:  # fmt: skip
    """Why the places cannot be thinned all at once, or ""."""
    why = "the network does other work with fewer tokens behind several blocks"
    try:
        seen = _seen(model, _thinned(model, sites), layers, forward, example)
    except (RuntimeError, ValueError, IndexError, TypeError, AssertionError):
        return "the network does not run with fewer tokens behind several blocks"
    if seen[""] != whole[""]:
        return why
    for x in layers:
        left = t = sites[0].shape[0]
        for s in sites:
            left = kept_tokens(left, _RATIO) if x.module in s.reach else left
        if left < t and not _follows(whole[x.module], seen.get(x.module), t, left):
            return why
    exported = _exports(model, _thinned(model, sites), example) or not _exports(model, {}, example)
    return "" if exported else "the network cannot be exported with fewer tokens"


def _exports(model: nn.Module, standins: Mapping[str, nn.Module], example: Any) -> bool:
    """Whether torch captures the network as a graph; some networks run otherwise there."""
    args = (example,) if isinstance(example, Tensor) else ()
    named = {} if isinstance(example, Tensor) else example
    try:
        with (
            swapped(model, standins),
            quiet("torch._subclasses.fake_tensor", level=logging.CRITICAL),
        ):
            torch.export.export(model, args, named)
    except (
        RuntimeError,
        ValueError,
        IndexError,
        KeyError,
        TypeError,
        AttributeError,
        AssertionError,
    ):
        return False
    return True


def _thinned(model: nn.Module, sites: Sequence[Site]) -> dict[str, nn.Module]:
    names = [s.touches[0].module for s in sites]
    return {n: Thinned(inner=model.get_submodule(n), ratio=_RATIO, order=Spread()) for n in names}


def _seen(
    model: nn.Module, standins: Mapping[str, nn.Module], layers: Sequence[Layer], forward: Forward,
    example: Any,
) -> Seen:  # fmt: skip
    """What every layer reads and makes with stand-ins in place."""
    batch = len(tensors(example)[0])
    found: dict[str, tuple[tuple[int, ...], int]] = {}

    def watch(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> None:
            shape = per_sample(tuple(tensors((args, kwargs))[0].shape), batch)
            found[name] = (shape, found.get(name, ((), 0))[1] + output.numel() // batch)

        return hook

    handles = []
    try:
        for x in layers:
            module = model.get_submodule(x.module)
            handles.append(module.register_forward_hook(watch(x.module), with_kwargs=True))
        with swapped(model, standins), torch.no_grad():
            output = tensors(forward(model, example))[0]
    finally:
        for h in handles:
            h.remove()
    return {**found, "": (tuple(output.shape), 0)}
