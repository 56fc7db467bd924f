"""Artefact: one folder with packed weights, graph, plan and proof; checked whole when opened."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from allot import disk, part
from allot import plan as plans
from allot.errors import ArtefactError
from allot.files import json_bytes, read_json, write_files
from allot.packed import Packed, pack, unpack
from allot.plan import Plan
from allot.ports import check_inputs as check_inputs
from allot.ports import describe as describe
from allot.site import Graph
from allot.target import Arrays, Session, Target, Workload

VERSION = 1
MANIFEST = "artefact.json"
WEIGHTS, GRAPH, LAYOUT = "weights.safetensors", "graph.onnx", "layout.json"
PLAN, SUMMARY = "plan.json", "summary.json"
NEEDED = (WEIGHTS, GRAPH, LAYOUT, PLAN, SUMMARY)


def write_weights(
    folder: Path, onnx: bytes, deployed: nn.Module, graph: Graph, *, coded: bool = False
) -> int:
    """Packs the exported network into three files of the folder; the bytes of the packed weights.

    They belong to no artefact until a manifest names them.  coded: with entropy-coded weights.
    """
    size, files = _packed(onnx, deployed, graph, coded=coded)
    (folder / MANIFEST).unlink(missing_ok=True)
    write_files(folder, files)
    return size


def _packed(
    onnx: bytes, deployed: nn.Module, graph: Graph, *, coded: bool
) -> tuple[int, dict[str, bytes]]:
    """Bytes of the packed weights, and the three files."""
    found = pack(onnx, deployed, graph)
    size = len(found.weights)
    found = disk.coded(found) if coded else found
    return size, {WEIGHTS: found.weights, GRAPH: found.graph, LAYOUT: found.layout}


def read_weights(folder: Path) -> bytes:
    """The complete ONNX file of a folder; raises ArtefactError where it is damaged."""
    data = [_read(folder, name) for name in (WEIGHTS, GRAPH, LAYOUT)]
    return unpack(Packed(weights=data[0], graph=data[1], layout=data[2]))


def write_artefact(
    folder: Path,
    *,
    onnx: bytes,
    deployed: nn.Module,
    graph: Graph,
    documents: Mapping[str, Any],
    coded: bool = False,
) -> int:
    """Writes a whole artefact; the bytes of its packed weights, before they are entropy coded.

    documents: file name -> text or bytes, or data that becomes JSON; plan.json and summary.json
    must be among them.  coded: with entropy-coded weights.  The manifest goes first and comes last:
    a folder that a kill left between two artefacts is said to be unfinished, never taken for
    either; one that there was no space for is as it was before.
    """
    size, files = _packed(onnx, deployed, graph, coded=coded)
    _write(folder, files | {n: _bytes(c) for n, c in documents.items()}, kept=())
    return size


def add_documents(folder: Path, documents: Mapping[str, Any]) -> None:
    """Writes more files into a checked artefact, or new versions of its JSON and HTML files."""
    names = check(folder)
    _write(folder, {n: _bytes(c) for n, c in documents.items()}, kept=names)


def _bytes(content: Any) -> bytes:
    if isinstance(content, bytes):
        return content
    return content.encode() if isinstance(content, str) else json_bytes(content)


def _write(folder: Path, files: Mapping[str, bytes], *, kept: tuple[str, ...]) -> None:
    """Files and the manifest over them and those kept: size and hash of each, and the version."""
    found = {n: _digest(_read(folder, n)) for n in kept if n not in files}
    found |= {n: _digest(data) for n, data in files.items()}
    lacking = [n for n in NEEDED if n not in found]
    if lacking:
        raise ArtefactError(f"an artefact needs {', '.join(lacking)} too")
    manifest = {"format": "allot artefact", "version": VERSION, "files": found}
    write_files(folder, {**files, MANIFEST: json_bytes(manifest)}, seal=MANIFEST)


def _digest(data: bytes) -> dict[str, Any]:
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _read(folder: Path, name: str) -> bytes:
    path = folder / name
    if Path(name).name != name or path.resolve().parent != folder.resolve():
        raise ArtefactError(f"{name} leads out of {folder}; files of an artefact lie in its folder")
    if not path.is_file():
        raise ArtefactError(f"{folder} lacks {name}")
    return path.read_bytes()


def check(folder: Path) -> tuple[str, ...]:
    """Names of an artefact's files, each whole and unchanged; raises ArtefactError otherwise."""
    if not folder.is_dir():
        raise ArtefactError(f"{folder} is not a folder")
    if not (folder / MANIFEST).exists():
        raise ArtefactError(f"{folder} holds no finished artefact: it has no {MANIFEST}")
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("format") != "allot artefact":
        raise ArtefactError(f"{folder / MANIFEST} was not written by allot")
    if manifest.get("version") != VERSION:
        raise ArtefactError(
            f"{folder} has artefact version {manifest.get('version')}; this allot reads {VERSION}"
        )
    files = manifest.get("files")
    if not isinstance(files, dict) or not set(NEEDED) <= set(files):
        raise ArtefactError(f"{folder / MANIFEST} does not name {', '.join(NEEDED)}")
    for name, want in files.items():
        _check_file(name, _digest(_read(folder, name)), want)
    return tuple(files)


def _check_file(name: str, got: Mapping[str, Any], want: Any) -> None:
    size = want.get("bytes") if isinstance(want, dict) else None
    if got["bytes"] != size:
        raise ArtefactError(f"{name} has {got['bytes']} bytes where {size} were written")
    if got != want:
        raise ArtefactError(f"{name} was changed after it was written: its hash differs")


@dataclass(frozen=True, kw_only=True)
class Artefact:
    """An opened artefact. summary: what summary.json says."""

    folder: Path
    plan: Plan
    summary: Mapping[str, Any]

    def onnx(self) -> bytes:
        """The complete ONNX file, coded weights expanded to int8."""
        return read_weights(self.folder)

    def session(self, target: Target | None = None, workload: Workload | None = None) -> Session:
        """The network loaded, by default in the target and workload it was made for."""
        target = target or self.target()
        return target.open(self.onnx(), workload=workload or self._workload())

    def run(self, inputs: Arrays) -> dict[str, NDArray[np.generic]]:
        """Output name -> array; raises DataError for inputs that do not fit."""
        check_inputs(inputs, self.summary["inputs"])
        return self._session.run(inputs)

    @cached_property
    def _session(self) -> Session:
        return self.session()

    def target(self) -> Target:
        found = part.load(self.summary.get("target_part"))
        if not isinstance(found, Target):
            raise ArtefactError(f"{SUMMARY} names no target; give one to session()")
        return found

    def _workload(self) -> Workload:
        given = self.summary.get("workload", {})
        return Workload(batch=int(given.get("batch", 32)), threads=int(given.get("threads", 1)))


def open_artefact(folder: str | Path) -> Artefact:
    """The artefact of a folder; raises ArtefactError where a file is missing or changed."""
    folder = Path(folder)
    check(folder)
    return Artefact(
        folder=folder,
        plan=plans.load(read_json(folder / PLAN)),
        summary=read_json(folder / SUMMARY),
    )
