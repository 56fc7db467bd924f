"""Spaces: sets of tensors with the same channels, who writes them, who reads them, what bars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from allot.errors import ModelError


@dataclass(frozen=True, kw_only=True)
class Writer:
    """What makes all channels of a space, in order.

    kind: "linear", "conv", "embedding", "norm" or "parameter" (its last dim has the channels).
    """

    name: str
    kind: str


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A linear that reads a space.

    index: the channel each of its columns reads, of `width` channels.  source: the writer that
    alone made what it reads, "" where several were added.
    """

    name: str
    index: tuple[int, ...]
    width: int
    source: str = ""

    @property
    def whole(self) -> bool:
        """Whether it reads every channel once, in order."""
        return self.index == tuple(range(self.width))


@dataclass(frozen=True, kw_only=True)
class Space:
    """Tensors that share their channels: a change made by all writers is undone by all readers.

    norms: norms that read the space; they are no readers, since only a rotation passes them.
    rotate, scale, shift: why the channels may not be mixed by an orthogonal matrix, scaled one by
    one, shifted one by one; "" where they may.
    """

    size: int
    writers: tuple[Writer, ...]
    readers: tuple[Reader, ...]
    norms: tuple[str, ...]
    rotate: str = ""
    scale: str = ""
    shift: str = ""

    @property
    def norm(self) -> str:
        """The norm that alone writes the space, or ""."""
        alone = len(self.writers) == 1 and self.writers[0].kind == "norm"
        return self.writers[0].name if alone else ""


def some(found: Sequence[Space], every: Sequence[Space], *, change: str, what: str) -> None:
    """Raises ModelError, with the first reasons, where no space was found for a change."""
    if not found:
        told = [f"{s.writers[0].name}: {why}" for s in every if (why := getattr(s, change))]
        raise ModelError(
            f"the network has no {what} ({'; '.join(told[:2])}); leave this rewrite out"
        )
