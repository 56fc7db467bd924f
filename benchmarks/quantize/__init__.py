"""The quantizer's craft: how much less is lost than by peers and plain rounding, at equal bits.

`allot bench quantize --json FILE` runs all of it; `--quick` a version under five minutes.
"""

from __future__ import annotations

from benchmarks.figures import Figure
from benchmarks.main import origin as origin


def run(quick: bool, seed: int) -> dict[str, Figure]:
    """All figures; a quick run takes one network, fewer samples and fewer steps."""
    # the parts are scripts of this package too, and may not be imported with it
    from benchmarks.quantize import convolutions, languages, memory, outliers, searched

    found = convolutions.run(quick, seed) | languages.run(quick, seed) | outliers.run(quick, seed)
    found |= memory.run(quick, seed)
    return found if quick else found | searched.run(quick, seed)
