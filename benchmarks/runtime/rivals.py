"""Rivals: the same network through NNCF's and ONNX Runtime's own static quantizers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from allot.clock import arrays
from allot.errors import JobError, MissingError
from allot.target import Arrays
from allot.task import Task

SCRIPT = Path(__file__).parents[1] / "peers" / "speed_nncf.py"
SAMPLES = 16


def nncf_python() -> str:
    """The interpreter that has NNCF: ALLOT_NNCF (it, or the folder of its environment), or this
    one; raises MissingError for neither."""
    given = Path(os.environ.get("ALLOT_NNCF", sys.executable))
    python = given / "bin" / "python" if given.is_dir() else given
    has = "import importlib.util as u; exit(u.find_spec('nncf') is None)"
    if not python.is_file() or subprocess.run([str(python), "-c", has]).returncode:
        raise MissingError(
            f"{python} has no NNCF: python -m venv PEER && PEER/bin/pip install -r "
            "benchmarks/peers/speed_nncf.requirements.txt, then set ALLOT_NNCF=PEER"
        )
    return str(python)


def plain(task: Task, path: Path) -> None:
    """The float network as torch's own exporter writes it, optimized, its batch free."""
    example = task.example()
    single = isinstance(example, torch.Tensor)
    named: dict[str, Any] = {} if isinstance(example, torch.Tensor) else dict(example)
    free = torch.export.Dim.DYNAMIC
    program = torch.onnx.export(
        task.model, (example,) if single else (), kwargs=named, dynamo=True, opset_version=18,
        verbose=False, external_data=False, output_names=["output"],
        input_names=["input"] if single else list(named),
        dynamic_shapes=({0: free},) if single else {k: {0: free} for k in named},
    )  # fmt: skip
    assert program is not None
    program.save(path)


def nncf(task: Task, folder: Path, *, transformer: bool) -> Path:
    """An OpenVINO file of `nncf.quantize` with its defaults, made from the plain export.

    Raises MissingError without NNCF, JobError where it fails on the network.
    """
    python, name = nncf_python(), task.name
    plain(task, folder / f"{name}.onnx")
    np.savez(folder / f"{name}.npz", **arrays(task.calibrate.inputs))
    facts = {"transformer": transformer, "samples": SAMPLES}
    (folder / f"{name}.json").write_text(json.dumps(facts))
    ran = subprocess.run([python, str(SCRIPT), str(folder), name], capture_output=True, text=True)
    if ran.returncode:
        last = (ran.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise JobError(f"NNCF fails on {name}: {last}")
    return folder / f"{name}.nncf.xml"


def onnxruntime(task: Task, original: bytes, folder: Path) -> bytes:
    """An ONNX file of `quantize_static`, as its documentation advises for x86: QDQ, unsigned
    activations, a scale per channel.  original: our float file, which it takes of every network."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    given, ready, made = (folder / f"{task.name}.{k}.onnx" for k in ("given", "ready", "made"))
    given.write_bytes(original)
    quant_pre_process(str(given), str(ready), skip_symbolic_shape=True)
    quantize_static(
        str(ready), str(made), _Reader(arrays(task.calibrate.inputs)), per_channel=True,
        quant_format=QuantFormat.QDQ, activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )  # fmt: skip
    return made.read_bytes()


class _Reader:
    """Calibration samples one by one, once."""

    def __init__(self, inputs: Arrays) -> None:
        self._left: Iterator[dict[str, Any]] = (
            {k: v[i : i + 1] for k, v in inputs.items()} for i in range(SAMPLES)
        )

    def get_next(self) -> dict[str, Any] | None:
        return next(self._left, None)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self._left


def unusable(onnx: bytes) -> str:
    """Why ONNX Runtime does not open a file that its own quantizer wrote, "" where it does."""
    import onnxruntime
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidGraph

    try:
        onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    except (Fail, InvalidGraph) as e:
        return f"ONNX Runtime does not open what its quantizer wrote: {str(e).splitlines()[0]}"
    return ""
