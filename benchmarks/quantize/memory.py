"""ResNet-20 at W4A8: the most bytes that live at once in all passes, and their bound.

The passes are the calibration, the rounding in order with matched statistics, and codes learned.

Counted are the storages of all tensors that the operations of PyTorch make, from when each is made
until the last tensor on it is gone: the bank, its statistics and the stand-ins among them, but not
the user's network and data, which were there before.  Buffers inside an operation are not seen; the
process's resident memory stands beside for what is not.  The bound is twice the network and what
enters and leaves the largest unit for all calibration samples.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from allot.options.precision import Activation, Weight
from allot.provenance import tensors
from allot.reconstruct.learning import Planned
from allot.reconstruct.setting import Reconstruction
from allot.reconstruct.streams import calls
from allot.reconstruct.units import Named, Unit
from allot.recover import Recovery
from allot.scheme import Quantized, Scheme, quantized
from allot.task import Task
from benchmarks.figures import Figure, at_most
from benchmarks.tasks import RESNET20, resnet20

SAMPLES = 1024
# of a unit: every step makes and frees the same tensors, so that few tell the peak of many
STEPS = 8
SCHEME = Scheme(
    weight=Weight(bits=4),
    activation=Activation(bits=8),
    recovery=Recovery(samples=SAMPLES, in_order=True),
)
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def run(quick: bool, seed: int) -> dict[str, Figure]:
    """The row; a quick run learns the largest unit alone."""
    task = resnet20(RESNET20[0], seed=seed)
    live = Live(given(task))
    with live:
        made = quantized(task, SCHEME, seed=seed)
        before, live.peak = live.peak, live.now
        there = live.now
        setting = Reconstruction(steps=STEPS, samples=SAMPLES)
        borders = bordering(task, setting, made)
        largest = max(borders, key=lambda unit: borders[unit])
        setting = replace(setting, unit=Named(units=(largest,))) if quick else setting
        planned = Planned(
            bank=made.bank, task=task, options=made.options, standins=made.standins,
            original=None, seed=seed, progress=lambda share: None,
        )  # fmt: skip
        with resident() as grown:
            setting.learned(planned)
    network = sum(x.numel() * x.element_size() for x in task.model.state_dict().values())
    bound = 2 * network + SAMPLES * borders[largest]
    return {
        f"{RESNET20[0]} W4A8: peak memory of all passes over its bound": at_most(
            max(before, live.peak) / bound, 1.0, n=SAMPLES, seeds=[seed],
            peak_of_reconstruction_bytes=live.peak, bound_bytes=bound, network_bytes=network,
            unit_bytes_per_sample=borders[largest], there_before_bytes=there,
            peak_of_rounding_in_order_bytes=before, resident_growth_bytes=grown[0],
        )
    }  # fmt: skip


def given(task: Task) -> Iterator[Tensor]:
    """Tensors of the user."""
    yield from task.model.state_dict().values()
    for data in (task.calibrate, task.search, task.certify):
        yield from tensors([data.inputs, data.labels])


def bordering(task: Task, setting: Reconstruction, made: Quantized) -> dict[Unit, int]:
    """Unit -> bytes that enter and leave it for one sample."""
    found = {}
    for unit in setting.unit.of(made.graph):
        (call,) = calls(task, made.bank.skeleton, unit, [task.example(1)])
        border = tensors([call.args, call.named, call.output])
        found[unit] = sum(x.numel() * x.element_size() for x in border)
    return found


class Live(TorchDispatchMode):
    """Bytes of storages made while it is on.  now, peak: alive at this time, and the most so far.

    given: tensors that were there before; what shares their storage is not counted.
    """

    def __init__(self, given: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: dict[int, weakref.ref[Any]] = {}
        for x in given:
            self._seen(x.untyped_storage(), 0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for x in tree_leaves(found):
            if isinstance(x, Tensor):
                self._seen(x.untyped_storage(), x.untyped_storage().nbytes())
        self.peak = max(self.peak, self.now)
        return found

    def _seen(self, storage: torch.UntypedStorage, size: int) -> None:
        key = storage._cdata
        if key in self._known:
            return
        self.now += size

        def gone(_: object) -> None:
            del self._known[key]
            self.now -= size

        self._known[key] = weakref.ref(storage, gone)


@contextmanager
def resident() -> Iterator[list[int | None]]:
    """By how many bytes the process's resident memory grew at most; None where Linux does not say.

    The one entry is filled in at the end.
    """
    found: list[int | None] = [None]
    if not _CLEAR.exists():
        yield found
        return
    _CLEAR.write_text("5")  # the peak starts again from here
    start = _kilobytes("VmRSS")
    yield found
    found[0] = 1024 * (_kilobytes("VmHWM") - start)


def _kilobytes(name: str) -> int:
    lines = dict(x.split(":", 1) for x in _STATUS.read_text().splitlines() if ":" in x)
    return int(lines[name].split()[0])
