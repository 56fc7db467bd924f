"""Bits: the precision that a recipe is asked for, as people write it: W4A8, W4g128, W8A8token."""

from __future__ import annotations

import re
from dataclasses import dataclass

from allot.errors import InputError

# activations of so many bits or more stay in float
FLOAT = 16
_TEXT = re.compile(r"W(\d+)(?:A(\d+)(token)?)?(?:g(\d+))?")


@dataclass(frozen=True, kw_only=True)
class Bits:
    """Bits of a weight and of a tensor between layers; group: weights that share a scale, along
    the reduction axis, 0 for a whole output channel.  token: every token between layers has a range
    of its own, found when it comes."""

    weight: int = 4
    activation: int = 8
    group: int = 0
    token: bool = False

    @property
    def text(self) -> str:
        """As `parsed` reads it."""
        token, group = "token" * self.token, f"g{self.group}" if self.group else ""
        return f"W{self.weight}A{self.activation}{token}{group}"

    @property
    def floats(self) -> bool:
        """Whether tensors between layers stay in float."""
        return self.activation >= FLOAT


def parsed(text: str) -> Bits:
    """Raises InputError for what is none."""
    found = _TEXT.fullmatch(text)
    if not found:
        raise InputError(
            f"--bits {text}: give it as W4A8, as W4A8g32 for weights in groups of 32, or as "
            "W8A8token for a range of every token; A16, or no A, leaves tensors between layers in "
            "float"
        )
    weight, activation, token, group = found.groups()
    bits = Bits(
        weight=int(weight), activation=int(activation or FLOAT), group=int(group or 0),
        token=bool(token),
    )  # fmt: skip
    if not 2 <= bits.weight <= 8:
        raise InputError(f"--bits {text}: a weight has 2 to 8 bits")
    if not bits.floats and not 2 <= bits.activation <= 8:
        raise InputError(f"--bits {text}: an activation has 2 to 8 bits, or 16 to stay in float")
    if bits.token and (bits.floats or bits.group):
        raise InputError(
            f"--bits {text}: weights in groups meet ranges of the same groups, and a float tensor "
            "has none; give it as W4A8g32 or W8A8token"
        )
    return bits
