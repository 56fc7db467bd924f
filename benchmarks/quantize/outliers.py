"""Transformers in 4-bit weights, groups of 32: what rewrites do to outliers, and the best recipe.

The networks are those of the zoo; planted outliers are every eleventh channel that a norm hands to
linears, 30 times as large and undone by those that read it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

import torch

from allot.num.formats import UInt
from allot.num.live_ranges import AtRunTime
from allot.num.rounding import Gptq, Nearest
from allot.option import Option
from allot.options.precision import Activation, Weight
from allot.options.sharing import PerGroup
from allot.options.tensors import ActivationFormat
from allot.recipes.bits import Bits
from allot.recipes.offered import integers, tensors
from allot.reconstruct.setting import Reconstruction
from allot.reconstruct.walk import Discrepancy
from allot.recover import Recovery
from allot.rewrites.channels import rescale_
from allot.rewrites.gamma_migration import MigrateGamma
from allot.rewrites.layers import copied
from allot.rewrites.low_rank_branch import Branch
from allot.rewrites.rewrite import Rewrite
from allot.rewrites.rotate_input import RotateInput
from allot.rewrites.rotation import Rotate
from allot.rewrites.smoothing import ShiftScale, Smooth
from allot.rewrites.tracking import spaces
from allot.scheme import Scheme
from allot.task import Task
from benchmarks.figures import Figure, at_most, mean_interval
from benchmarks.quantize import languages
from benchmarks.quantize.judged import Judged, judged
from benchmarks.search.networks import task as network
from benchmarks.search.weights import cache

NETWORKS = ("vit_fmnist", "llama_byte_shakespeare")
W4A8 = Bits(weight=4, activation=8, group=32)
W4A4 = Bits(weight=4, activation=4, group=32)
EVERY, SIZE = 11, 30.0
NOTHING = Recovery(matched=False)
# what is no multiple of a group: the first layer of a vision transformer, read and written in 8 bit
FIRST: tuple[tuple[str, Option], ...] = (
    ("*patch*.weight", Weight(bits=8)),
    ("*patch*.input", Activation(bits=8)),
)
REWRITES: Mapping[str, tuple[Rewrite, ...]] = MappingProxyType(
    {
        "gamma migration": (MigrateGamma(),),
        "smoothing": (Smooth(),),
        "shift and scale": (ShiftScale(),),
        "rotation": (Rotate(),),
        "smoothing and low-rank branch": (Smooth(), Branch(rank=8)),
    }
)


def run(quick: bool, seed: int) -> dict[str, Figure]:
    """Planted outliers and the best recipe, per network."""
    figures: dict[str, Figure] = {}
    for name in NETWORKS[:1] if quick else NETWORKS:
        task = task_of(name)
        figures |= undone(name, task, seed) | best(name, task, seed, quick=quick)
    return figures


def task_of(name: str) -> Task:
    """A network; a language model with the calibration data that the other figures give it."""
    return languages.judged(name) if name in languages.NETWORKS else network(name, cache())


def undone(name: str, task: Task, seed: int) -> dict[str, Figure]:
    """KL of nearest rounding with planted outliers, over that without the rewrite."""
    figures = {}
    outlying = planted(task)
    for bits in (W4A8, W4A4):
        base = judged(outlying, nearest(name, bits), task.certify, seed=seed)
        for what, rewrites in REWRITES.items():
            scheme = replace(nearest(name, bits), rewrites=rewrites)
            found = judged(outlying, scheme, task.certify, seed=seed)
            label = f"{name} {bits.text}, planted outliers: KL with {what} over that without"
            figures[label] = _ratio(found, base, 1.0, seed)
    return figures


def best(name: str, task: Task, seed: int, *, quick: bool) -> dict[str, Figure]:
    """KL at W4A8 of the recipe that is best on the search set, over plain nearest rounding's."""
    base = judged(task, nearest(name, W4A8), task.certify, seed=seed)
    recipes = dict(list(RECIPES.items())[:2]) if quick else RECIPES
    chosen = min(
        recipes,
        key=lambda k: judged(task, recipes[k](name), task.search, seed=seed).mean,
    )
    found = judged(task, RECIPES[chosen](name), task.certify, seed=seed)
    label = f"{name} {W4A8.text}: KL of the best recipe over nearest rounding's"
    return {label: {**_ratio(found, base, 0.25, seed), "recipe": chosen, "bits": found.bits}}


def _ratio(found: Judged, base: Judged, bar: float, seed: int) -> Figure:
    low, high = mean_interval(found.kl)
    return at_most(
        found.mean / base.mean, bar, n=len(found.kl), seeds=[seed],
        interval=(low / base.mean, high / base.mean), kl=found.mean, base=base.mean,
    )  # fmt: skip


def nearest(name: str, bits: Bits) -> Scheme:
    """Ranges of least squared error, every weight to the nearest code, nothing repaired."""
    places = FIRST if name.startswith("vit") else ()
    weight = integers(bits, rounding=Nearest())
    # the question is what rewrites do for static ranges
    activation = Activation(bits=8) if bits == W4A8 else tensors(bits)
    return Scheme(weight=weight, activation=activation, places=places, recovery=NOTHING)


def in_order(name: str, *rewrites: Rewrite) -> Scheme:
    """Weights rounded in order of execution for the inputs they meet, after rewrites."""
    recovery = Recovery(samples=512, in_order=True)
    scheme = replace(nearest(name, W4A8), weight=integers(W4A8, rounding=Gptq()))
    return replace(scheme, rewrites=rewrites, recovery=recovery)


def learned(name: str, *rewrites: Rewrite) -> Scheme:
    """The same, then codes learned block by block."""
    scheme = in_order(name, *rewrites)
    setting = Reconstruction()
    return replace(scheme, recovery=replace(scheme.recovery, learning=setting))


def walked(name: str, *rewrites: Rewrite) -> Scheme:
    """Rounded in order, then all weights walked together; tensors in 8 bit per group of 32."""
    scheme = in_order(name, *rewrites)
    live = ActivationFormat(
        grid=UInt(bits=8), sharing=PerGroup(size=W4A8.group), ranges=AtRunTime()
    )
    recovery = replace(scheme.recovery, learning=Discrepancy(samples=512))
    return replace(scheme, activation=live, recovery=recovery)


RECIPES: Mapping[str, Callable[[str], Scheme]] = MappingProxyType(
    {
        "rounded in order": in_order,
        "rotated, rounded in order": lambda name: in_order(name, Rotate()),
        "rotated inputs, rounded in order": lambda name: in_order(name, Rotate(), RotateInput()),
        "learned": learned,
        "rotated, learned": lambda name: learned(name, Rotate()),
        "rotated inputs, walked": lambda name: walked(name, Rotate(), RotateInput()),
    }
)


def planted(task: Task) -> Task:
    """The same function with outliers: every eleventh channel that a norm hands to linears."""
    model = copied(task)
    for space in spaces(task):
        if space.norm and space.readers and not space.scale:
            factor = torch.ones(space.size)
            factor[3::EVERY] = 1 / SIZE
            rescale_(model, space, factor)
    return replace(task, model=model)
