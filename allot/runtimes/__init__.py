"""Runtimes: the targets that exist; the command line finds them by name."""

from __future__ import annotations

from allot.errors import InputError
from allot.runtimes.ideal import Ideal
from allot.runtimes.onnxruntime import OnnxRuntime
from allot.runtimes.openvino import OpenVino
from allot.target import Target

ALL: tuple[Target, ...] = (OpenVino(), OnnxRuntime(), Ideal())


def by_name(name: str) -> Target:
    """The target of a name; raises InputError that lists all of them."""
    for target in ALL:
        if target.name == name:
            return target
    raise InputError(f"no target {name!r}; there are {', '.join(t.name for t in ALL)}")
