"""Held: what enters and leaves a unit, in a temporary file instead of memory, read piece by piece.

Both are as large as the calibration data times the unit's channels, and a step looks at one batch.
"""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Generic, TypeVar, overload

import torch
from torch import Tensor

from allot.errors import JobError
from allot.task import Inputs, take

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, eq=False)
class _Place:
    """Where a tensor lies in the file, and what it was."""

    at: int
    size: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    device: torch.device


class Held(Sequence[T], Generic[T]):
    """Tuples, lists, dicts and dataclasses of tensors, each read anew when it is asked for.

    Tensors come back with their values and strides, to the bit, on storages of their own.  The file
    has no name and goes with the object; it lies where `tempfile` puts it (TMPDIR).  Raises
    JobError where there is no room for it.
    """

    def __init__(self, values: Iterable[T] = ()) -> None:
        self._file = tempfile.TemporaryFile()
        weakref.finalize(self, self._file.close)
        self._end = 0
        self._values: list[Any] = []
        for value in values:
            self.append(value)

    def append(self, value: T) -> None:
        """One more value, written at once."""
        self._values.append(changed(value, Tensor, self._write))

    def __len__(self) -> int:
        return len(self._values)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        found: T = changed(self._values[index], _Place, self._read)
        return found

    def _write(self, x: Tensor) -> _Place:
        # a copy lies densely from the start of its storage, whatever its strides
        dense = x.detach().cpu().clone()
        flat = torch.empty(0, dtype=torch.uint8).set_(dense.untyped_storage())
        size = dense.numel() * dense.element_size()
        try:
            self._file.seek(self._end)
            self._file.write(flat[:size].numpy().data)
            self._file.flush()
        except OSError as e:
            raise JobError(
                f"{tempfile.gettempdir()} cannot hold the {self._end + size} bytes that enter or "
                f"leave a unit: {e}; give more room there, another TMPDIR or fewer samples"
            ) from e
        place = _Place(
            at=self._end, size=size, dtype=x.dtype, shape=tuple(x.shape),
            strides=dense.stride(), device=x.device,
        )  # fmt: skip
        self._end += size
        return place

    def _read(self, place: _Place) -> Tensor:
        flat = torch.empty(place.size, dtype=torch.uint8)
        self._file.seek(place.at)
        self._file.readinto(flat.numpy().data)
        x = flat.view(place.dtype).as_strided(place.shape, place.strides)
        return x.to(place.device)


class Batches(Sequence[Inputs]):
    """Some samples of inputs in batches, cut out when they are asked for."""

    def __init__(self, inputs: Inputs, indices: Sequence[Tensor]) -> None:
        self._inputs, self._indices = inputs, indices

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> Inputs: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Inputs]: ...
    def __getitem__(self, index: int | slice) -> Inputs | Sequence[Inputs]:
        if isinstance(index, slice):
            return Batches(self._inputs, self._indices[index])
        return take(self._inputs, self._indices[index])


def changed(value: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """A nested value with everything of a kind in it changed."""
    if isinstance(value, kind):
        return change(value)
    if type(value) in (tuple, list):
        return type(value)(changed(v, kind, change) for v in value)
    if type(value) is dict:
        return {k: changed(v, kind, change) for k, v in value.items()}
    if is_dataclass(value) and not isinstance(value, type | _Place):
        found = {f.name: getattr(value, f.name) for f in fields(value)}
        return replace(value, **{k: changed(v, kind, change) for k, v in found.items()})
    return value
