"""NNCF's static 8-bit quantizer, in an environment of its own: float ONNX files in, OpenVINO out.

    PEER/bin/python benchmarks/peers/speed_nncf.py FOLDER NAME ...

with speed_nncf.requirements.txt. Reads NAME.onnx, NAME.npz (calibration inputs by name, their first
dim samples) and NAME.json ("transformer": bool, "samples": int) in FOLDER, writes NAME.nncf.xml.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import nncf
import numpy as np
import openvino


def quantize(folder: Path, name: str) -> None:
    """As its documentation tells users to: the preset for transformers where it is one."""
    facts = json.loads((folder / f"{name}.json").read_text())
    with np.load(folder / f"{name}.npz") as found:
        inputs = dict(found)
    samples = [{k: v[i : i + 1] for k, v in inputs.items()} for i in range(facts["samples"])]
    model = openvino.Core().read_model(folder / f"{name}.onnx")
    kind = nncf.ModelType.TRANSFORMER if facts["transformer"] else None
    made = nncf.quantize(model, nncf.Dataset(samples), model_type=kind, subset_size=len(samples))
    openvino.save_model(made, folder / f"{name}.nncf.xml", compress_to_fp16=False)


if __name__ == "__main__":
    for given in sys.argv[2:]:
        quantize(Path(sys.argv[1]), given)
