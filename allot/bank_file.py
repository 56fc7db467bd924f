"""Bank file: a bank as a folder that many processes map at once; JSON and tensors, never a pickle.

A stand-in is written as a tree of modules of allot and of torch's own layers: their plain settings
and their tensors.  What cannot be written so (a module of the user's inside) is left out, and is
encoded again by whoever needs it: encodings depend on weights and statistics alone, so that
changes nothing but the time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from allot import part
from allot.bank import Bank, Key
from allot.errors import ArtefactError, PlanError
from allot.files import json_bytes, read_json, write_bytes
from allot.module_tree import Untold, built, told
from allot.option import Option
from allot.plan import weights_digest
from allot.site import Graph
from allot.space import Space

VERSION = 1
INDEX, TENSORS = "bank.json", "bank.safetensors"


def save(bank: Bank, space: Space, folder: Path) -> None:
    """Writes the statistics and every option of a space, each encoded alone, and what else the
    bank has encoded already."""
    from safetensors.torch import save as dumped

    for choice in space.choices:
        for option in choice.options:
            bank.standins({site: option for site in (choice.site, *choice.tied)})
    tensors: dict[str, Tensor] = {}
    known: dict[int, str] = {}

    def name(x: Tensor) -> str:
        if id(x) not in known:
            known[id(x)] = f"{len(tensors)}"
            tensors[known[id(x)]] = _whole(x)
        return known[id(x)]

    stats = [[s.dump(), name(x)] for s, x in bank.stats.items()]
    encodings = _told(bank, name)
    index = {
        "version": VERSION,
        "graph": bank.graph.digest,
        "weights": weights_digest(bank.skeleton),
        "stats": stats,
        "encodings": encodings,
    }
    write_bytes(folder / TENSORS, dumped(tensors))
    write_bytes(folder / INDEX, json_bytes(index))


def _whole(x: Tensor) -> Tensor:
    """The tensor as a file holds it: on its own, in row-major order."""
    return x.detach().cpu().contiguous().clone()


def _told(bank: Bank, name: Callable[[Tensor], str]) -> list[dict[str, Any]]:
    """Every encoding as data, those that others are built on first."""
    known = {id(m): {"original": n} for n, m in bank.skeleton.named_modules()}
    found: list[dict[str, Any]] = []
    for key, module in sorted(bank.encoded().items(), key=lambda x: len(x[0][1])):
        try:
            tree = told(module, name=name, known=known)
        except Untold:
            continue
        known.setdefault(id(module), {"encoding": len(found)})  # type: ignore[dict-item]
        found.append({"key": _key_data(key), "module": tree})
    return found


def _key_data(key: Key) -> list[Any]:
    module, meetings = key
    return [module, [[o.dump(), site.name, site.touches.index(t)] for o, t, site in meetings]]


def load(folder: Path, model: nn.Module, graph: Graph) -> Bank:
    """The bank of a folder over the same network; its tensors are mapped, read once needed.

    Raises ArtefactError for a missing or damaged file and PlanError for another network.
    """
    index = read_json(folder / INDEX)
    if index.get("version") != VERSION:
        raise ArtefactError(f"{folder / INDEX} has version {index.get('version')}, not {VERSION}")
    if (index["graph"], index["weights"]) != (graph.digest, weights_digest(model)):
        raise PlanError(f"{folder} holds the bank of another network or of other weights")
    tensors = _mapped(folder / TENSORS)
    stats = {part.load(data): tensors[name] for data, name in index["stats"]}
    bank = Bank(model, graph=graph, stats=stats)
    originals = dict(bank.skeleton.named_modules())
    made: list[nn.Module] = []
    keys: list[Key] = []
    for x in index["encodings"]:
        made.append(built(x["module"], tensors=tensors, originals=originals, encodings=made))
        keys.append(_key(x["key"], graph))
    bank.keep(dict(zip(keys, made, strict=True)))
    return bank


def _key(data: list[Any], graph: Graph) -> Key:
    module, meetings = data
    found = []
    for option, name, touch in meetings:
        site = graph.site(name)
        found.append((_option(option), site.touches[touch], site))
    return module, tuple(found)


def _option(data: Any) -> Option:
    found = part.load(data)
    if not isinstance(found, Option):
        raise PlanError(f"{data.get('is')!r} is no option")
    return found


def _mapped(path: Path) -> Mapping[str, Tensor]:
    """Name -> tensor whose values stay in the file until they are read."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ArtefactError(f"{path} is missing")
    try:
        with safe_open(path, framework="pt") as f:
            return {name: f.get_tensor(name) for name in f.keys()}
    except SafetensorError as e:
        raise ArtefactError(f"{path} is not a whole safetensors file: {e}") from e
