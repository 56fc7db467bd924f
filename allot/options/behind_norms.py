"""Behind norms: one option for tensors that a norm puts out, another for all others."""

from __future__ import annotations

from dataclasses import dataclass

from allot.option import Option
from allot.part import Part
from allot.site import Graph, Site


@dataclass(frozen=True, kw_only=True)
class BehindNorms(Part):
    """A rule for a scheme's tensors: `made` where a norm made them, `others` elsewhere."""

    made: Option
    others: Option

    def __call__(self, site: Site, graph: Graph) -> Option:
        return self.made if behind_norm(site, graph) else self.others


def behind_norm(site: Site, graph: Graph) -> bool:
    """Whether the tensor of a site is the output of a norm over channels, as it left it.

    Told by the name of its class, which ends in "Norm" (LayerNorm, RMSNorm, LlamaRMSNorm), and
    only of norms that scale: the graph names no others.  Batch norms are none.  Not told:
    where a norm ends a block, since the tensor is then the block's, and where a layer reads one
    token of what a norm made.
    """
    named = {module for module, kind, _ in graph.unknown if kind.endswith("Norm")}
    touch = site.touches[0]
    return site.kind == "activation" and touch.role == "out" and touch.module in named
