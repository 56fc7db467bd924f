"""Runtimes: the targets that exist; the command line finds them by name."""

from __future__ import annotations

from allot.errors import InputError
from allot.runtimes.accelerator_file import SUFFIXES, load
from allot.runtimes.ideal import Ideal
from allot.runtimes.onnxruntime import OnnxRuntime
from allot.runtimes.openvino import OpenVino, OpenVinoBf16
from allot.runtimes.torch_cpu import TorchCpu
from allot.runtimes.torch_cuda import TorchCuda
from allot.target import Target

# in which a file is checked beside the runtime that it is made for
USUAL: tuple[Target, ...] = (OpenVino(), OpenVinoBf16(), OnnxRuntime(), Ideal())
ALL: tuple[Target, ...] = (*USUAL, TorchCpu(), TorchCuda())


def by_name(name: str) -> Target:
    """The target of a name, or that which a YAML file describes; raises InputError that lists all
    names, or says what is wrong with the file."""
    if name.endswith(SUFFIXES):
        return load(name)
    for target in ALL:
        if target.name == name:
            return target
    names = ", ".join(t.name for t in ALL)
    raise InputError(f"no target {name!r}; there are {names}, and files that end in .yaml")
