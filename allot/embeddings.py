"""Embeddings: tables whose rows are looked up, and which of them may be stored in codes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

import torch
from torch import nn

from allot.site import Graph, Site, Touch


def embedding_sites(
    model: nn.Module, called: Collection[str], sites: Iterable[Site]
) -> Iterator[Site]:
    """A site for every nn.Embedding that a run called; fixed where its table is not its alone.

    sites: all others of the network, of which blocks may be dropped.  A subclass may compute
    something else with the same table: it is no embedding here.
    """
    dropped = [s.touches[0].module for s in sites if s.kind == "block" and not s.fixed]
    owners: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(name)
    for name, module in model.named_modules():
        if type(module) is nn.Embedding and name in called:
            weight = f"{name}.weight"
            others = [n for n in owners[id(module.weight)] if n != weight]
            yield Site(
                name=weight,
                kind="embedding",
                shape=tuple(module.weight.shape),
                touches=(Touch(module=name, role="weight"),),
                reach=(name,),
                fixed=_fixed(name, module, others, dropped),
            )


def _fixed(name: str, module: nn.Embedding, others: list[str], dropped: list[str]) -> str:
    """Why a table stays in float, "" where it need not."""
    if others:
        return f"its table is {others[0]} too"
    if module.max_norm is not None:
        return "it scales its rows when they are read"
    if module.weight.dtype != torch.float32:
        return f"its table is in {module.weight.dtype}"
    inside = [b for b in dropped if name.startswith(f"{b}.")]
    return f"it lies in {inside[0]}, a block that may be dropped" if inside else ""


def in_float(graph: Graph) -> Iterator[str]:
    """What of a network stays in float, and why, in sentences."""
    tables = {s.touches[0].module: s for s in graph.embeddings}
    kinds: dict[str, list[str]] = {}
    for name, kind, _ in graph.unknown:
        if name not in tables:
            kinds.setdefault(kind, []).append(name)
    if kinds:
        said = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in kinds.items())
        yield f"no quantizer for these, they stay in float and count so: {said}"
    for name in (n for n, s in tables.items() if s.fixed):
        yield f"the embedding {name} stays in float: {tables[name].fixed}"
    free = [n for n, s in tables.items() if not s.fixed]
    if free:
        yield f"embeddings stay in float but on the axis embeddings: {', '.join(free)}"


def left_in_float(graph: Graph, chosen: Collection[str]) -> Iterator[str]:
    """What stayed in float, a sentence each.  chosen: sites that a search chose at."""
    tables = {s.touches[0].module: s for s in graph.embeddings}
    for name, kind, words in graph.unknown:
        if name not in tables:
            yield f"{name} ({kind}, {words} parameters) is not understood and stays in float"
    for name, site in tables.items():
        if site.name not in chosen:
            why = site.fixed or "the axis embeddings was not searched"
            yield f"the embedding {name} stays in float: {why}"
