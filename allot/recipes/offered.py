"""Offered: the precision axis of a recipe, and the options that several recipes share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from allot.num.clipping import PNorm
from allot.num.formats import Float16, Format, Int, UInt
from allot.num.live_ranges import AtRunTime
from allot.num.ranges import Ranges
from allot.num.rounding import Gptq, Rounding
from allot.option import Option
from allot.options.formatted import Formatted
from allot.options.precision import Activation, Weight
from allot.options.sharing import PerGroup, PerToken
from allot.options.tensors import ActivationFormat
from allot.recipes.bits import Bits
from allot.recover import Recovery
from allot.scheme import Rule, Scheme
from allot.site import Graph, Site
from allot.space import Choice, Space
from allot.target import Target

# what a recipe makes of the precision that is asked for
Passes = Callable[[Bits], Scheme]
# widths of weights offered where none is asked for
WIDTHS = (8, 6, 5, 4, 3, 2)
_GPTQ, _SHRUNK = Gptq(), PNorm()
# recoveries: nothing, every layer for the inputs that the rounded ones before it give, statistics
UNREPAIRED = Recovery(samples=512, matched=False)
IN_ORDER = Recovery(samples=512, matched=False, in_order=True)
MATCHED = Recovery(samples=512)


def integers(
    bits: Bits,
    *,
    ranges: Ranges = _SHRUNK,
    rounding: Rounding = _GPTQ,
    zeros: bool = False,
    rank: int = 0,
) -> Option:
    """A weight in integers of the bits asked for, scales in half precision where groups share.

    zeros: with zero points.  Whole channels without any, shrunk by squared error, are the option
    that integer kernels take.
    """
    whole = not (bits.group or zeros or rank)
    if whole and ranges == _SHRUNK:
        return Weight(bits=bits.weight, rounding=rounding)
    grid = UInt(bits=bits.weight) if zeros else Int(bits=bits.weight)
    fmt = Format(grid=grid, group=bits.group, asymmetric=zeros)
    fmt = replace(fmt, scales=Float16()) if bits.group else fmt
    name = f"W{bits.weight}" + (f"g{bits.group}" if bits.group else "") + ("z" if zeros else "")
    return Formatted(
        name=name + (f"r{rank}" if rank else ""),
        format=fmt, ranges=ranges, rounding=rounding, rank=rank,
    )  # fmt: skip


def tensors(bits: Bits) -> Option | Rule | None:
    """Tensors between layers: one static range; where weights are in groups, ranges of groups of
    channels found at run time; where it is asked for, ranges of tokens; None where they stay in
    float.

    8 bits and tokens are signed, as kernels of linears find them; what convolutions read has one
    static range then.
    """
    if bits.floats:
        return None
    static = Activation(bits=bits.activation)
    if not (bits.group or bits.token):
        return static
    sharing = PerGroup(size=bits.group) if bits.group else PerToken()
    signed = bits.activation == 8 or bits.token
    grid = Int(bits=bits.activation) if signed else UInt(bits=bits.activation)
    live = ActivationFormat(grid=grid, sharing=sharing, ranges=AtRunTime())
    return BeforeLinears(linear=live, other=static) if signed else live


@dataclass(frozen=True, kw_only=True)
class BeforeLinears:
    """One option for what linears alone read, another for all else."""

    linear: Option
    other: Option

    def __call__(self, site: Site, graph: Graph) -> Option:
        ops = {graph.layer(m).op for m in site.reach}
        return self.linear if ops == {"linear"} else self.other


def space(
    graph: Graph, target: Target, *, passes: Passes, bits: Bits, widths: tuple[int, ...]
) -> Space:
    """What the recipe offers every weight and tensor: the original, and what was asked for.

    widths: bits of weights, each an option.
    """
    schemes = [passes(replace(bits, weight=w)) for w in widths]
    choices = []
    for site in graph.sites:
        if site.fixed or site.kind not in ("weight", "activation"):
            continue
        some = schemes if site.kind == "weight" else schemes[:1]
        given = [scheme.at(site, graph) for scheme in some]
        original = Weight(bits=32) if site.kind == "weight" else Activation(bits=32)
        options = (original, *(o for o in given if o is not None))
        choices.append(Choice(site=site.name, options=options))
    return Space(graph=graph, choices=tuple(choices))
