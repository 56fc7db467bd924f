"""Sites: the places of a network where one decision is made, and the graph that holds them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property


@dataclass(frozen=True, kw_only=True)
class Touch:
    """How a site touches a module.

    role: "weight" (the module's weight tensor), "in" / "out" (its input or output tensor, or the
    channels of its input or output), "norm" (its per-channel affine and running statistics),
    "block" (all of it).
    index: for channel groups, position along the module's channel dim -> class of the group, or
    -1 where the position belongs to no class of it; for blocks that return a tuple, 0 at the
    tensor that goes on and -1 at the other entries; empty otherwise.
    """

    module: str
    role: str
    index: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Site:
    """One place of one decision.

    kind: "weight", "activation", "channels", "block", "tokens" or "embedding" (a table that rows
    are looked up in).  name: "<module>.weight" (of tables too), "<module>.input",
    "<module>.channels", "<module>.block", "<module>.tokens" after the first module (in execution
    order) that it concerns.
    shape: weight [out, in, ...]; activation per sample [c, ...]; channels [classes]; block per
    sample, of what enters and leaves it; tokens [t, c].
    reach: layers whose storage or work scales with it.
    fixed: why nothing may be chosen here ("" where something may).
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    touches: tuple[Touch, ...]
    reach: tuple[str, ...]
    fixed: str = ""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A module that multiplies: convolution or linear, with what its work depends on.

    module: qualified name.  op: "conv2d" or "linear".  weight: [out, in/groups, kh, kw] or
    [out, in].  macs: per sample.  norm: the batch norm that follows it and nothing else, or "".
    input: name of the activation site it reads.
    """

    module: str
    op: str
    weight: tuple[int, ...]
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    bias: bool = False
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    macs: int
    norm: str = ""
    input: str = ""

    @property
    def ins(self) -> int:
        """Channels that it reads."""
        return self.weight[1] * self.groups


@dataclass(frozen=True, kw_only=True)
class Graph:
    """All sites of a model in execution order.

    norms: normalized modules in execution order.  order: every module call in execution order,
    as (name, "start" | "end") pairs; a module called more than once appears more than once.
    unknown: (module, type, words of 4 bytes) of what holds parameters or buffers but is not
    understood; it stays in float.  loose: bytes of what no layer and no folded norm owns.
    embeddings: tables that rows are looked up in; `loose` counts them in float.
    results: what convolutions make where no activation site stands before the next reader; a
    target that computes in integers from codes to codes ties them to the convolution's input.
    """

    layers: tuple[Layer, ...]
    sites: tuple[Site, ...]
    norms: tuple[str, ...]
    order: tuple[tuple[str, str], ...]
    unknown: tuple[tuple[str, str, int], ...] = ()
    loose: int = 0
    results: tuple[Site, ...] = ()
    embeddings: tuple[Site, ...] = ()

    @cached_property
    def digest(self) -> str:
        """Hash of the structure alone: equal for equal networks whatever their weights."""
        text = json.dumps([[asdict(x) for x in self.layers], [asdict(x) for x in self.sites]])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def site(self, name: str) -> Site:
        return self._by_name[name]

    def layer(self, module: str) -> Layer:
        return self._by_module[module]

    def loose_in(self, module: str) -> int:
        """Bytes of `loose` that lie in a module and go with it."""
        own = sum(n for name, _, n in self.unknown if _inside(name, module))
        folded = {x.norm for x in self.layers}
        norms = {n for n in self.norms if n not in folded and _inside(n, module)}
        channels = {
            t.module: len(t.index) for s in self.sites for t in s.touches if t.module in norms
        }
        return 4 * own + 8 * sum(channels.values())

    @cached_property
    def _by_name(self) -> dict[str, Site]:
        return {s.name: s for s in (*self.sites, *self.results, *self.embeddings)}

    @cached_property
    def _by_module(self) -> dict[str, Layer]:
        return {x.module: x for x in self.layers}

    @cached_property
    def folded_bytes(self) -> int:
        """4 bytes per parameter of the BN-folded original: what sizes are measured against."""
        floats = 0
        for x in self.layers:
            count = 1
            for n in x.weight:
                count *= n
            floats += count + (x.weight[0] if x.bias or x.norm else 0)
        return 4 * floats + self.loose


def _inside(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")
