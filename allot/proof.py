"""Proof: a channel group is free only if really narrowing it gives what masking it gives."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from allot.options.narrow import narrowed
from allot.site import Site

Forward = Callable[[nn.Module, Any], Any]
# largest deviation, relative to the largest output: re-association in float32 over many layers
_TOLERANCE = 1e-3


def proven(model: nn.Module, sites: Sequence[Site], forward: Forward, example: Any) -> list[Site]:
    """The sites with those fixed that the network's own code does not let be narrowed.

    Each free group is narrowed alone, then all of them together.  `model` is left as it is.
    """
    done = []
    for site in sites:
        why = "" if site.fixed else _obstacle(model, {site: _some(site)}, forward, example)
        done.append(replace(site, fixed=why) if why else site)
    keeps = {s: _some(s) for s in done if not s.fixed}
    if len(keeps) < 2 or not _obstacle(model, keeps, forward, example):
        return done
    accepted: dict[Site, set[int]] = {}
    for site, keep in keeps.items():
        why = _obstacle(model, {**accepted, site: keep}, forward, example)
        if why:
            done[done.index(site)] = replace(site, fixed=f"together with other groups: {why}")
        else:
            accepted[site] = keep
    return done


def _some(site: Site) -> set[int]:
    """About two thirds of the classes, unevenly: slips of position and constants both show."""
    n = site.shape[0]
    return {c for c in range(n) if c % 3 != 1} - ({0} if n > 4 else set())


def narrow(model: nn.Module, keeps: Mapping[Site, Collection[int]]) -> nn.Module:
    """A copy of the network in which only the given classes of some groups are left."""
    new = copy.deepcopy(model)
    for site, keep in keeps.items():
        for touch in site.touches:
            module = narrowed(new.get_submodule(touch.module), touch, keep)
            new.set_submodule(touch.module, module)
    return new


def mask(model: nn.Module, keeps: Mapping[Site, Collection[int]]) -> nn.Module:
    """A copy of the network in which nobody reads the removed classes."""
    new = copy.deepcopy(model)
    for site, keep in keeps.items():
        for touch in site.touches:
            if touch.role == "in":
                gone = [i for i, c in enumerate(touch.index) if c >= 0 and c not in keep]
                weight = new.get_submodule(touch.module).weight
                assert isinstance(weight, Tensor)
                with torch.no_grad():
                    weight[:, gone] = 0
    return new


def _obstacle(
    model: nn.Module, keeps: Mapping[Site, Collection[int]], forward: Forward, example: Any
) -> str:
    """Why these groups cannot be narrowed, or ""."""
    wanted = forward(mask(model, keeps), example)
    try:
        got = forward(narrow(model, keeps), example)
    except (RuntimeError, ValueError, IndexError, TypeError, AssertionError):
        # the error's own words hold sizes of this example; the graph must not depend on them
        return "the network does not run with fewer of these channels: its code counts on them"
    if got.shape != wanted.shape:
        return "the network's output changes shape with fewer of these channels"
    limit = _TOLERANCE * float(wanted.abs().max()) + 1e-6
    if not bool(((got - wanted).abs() <= limit).all()):
        return "the network does something else with fewer of these channels"
    return ""
