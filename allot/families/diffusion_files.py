"""Files: a folder of diffusers that carries a plan and one graph for every variant of a step.

config.json, scheduler/ ...      as in the original's folder, without the network's weights
allot_plan.json                  grid, steps, guidance, which graph each step runs; hashes
allot_weights.safetensors        packed weights, each once, whatever graphs it is part of
evaluation_0.onnx ...            graphs without weights, and their layouts
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors
from torch import nn

from allot import part
from allot.errors import ArtefactError, InputError
from allot.families.diffusion_export import Exported
from allot.families.diffusion_runner import Opened, by_span, runner, ways_of, with_ways
from allot.families.diffusion_stock import stock_cache
from allot.families.diffusion_variants import variants
from allot.files import json_bytes, read_json, write_files
from allot.packed import REST, Packed, pack, safetensors, unpack
from allot.sampling.grid import Grid
from allot.sampling.sampler import Guidance, Sampler, Way
from allot.site import Graph
from allot.target import Target, Workload

FORMAT, VERSION = "allot sampler", 1
PLAN, WEIGHTS, STOCK = "allot_plan.json", "allot_weights.safetensors", "diffusers_cache.json"
_WEIGHT_FILES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".msgpack", ".h5", ".onnx")
_COMPONENTS = ("unet", "transformer")

Bytes = NDArray[np.uint8]


def write(
    folder: Path,
    sampler: Sampler,
    files: Sequence[Exported],
    graph: Graph,
    *,
    source: Path | None = None,
) -> int:
    """Writes a planned sampler and its exported variants; the bytes of the packed weights.

    graph: of the sampler.  source: the original's folder, whose settings and other components are
    copied; the network's own weights are not, the packed ones carry them.  Raises InputError for
    guidance whose other condition is no number.
    """
    held: dict[str, Bytes] = {}
    documents: dict[str, bytes] = {}
    entries = []
    for i, f in enumerate(files):
        packed = pack(f.onnx, f.module, graph)
        entry = {**_ports(f), "graph": f"evaluation_{i}.onnx", "weights": _shared(packed, held)}
        entry["layout"] = f"evaluation_{i}.json"
        documents |= {entry["graph"]: packed.graph, entry["layout"]: packed.layout}
        entries.append(entry)
    documents[WEIGHTS] = save_tensors(held)
    stock = stock_cache(sampler)
    if stock is not None:
        documents[STOCK] = json_bytes(stock)
    plan = {**_plan(sampler, files), "variants": entries}
    plan["files"] = {n: hashlib.sha256(d).hexdigest() for n, d in documents.items()}
    if source is not None:
        _copy(source, folder)
    write_files(folder, {**documents, PLAN: json_bytes(plan)}, seal=PLAN)
    return sum(x.size for x in held.values())


def _ports(f: Exported) -> dict[str, Any]:
    m, v = f.module, f.variant
    return {
        "given": by_span(v.given, m.counts, m.given()),
        "told": by_span(v.told, m.counts, m.told()),
    }


def _shared(packed: Packed, held: dict[str, Bytes]) -> list[list[str]]:
    """Name in the layout -> name in the common file, in order; what is there already is not added.

    What belongs to no layer is cut where its tensors end, so that graphs share these too.
    """
    found = []
    tensors = load_tensors(packed.weights)
    raw = [e["bytes"] for e in json.loads(packed.layout)["tensors"] if e["name"] == REST]
    for name, data in tensors.items():
        ends: Any = np.cumsum(raw)[:-1] if name == REST else []
        for piece in np.split(data, ends):
            key = f"{name}@{hashlib.sha256(piece.tobytes()).hexdigest()[:16]}"
            held.setdefault(key, piece)
            found.append([name, key])
    return found


def _plan(sampler: Sampler, files: Sequence[Exported]) -> dict[str, Any]:
    which = {f.variant: i for i, f in enumerate(files)}
    of_step = variants(sampler)
    ways = ways_of(sampler)
    return {
        "format": FORMAT,
        "version": VERSION,
        "grid": sampler.grid.dump(),
        "guidance": _guidance(sampler.guidance),
        "steps": [
            {
                "step": i,
                "variant": which[of_step[i]],
                "bits": w.bits,
                "gain_x": w.gain_x,
                "gain_out": w.gain_out,
                "reuse": [
                    {"span": s.dump(), "predictor": p.dump()}  # type: ignore[attr-defined]
                    for s, p in w.reuse.items()
                ],
            }
            for i, w in ways.items()
        ],
    }


def _guidance(guidance: Guidance | None) -> dict[str, Any] | None:
    if guidance is None:
        return None
    strange = [k for k, v in guidance.without.items() if not isinstance(v, int | float)]
    if strange:
        raise InputError(
            f"guidance without {', '.join(strange)} needs a tensor, which the plan's file does not "
            "hold; leave it off the sampler and give it to open_sampler"
        )
    return {"scale": guidance.scale, "without": dict(guidance.without)}


def _copy(source: Path, folder: Path) -> None:
    """Settings and other components of a folder of diffusers, all but the network's weights."""
    networks = {source, *(source / c for c in _COMPONENTS)}

    def left(where: str, names: list[str]) -> list[str]:
        own = Path(where) in networks
        return [n for n in names if own and n.endswith(_WEIGHT_FILES)]

    shutil.copytree(source, folder, ignore=left, dirs_exist_ok=True)


def open_sampler(
    folder: str | Path,
    target: Target,
    *,
    workload: Workload,
    guidance: Guidance | None = None,
) -> Sampler:
    """The sampler of a folder, its network run by a target; used like the one it was made from.

    guidance: instead of the folder's.  Raises ArtefactError for a damaged or foreign folder,
    PlanError for parts that are not allot's, MissingError without the runtime.
    """
    folder = Path(folder)
    plan = read_plan(folder)
    held = load_tensors((folder / WEIGHTS).read_bytes())
    grid, ways = read_grid(plan), {s["step"]: _way(s) for s in plan["steps"]}
    of_step = variants(with_ways(Sampler(denoiser=nn.Identity(), grid=grid), ways))
    of_file = {s["variant"]: of_step[s["step"]] for s in plan["steps"]}
    opened = [
        Opened(
            variant=of_file[i],
            session=target.open(_onnx(folder, entry, held), workload=workload),
            given={k: tuple(v) for k, v in entry["given"].items()},
            told={k: tuple(v) for k, v in entry["told"].items()},
        )
        for i, entry in enumerate(plan["variants"])
    ]
    own = plan["guidance"]
    kept = guidance or (None if own is None else Guidance(**own))
    return runner(grid, ways, opened, guidance=kept)


def read_plan(folder: Path) -> Mapping[str, Any]:
    """allot_plan.json of a folder whose files are whole and unchanged; raises ArtefactError."""
    plan = read_json(folder / PLAN)
    if not isinstance(plan, dict) or plan.get("format") != FORMAT:
        raise ArtefactError(f"{folder / PLAN} was not written by allot")
    if plan.get("version") != VERSION:
        raise ArtefactError(f"{folder / PLAN} has version {plan.get('version')}, not {VERSION}")
    for name, digest in plan["files"].items():
        if Path(name).name != name or not (folder / name).is_file():
            raise ArtefactError(f"{folder} lacks {name}")
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
            raise ArtefactError(f"{folder / name} was changed after it was written")
    return plan


def read_grid(plan: Mapping[str, Any]) -> Grid:
    """The grid that a plan's file was made for."""
    grid = part.load(plan["grid"])
    if not isinstance(grid, Grid):
        raise ArtefactError(f"{PLAN} names no grid")
    return grid


def _way(step: Mapping[str, Any]) -> Way:
    reuse = {part.load(r["span"]): part.load(r["predictor"]) for r in step["reuse"]}
    return Way(reuse=reuse, bits=step["bits"], gain_x=step["gain_x"], gain_out=step["gain_out"])


def _onnx(folder: Path, entry: Mapping[str, Any], held: Mapping[str, Bytes]) -> bytes:
    """A complete ONNX file from a graph and the weights that it shares with others."""
    pieces: dict[str, list[Bytes]] = {}
    for name, key in entry["weights"]:
        pieces.setdefault(name, []).append(held[key])
    weights = safetensors({n: np.concatenate(p) for n, p in pieces.items()}, 0)
    graph, layout = ((folder / entry[k]).read_bytes() for k in ("graph", "layout"))
    return unpack(Packed(weights=weights, graph=graph, layout=layout))
