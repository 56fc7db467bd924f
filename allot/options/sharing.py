"""Sharing: which values of a tensor between layers have a range in common.

Channels lie along dim 1 of what convolutions read and along the last dim of what linears read;
that is also the axis along which a layer sums.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from allot.errors import InputError
from allot.num.formats import dividing
from allot.part import Part


class Sharing(Part):
    """Who shares a range.

    fixed, live: whether ranges may be fixed beforehand, and whether they may be taken from the
    tensor when it comes.
    """

    fixed: ClassVar[bool]
    live: ClassVar[bool]

    @property
    @abstractmethod
    def label(self) -> str:
        """What it adds to the label of a format."""

    @property
    def group(self) -> int:
        """Channels of a token that share a range at run time; 0 for all, -1 for all of a sample."""
        return -1

    def units(self, channels: int, at: str) -> tuple[int, ...]:
        """The first channel of every unit that has a range, beginning with 0.

        Raises InputError where the channels at a site do not part so.
        """
        return (0,)


@dataclass(frozen=True, kw_only=True)
class PerTensor(Sharing):
    """All of a tensor; at run time all of a sample, so that batches do not matter."""

    fixed: ClassVar[bool] = True
    live: ClassVar[bool] = True

    @property
    def label(self) -> str:
        return ""


@dataclass(frozen=True, kw_only=True)
class PerChannel(Sharing):
    """A channel."""

    fixed: ClassVar[bool] = True
    live: ClassVar[bool] = False

    @property
    def label(self) -> str:
        return "channel"

    def units(self, channels: int, at: str) -> tuple[int, ...]:
        return tuple(range(channels))


@dataclass(frozen=True, kw_only=True)
class PerPart(Sharing):
    """The channels of one of the tensors that were joined (split quantizers: Li et al. 2023,
    Q-Diffusion).  starts: the first channel of every part but the first, ascending."""

    fixed: ClassVar[bool] = True
    live: ClassVar[bool] = False
    starts: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.starts or list(self.starts) != sorted({s for s in self.starts if s > 0}):
            raise InputError(
                "parts are given by the first channel of every part but the first, ascending and "
                f"above 0, such as (16, 24); got {self.starts}"
            )

    @property
    def label(self) -> str:
        return "parts" + "+".join(map(str, self.starts))

    def units(self, channels: int, at: str) -> tuple[int, ...]:
        if self.starts[-1] >= channels:
            raise InputError(
                f"parts that start at {self.starts} do not lie within the {channels} channels at "
                f"{at}"
            )
        return (0, *self.starts)


@dataclass(frozen=True, kw_only=True)
class PerToken(Sharing):
    """A token, what lies along the last dim; of images, whose layers sum over places too, a
    sample."""

    fixed: ClassVar[bool] = False
    live: ClassVar[bool] = True

    @property
    def label(self) -> str:
        return "token"

    @property
    def group(self) -> int:
        return 0


@dataclass(frozen=True, kw_only=True)
class PerGroup(Sharing):
    """`size` neighbouring channels of a token, or of all places of an image."""

    fixed: ClassVar[bool] = False
    live: ClassVar[bool] = True
    size: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise InputError(f"a group has at least one channel, got {self.size}")

    @property
    def label(self) -> str:
        return f"g{self.size}"

    @property
    def group(self) -> int:
        return self.size

    def units(self, channels: int, at: str) -> tuple[int, ...]:
        if channels % self.size:
            raise InputError(
                f"groups of {self.size} do not divide the {channels} channels at {at}; "
                f"{' or '.join(map(str, dividing(channels, self.size)))} would"
            )
        return tuple(range(0, channels, self.size))
