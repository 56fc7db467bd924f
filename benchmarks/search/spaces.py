"""Spaces of the benchmark: few tied choices, so that every point of them can be measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from allot import bill
from allot.errors import InputError
from allot.num.rounding import Gptq, Nearest, Rounding
from allot.options.tokens import KeepTokens
from allot.options.width import Keep
from allot.recover import Recovery
from allot.runtimes.ideal import Ideal
from allot.site import Graph
from allot.space import Choice, Space
from allot.table import Table
from benchmarks.search.choices import activations, depth, inputs, skip, weights
from benchmarks.search.networks import DIGITS, LANGUAGES, RESNETS, VITS

HARSH, MILD = (4, 3, 2), (8, 4, 3)
WEIGHTS, TENSORS = (8, 4, 3, 2), (8, 6, 4, 3)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """How weights are rounded, and what repairs a plan before it is measured."""

    name: str
    rounding: Rounding
    recovery: Recovery


NOTHING = Recovery(samples=0, matched=False)
VARIANTS = (
    Variant(name="recovered", rounding=Gptq(), recovery=Recovery(samples=64, matched=True)),
    Variant(name="plain", rounding=Nearest(), recovery=NOTHING),
)


@dataclass(frozen=True, kw_only=True)
class Family:
    """One kind of space.

    build: (graph, rounding) -> its choices in execution order, the mildest option first.
    networks: names of three networks of a kind.  bill: what its plans cost.  matched: whether the
    networks have norms or biases by which recovery can match statistics; where they have none
    (Llama), a plan is recovered by its rounding alone.
    """

    name: str
    networks: tuple[str, ...]
    bill: str
    build: Callable[[Graph, Rounding], Space]
    matched: bool = True

    def recovery(self, variant: Variant) -> Recovery:
        """What repairs a plan of this family."""
        return variant.recovery if self.matched else NOTHING

    def cost(self, space: Space) -> Table:
        """Stored bytes without the container's header, or BitOPs."""
        if self.bill == "size":
            return bill.size(space, header=0)
        return bill.bitops(space, Ideal())


def variant(name: str) -> Variant:
    """The variant of a name; raises InputError for another."""
    for v in VARIANTS:
        if v.name == name:
            return v
    raise InputError(f"no variant {name!r}; there are {', '.join(v.name for v in VARIANTS)}")


def digits_harsh(graph: Graph, rounding: Rounding) -> Space:
    """4, 3 or 2 bits for eight groups of weights: 3^8."""
    return _digits_weights(graph, HARSH, rounding)


def digits_mild(graph: Graph, rounding: Rounding) -> Space:
    """8, 4 or 3 bits for eight groups of weights: 3^8."""
    return _digits_weights(graph, MILD, rounding)


def _digits_weights(graph: Graph, bits: Sequence[int], rounding: Rounding) -> Space:
    groups = (
        ("conv",),
        ("block1.conv1",),
        ("block1.conv2",),
        ("block2.conv1",),
        ("block2.conv2", "block2.shortcut.0"),
        ("block3.conv1",),
        ("block3.conv2",),
        ("linear",),
    )
    return Space(graph=graph, choices=tuple(weights(g, bits, rounding) for g in groups))


def digits_joint(graph: Graph, rounding: Rounding) -> Space:
    """Bits of weights and of tensors of three parts, width and depth: 3^7 2^2.

    Parts: the stem with the first block, the second block, the third with the classifier.
    """
    first, second, third = (
        ["conv", "block1.conv1", "block1.conv2"],
        ["block2.conv1", "block2.conv2", "block2.shortcut.0"],
        ["block3.conv1", "block3.conv2", "linear"],
    )
    # what enters the third block counts to the second, so that less runs again for the third
    tensors = (
        ["conv", "block1.conv1", "block1.conv2"],
        ["block2.conv1", "block2.conv2", "block3.conv1"],
        ["block3.conv2", "linear"],
    )
    keep = tuple(Keep(ratio=r) for r in (1.0, 0.75, 0.5))
    return Space(
        graph=graph,
        choices=(
            weights(first, HARSH, rounding),
            activations(tensors[0], MILD),
            skip("block1"),
            activations(tensors[1], MILD),
            weights(second, HARSH, rounding),
            Choice(site="block2.conv1.channels", options=keep),
            skip("block3"),
            weights(third, HARSH, rounding),
            activations(tensors[2], MILD),
        ),
    )


def resnet(graph: Graph, rounding: Rounding) -> Space:
    """4, 3 or 2 bits for eight groups of weights, the finer the more they hold: 3^8.

    Alone stand the last stage's first and last blocks by layer, and the classifier; its other
    blocks, the second stage's first block and the rest of it, and all before form one group each.
    """
    convs = [x.module for x in graph.layers]
    second = [m for m in convs if m.startswith("layer2.")]
    third = [m for m in convs if m.startswith("layer3.")]
    groups = (
        [m for m in convs if m == "conv1" or m.startswith("layer1.")],
        second[:2],
        second[2:],
        third[:2],
        third[2:-2],
        third[-2:-1],
        third[-1:],
        ["linear"],
    )
    return Space(graph=graph, choices=tuple(weights(g, HARSH, rounding) for g in groups))


def vit(graph: Graph, rounding: Rounding) -> Space:
    """Bits of weights and of tensors, and tokens: 4^6.

    The first half of the layers with the patches, then, with fewer tokens, the rest; the last
    layer and the classifier behind it have weights of their own.  What the first attention reads
    stays as it is: its class token is the same for every image and holds values beyond those that
    calibration picks, so that clipping it would hide all else.  The site of tokens may be closed
    because torch does not export this library's network with fewer: nothing is exported here.
    """
    modules = [x.module for x in graph.layers]
    attention = "vit.layers.0.attention.q_proj"
    half = (depth(graph, "vit.layers.") + 1) // 2
    cut = modules.index(f"vit.layers.{half}.attention.q_proj")
    share = tuple(KeepTokens(ratio=r) for r in (1.0, 0.75, 0.5, 0.25))
    return Space(
        graph=graph,
        choices=(
            weights(modules[:cut], WEIGHTS, rounding),
            activations([m for m in inputs(graph, modules[:cut]) if m != attention], TENSORS),
            Choice(site=f"vit.layers.{half - 1}.tokens", options=share),
            weights(modules[cut:-2], WEIGHTS, rounding),
            activations(inputs(graph, modules[cut:]), TENSORS),
            weights(modules[-2:], WEIGHTS, rounding),
        ),
    )


def language(graph: Graph, rounding: Rounding) -> Space:
    """Bits of weights and of tensors, and depth: 4^5 2^2.

    The first half of the layers, the rest, and the layer that makes the logits; the last layer
    of the first half can be skipped, and the last but one of all.
    """
    modules = [x.module for x in graph.layers]
    layers = depth(graph, "model.layers.")
    half = (layers + 1) // 2
    cut = modules.index(f"model.layers.{half}.self_attn.q_proj")
    return Space(
        graph=graph,
        choices=(
            weights(modules[:cut], WEIGHTS, rounding),
            activations(inputs(graph, modules[:cut]), TENSORS),
            skip(f"model.layers.{half - 1}"),
            weights(modules[cut:-1], WEIGHTS, rounding),
            activations(inputs(graph, modules[cut:]), TENSORS),
            skip(f"model.layers.{layers - 2}"),
            weights(modules[-1:], WEIGHTS, rounding),
        ),
    )


FAMILIES = (
    Family(name="digits-harsh", networks=DIGITS, bill="size", build=digits_harsh),
    Family(name="digits-mild", networks=DIGITS, bill="size", build=digits_mild),
    Family(name="digits-joint", networks=DIGITS, bill="bitops", build=digits_joint),
    Family(name="resnet", networks=RESNETS, bill="size", build=resnet),
    Family(name="vit", networks=VITS, bill="bitops", build=vit),
    Family(name="language", networks=LANGUAGES, bill="bitops", build=language, matched=False),
)


def family(name: str) -> Family:
    """The family of a name; raises InputError for another."""
    for f in FAMILIES:
        if f.name == name:
            return f
    raise InputError(f"no space {name!r}; there are {', '.join(f.name for f in FAMILIES)}")
