"""Probe: a network run with every module watched: which one is random, which one gives NaN."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from allot.errors import DataError, ModelError
from allot.provenance import tensors
from allot.task import Data

Forward = Callable[[nn.Module, Any], Any]
# outputs of every module by its name, in order of their ends; the forward's own as "output"
Outputs = Mapping[str, Sequence[Tensor]]


def outputs(model: nn.Module, forward: Forward, example: Any) -> Outputs:
    """What every module puts out for a batch; the inner ones end, and stand, first.

    Raises DataError for a batch that does not fit, ModelError for a forward of no tensor.
    """
    found: dict[str, list[Tensor]] = {}

    def keep(name: str, output: Any) -> None:
        found.setdefault(name, []).extend(t.clone() for t in tensors(output))

    try:
        with _watched(model, keep):
            output = forward(model, example)
    except (RuntimeError, ValueError, IndexError, TypeError, KeyError) as e:
        shapes = ", ".join(str(list(t.shape)) for t in tensors(example))
        raise DataError(f"the network does not take the example of shape {shapes}: {e}") from e
    if not isinstance(output, Tensor):
        raise ModelError(f"the forward must return one tensor [n, ...], got {type(output)}")
    return found | {"output": [output]}


@contextmanager
def _watched(model: nn.Module, keep: Callable[[str, Any], None]) -> Iterator[None]:
    """keep(name, output) is called when a module ends; every hook is removed at the end."""
    handles = []

    def watch(name: str) -> Callable[..., None]:
        def after(module: nn.Module, args: Any, output: Any) -> None:
            keep(name, output)

        return after

    try:
        for name, module in model.named_modules():
            handles.append(module.register_forward_hook(watch(name)))
        yield
    finally:
        for h in handles:
            h.remove()


def check_equal(first: Outputs, second: Outputs) -> None:
    """Raises ModelError for two passes on one batch that differ, with the first module at fault."""
    for name, found in first.items():
        again = second.get(name, ())
        if len(found) != len(again) or not all(map(_equal, found, again)):
            raise ModelError(
                f"{_called(name)} gives different outputs for the same input in eval: nothing "
                "can be measured on a random network; make it deterministic"
            )


def _equal(a: Tensor, b: Tensor) -> bool:
    """Bit for bit, a NaN like a NaN: what is not finite is told apart elsewhere."""
    if a.shape != b.shape:
        return False
    same = a == b
    if a.is_floating_point() or a.is_complex():
        same = same | (a.isnan() & b.isnan())
    return bool(same.all())


def check_finite(model: nn.Module, forward: Forward, data: Data, *, of: str, batch: int) -> None:
    """Raises ModelError for a NaN in what a module puts out, with the first module that has one.

    of: what the data are called.  Infinite values are refused in the network's output alone:
    inside, they may mask.
    """

    def keep(name: str, output: Any) -> None:
        bad = sum(_bad(t) for t in tensors(output))
        if bad:
            raise ModelError(
                f"{_called(name)} gives NaN in {bad} of its values on the {of} set: nothing can "
                "be measured after it; check its weights, and the range of its inputs"
            )

    with torch.no_grad(), _watched(model, keep):
        for inputs in data.batches(batch):
            output = forward(model, inputs)
            if output.is_floating_point() and not bool(output.isfinite().all()):
                raise ModelError(
                    f"the network's output on the {of} set holds values that are NaN or infinite"
                )


def _bad(x: Tensor) -> int:
    return int(x.isnan().sum()) if x.is_floating_point() else 0


def first_nan(found: Outputs) -> str:
    """The first module of those that end whose output holds NaN, as people call it; "" if none."""
    for name, group in found.items():
        if any(_bad(t) for t in group):
            return _called(name)
    return ""


def blamed(model: nn.Module, forward: Forward, inputs: Any, *, of: str) -> ModelError:
    """The error to raise for a network whose outputs are not finite, naming the first module.

    model: as it was run, with stand-ins in place.  of: what it is, like "a plan".
    """
    with torch.no_grad():
        where = first_nan(outputs(model, forward, inputs))
    if not where:
        return ModelError(f"{of} makes the network's output infinite; exclude what it changes")
    return ModelError(f"in {of}, {where} gives NaN; exclude the site it belongs to, or pin another")


def _called(name: str) -> str:
    if name == "output":
        return "the forward of the task"
    return f"module {name!r}" if name else "the network itself"
