"""Nodes: ends of modules and parameters, united where their channels must change together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from allot.rewrites.passing import CHANGES
from allot.rewrites.spaces import Reader, Space, Writer


@dataclass(kw_only=True)
class Nodes:
    """Grows while a network runs; `spaces` tells what it came to.

    kinds: of the modules taken as wholes.  names: node -> (name, "out" | "parameter" | "in" |
    "norm").  bars: (node, change, why).
    """

    kinds: dict[str, str]
    names: list[tuple[str, str]] = field(default_factory=list)
    parent: list[int] = field(default_factory=list)
    size: dict[int, int] = field(default_factory=dict)
    bars: list[tuple[int, str, str]] = field(default_factory=list)
    reads: dict[str, list[Reader]] = field(default_factory=dict)

    def of(self, name: str, end: str, size: int) -> int:
        """The node of an end; made when it is first asked for."""
        if (name, end) not in self.names:
            self.names.append((name, end))
            self.parent.append(len(self.parent))
        node = self.names.index((name, end))
        self.size[node] = size
        return node

    def root(self, node: int) -> int:
        while self.parent[node] != node:
            node = self.parent[node]
        return node

    def unite(self, a: int, b: int) -> None:
        low, high = sorted((self.root(a), self.root(b)))
        self.parent[high] = low

    def bar(self, node: int, why: str, changes: Sequence[str] = CHANGES) -> None:
        self.bars += [(node, change, why) for change in changes]

    def read(self, node: int, reader: Reader) -> None:
        """A linear reads channels of a node."""
        self.unite(node, self.of(reader.name, "in", self.size[node]))
        self.reads.setdefault(reader.name, []).append(reader)

    def normed(self, node: int, norm: str, *, whole: bool) -> None:
        """A norm reads channels of a node: all in order, or not."""
        self.unite(node, self.of(norm, "norm", self.size[node]))
        self.bar(node, f"the norm {norm} reads it", ("scale", "shift"))
        if not whole:
            self.bar(node, f"the norm {norm} reads a part of it")

    def spaces(self) -> tuple[Space, ...]:
        """Every group of united nodes that someone writes."""
        groups: dict[int, list[int]] = {}
        for node in range(len(self.names)):
            groups.setdefault(self.root(node), []).append(node)
        return tuple(s for g in groups.values() if (s := self._space(g)).writers)

    def _space(self, nodes: list[int]) -> Space:
        ends = [self.names[n] for n in nodes]
        readers = [r for n, e in ends if e == "in" for r in dict.fromkeys(self.reads[n])]
        why = {c: w for n, c, w in reversed(self.bars) if n in nodes}
        twice = [n for n, k in Counter(r.name for r in readers).items() if k > 1]
        parts = [r.name for r in readers if not r.whole]
        if parts:
            why["rotate"] = f"{parts[0]} reads it in part or in another order"
        if len({self.size[n] for n in nodes}) > 1:
            why |= dict.fromkeys(CHANGES, "tensors of different widths meet in it")
        if twice:
            why |= dict.fromkeys(CHANGES, f"{twice[0]} is called on different parts of it")
        return Space(
            size=self.size[nodes[0]],
            writers=tuple(
                Writer(name=n, kind=self._kind(n, e)) for n, e in ends if e in ("out", "parameter")
            ),
            readers=tuple(readers),
            norms=tuple(n for n, e in ends if e == "norm"),
            **why,
        )

    def _kind(self, name: str, end: str) -> str:
        kind = end if end == "parameter" else self.kinds[name]
        return "norm" if kind in ("layer", "rms") else kind
