"""Using: verbs on a compressed network that need nothing but its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from allot.artefact import MANIFEST, open_artefact
from allot.cli import arguments as a
from allot.cli import arrays, stream
from allot.cli.tables import grid
from allot.document import add_report
from allot.errors import ArtefactError, InputError, JobError
from allot.files import write_bytes, write_text
from allot.integer_only.lower import integer_only
from allot.integer_only.onnx import to_onnx
from allot.onnx_graph import load_proto
from allot.onnx_lengths import lengths
from allot.report import compare, read, render
from allot.report import text as words
from allot.runtimes.tensorrt_form import Rule, tensorrt_form

_SHOWN, _BEST = 5, 3


def export(
    folder: a.Folder,
    file: Annotated[
        Path, typer.Argument(metavar="OUT.onnx", help="The file to write.", show_default=False)
    ],
    integers: Annotated[
        bool,
        typer.Option(
            "--integer-only",
            help="Nothing but whole numbers: inputs are codes, every rescale is a product and a "
            "shift, outputs are whole numbers of one scale.",
        ),
    ] = False,
    tensorrt: Annotated[
        bool,
        typer.Option(
            "--tensorrt",
            help="Also say which rules of TensorRT's explicit quantization the file keeps, and "
            "what breaks the others; the exit code is 1 where one is broken.",
        ),
    ] = False,
    json: a.Json = False,
) -> None:
    """Write a plain ONNX file that runs without allot.

    Weights of fewer than 8 bits may take 8 there: the packed weights of the folder are what the
    size budget is about. --integer-only needs a network in which every layer is quantized; the
    file says in its metadata what its codes stand for. --tensorrt reads the graph and runs nothing.
    """
    artefact = open_artefact(folder)
    if file.is_dir() or file.suffix != ".onnx":
        raise InputError(f"{file} should be a file that ends in .onnx")
    if integers and tensorrt:
        raise InputError("TensorRT reads no graph of whole numbers alone: give one of the two")
    with stream.diverted():
        onnx, ports = artefact.onnx(), {}
        fixed, rules = lengths(load_proto(onnx)).fixed, tensorrt_form(onnx) if tensorrt else ()
        if integers:
            graph = integer_only(onnx)
            onnx, ports = to_onnx(graph), graph.ports()
    write_bytes(file, onnx)
    if json:
        data = {"rules": [asdict(r) | {"holds": r.holds} for r in rules]} if tensorrt else {}
        stream.out_json({"file": str(file), "bytes": len(onnx), **_known(fixed), **ports, **data})
    else:
        stream.out(f"{file}: {words.size(len(onnx))}")
        _say(fixed, ports, rules)
    broken = [r.says for r in rules if not r.holds]
    if broken:
        raise JobError(
            f"{file} is written, but {len(broken)} of {len(rules)} rules of TensorRT are broken: "
            f"{'; '.join(broken)}"
        )


def _known(fixed: str) -> dict[str, str]:
    return {"fixed_lengths": fixed} if fixed else {}


def _say(
    fixed: str, ports: Mapping[str, Sequence[Mapping[str, Any]]], rules: Sequence[Rule]
) -> None:
    """Why lengths are fixed, what codes of ports stand for, and which rules hold."""
    if fixed:
        stream.out(f"lengths are those of the calibration samples: {fixed}")
    for p in (p for ends in ports.values() for p in ends):
        stream.out(f"{p['name']}: {p['kind']}, value = {p['scale']:.6g} * (code - {p['zero']})")
    if rules:
        rows = [(r.says, "yes" if r.holds else "NO", _places(r.broken)) for r in rules]
        stream.out(grid(("rule of TensorRT", "holds", "broken by"), rows))
    for r in (r for r in rules if not r.holds):
        stream.out(f"{r.says}: {r.change}")


def _places(broken: Sequence[str]) -> str:
    """The first tensors or operators, and how many more."""
    more = len(broken) - _BEST
    return ", ".join(broken[:_BEST]) + (f" and {more} more" if more > 0 else "")


def run(
    folder: a.Folder,
    inputs: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT.npz",
            help="Arrays by the names of the network's inputs (of one input: input).",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="OUT.npz", help="Where to write the outputs.", show_default=False
        ),
    ] = None,
    json: a.Json = False,
) -> None:
    """Run a compressed network on inputs from a file.

    Prints the shapes of the outputs and, for a classifier, the likeliest classes of the first
    samples.
    """
    artefact = open_artefact(folder)
    given = arrays.read(inputs)
    with stream.diverted():
        found = artefact.run(given)
    if out is not None:
        arrays.write(out, found)
    classes = artefact.summary.get("classes") or []
    if json:
        stream.out_json(_as_data(found, classes, out))
        return
    for name, x in found.items():
        stream.out(f"{name}: {list(x.shape)} {x.dtype}")
    rows = _top(found, classes)
    if rows:
        stream.out(
            grid(
                ("sample", *(f"likeliest {i + 1}" for i in range(len(rows[0])))),
                [(str(i), *r) for i, r in enumerate(rows[:_SHOWN])],
            )
        )
    if out is not None:
        stream.out(f"written: {out}")


def _as_data(
    found: Mapping[str, NDArray[Any]], classes: Sequence[str], out: Path | None
) -> dict[str, Any]:
    return {
        "outputs": {k: {"shape": list(v.shape), "dtype": str(v.dtype)} for k, v in found.items()},
        "likeliest": [r[0].rsplit(" ", 2)[0] for r in _top(found, classes)],
        "file": None if out is None else str(out),
    }


def _top(found: Mapping[str, NDArray[Any]], classes: Sequence[str]) -> list[tuple[str, ...]]:
    """Per sample the likeliest classes with their share; nothing but of one output [n, classes]."""
    x = next(iter(found.values()))
    if len(found) != 1 or x.ndim != 2 or len(classes) != x.shape[1]:
        return []
    shifted = np.exp(x - x.max(1, keepdims=True))
    share = shifted / shifted.sum(1, keepdims=True)
    best = np.argsort(-share, axis=1, kind="stable")[:, :_BEST]
    return [
        tuple(f"{classes[c]} {100 * p[c]:.1f} %" for c in row)
        for row, p in zip(best, share, strict=True)
    ]


def report(
    folder: a.Folder,
    other: Annotated[
        Path | None,
        typer.Argument(metavar="[OTHER]", help="A second run to compare with.", show_default=False),
    ] = None,
    out: a.Out = None,
    json: a.Json = False,
) -> None:
    """Write the report of a run, or the comparison of two, as one HTML page."""
    for f in (folder, other):
        if f is not None and not f.is_dir():
            raise ArtefactError(f"there is no folder {f}")
    if other is not None:
        page = out or folder / f"against-{other.resolve().name}.html"
        write_text(page, compare(read(folder), read(other)))
    elif out is None and (folder / MANIFEST).exists():
        add_report(folder)
        page = folder / "report.html"
    else:
        page = out or folder / "report.html"
        write_text(page, render(read(folder)))
    if json:
        stream.out_json({"file": str(page)})
    else:
        stream.out(f"report: {page}")
