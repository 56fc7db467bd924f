"""Bits: the precision that a recipe is asked for, as people write it: W4A8, W3A16g32."""

from __future__ import annotations

import re
from dataclasses import dataclass

from allot.errors import InputError

# activations of so many bits or more stay in float
FLOAT = 16
_TEXT = re.compile(r"W(\d+)A(\d+)(?:g(\d+))?")


@dataclass(frozen=True, kw_only=True)
class Bits:
    """Bits of a weight and of a tensor between layers; group: weights that share a scale, along
    the reduction axis, 0 for a whole output channel."""

    weight: int = 4
    activation: int = 8
    group: int = 0

    @property
    def text(self) -> str:
        """As `parsed` reads it."""
        return f"W{self.weight}A{self.activation}" + (f"g{self.group}" if self.group else "")

    @property
    def floats(self) -> bool:
        """Whether tensors between layers stay in float."""
        return self.activation >= FLOAT


def parsed(text: str) -> Bits:
    """Raises InputError for what is none."""
    found = _TEXT.fullmatch(text)
    if not found:
        raise InputError(
            f"--bits {text}: give it as W4A8, or W4A8g32 for weights in groups of 32; A16 leaves "
            "tensors between layers in float"
        )
    bits = Bits(weight=int(found[1]), activation=int(found[2]), group=int(found[3] or 0))
    if not 2 <= bits.weight <= 8:
        raise InputError(f"--bits {text}: a weight has 2 to 8 bits")
    if not bits.floats and not 2 <= bits.activation <= 8:
        raise InputError(f"--bits {text}: an activation has 2 to 8 bits, or 16 to stay in float")
    return bits
