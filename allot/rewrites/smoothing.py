"""Smoothing: activations' outliers moved into weights, by a factor (and shift) per channel."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from allot.num.formats import Format, Grid, Int, UInt
from allot.num.smooth import balanced, middle, output_error, salient, tamed
from allot.rewrites.channels import linear_of, rescale_
from allot.rewrites.inputs import Inputs, inputs
from allot.rewrites.layers import copied
from allot.rewrites.rewrite import Rewrite
from allot.rewrites.spaces import Space, some
from allot.rewrites.tracking import spaces
from allot.task import Task

# tokens per layer on which output errors are taken
TOKENS = 512
FOUR_BITS, EIGHT_BITS = Format(grid=Int(bits=4)), Int(bits=8)
FOUR_BITS_IN_GROUPS = Format(grid=UInt(bits=4), group=32, asymmetric=True)


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """A space and what its readers met, all per channel of the space [size].

    low, high, mean: least and largest input, mean magnitude.  weights: largest magnitude of a
    weight that multiplies the channel.
    """

    space: Space
    low: Tensor
    high: Tensor
    mean: Tensor
    weights: Tensor

    @property
    def sizes(self) -> Tensor:
        """Largest magnitudes of the inputs."""
        return torch.maximum(self.high, -self.low)


@dataclass(frozen=True, kw_only=True, eq=False)
class Change:
    """x -> (x - shift) / factor, both [size]."""

    factor: Tensor
    shift: Tensor


class Smoothing(Rewrite):
    """Of some changes per space, the one with the least output error of the linears that read it.

    A space is what a norm gives to linears, or one linear to the next where nothing but views,
    products, relu or attention's weighted sum over values lies between.  To leave a space alone is
    always among the changes, so no space's error on calibration tokens grows.  Errors are those of
    nearest rounding with ranges from the extremes, of each reader by itself: what the writer loses
    by its rescaled rows is not looked at (with a scale per row it loses nothing).
    """

    @property
    @abstractmethod
    def judged(self) -> tuple[Format, Grid | None]:
        """The weights' format and the activations' grid (dynamic, per token; None for floats) for
        which changes are compared."""

    @abstractmethod
    def changes(self, seen: Seen) -> Iterator[Change]:
        """The changes to choose among, besides none."""

    def apply(self, task: Task) -> nn.Module:
        """Raises ModelError where no space is free, InputError where the format fits no layer."""
        every = spaces(task)
        free = [s for s in every if s.writers and s.readers and not s.scale]
        some(free, every, change="scale", what="norm or linear that linears alone read")
        model = copied(task)
        names = [r.name for s in free for r in s.readers]
        met = inputs(task, model, names, tokens=TOKENS)
        for space in free:
            best = _best(self, model, space, met)
            if best is not None:
                shift = best.shift if bool(best.shift.any()) else None
                rescale_(model, space, best.factor, shift)
        return model


def _best(
    rewrite: Smoothing, model: nn.Module, space: Space, met: dict[str, Inputs]
) -> Change | None:
    """The change of the least error, None where none beats leaving the space alone."""
    seen = _seen(model, space, met)
    least, best = output_loss(rewrite, model, space, met, unchanged(space)), None
    for change in rewrite.changes(seen):
        error = output_loss(rewrite, model, space, met, change)
        if error < least:
            least, best = error, change
    return best


def unchanged(space: Space) -> Change:
    """The change that is none."""
    return Change(factor=torch.ones(space.size), shift=torch.zeros(space.size))


def _seen(model: nn.Module, space: Space, met: dict[str, Inputs]) -> Seen:
    """What the readers met and weigh, put together per channel of the space."""
    low, high, mean, weights = (torch.zeros(space.size) for _ in range(4))
    first = torch.ones(space.size, dtype=torch.bool)
    for reader in space.readers:
        index, x = torch.tensor(reader.index), met[reader.name]
        w = linear_of(model, reader.name).weight.detach().float().cpu().abs().amax(0)
        weights.scatter_reduce_(0, index, w, "amax")
        mean.scatter_reduce_(0, index, x.mean, "amax")
        # a channel that no reader met before takes the first one's extremes, not zero
        for total, new, how in ((low, x.low, "amin"), (high, x.high, "amax")):
            here = total.scatter_reduce(0, index, new, how, include_self=False)
            worse = torch.minimum if how == "amin" else torch.maximum
            total.copy_(torch.where(first, here, worse(total, here)))
        first[index] = False
    return Seen(space=space, low=low, high=high, mean=mean, weights=weights)


def output_loss(
    rewrite: Smoothing, model: nn.Module, space: Space, met: dict[str, Inputs], change: Change
) -> float:
    """Summed squared output error of all readers over the tokens kept."""
    weight, activation = rewrite.judged
    total = 0.0
    for reader in space.readers:
        index = torch.tensor(reader.index)
        w = linear_of(model, reader.name).weight.detach().float().cpu()
        x = met[reader.name].rows - change.shift[index]
        total += output_error(
            x, w, factor=change.factor[index], weight=weight, activation=activation
        )
    return total


@dataclass(frozen=True, kw_only=True)
class Smooth(Smoothing):
    """SmoothQuant (Xiao et al. 2023): factor = max|X|^a / max|W|^(1 - a).

    strengths: the values of a to choose among per space; the paper uses one for all.
    """

    strengths: tuple[float, ...] = (0.25, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    weight: Format = FOUR_BITS
    activation: Grid = EIGHT_BITS

    @property
    def judged(self) -> tuple[Format, Grid | None]:
        """The settings."""
        return self.weight, self.activation

    def changes(self, seen: Seen) -> Iterator[Change]:
        """One per strength."""
        for strength in self.strengths:
            factor = balanced(seen.sizes, seen.weights, strength)
            yield Change(factor=factor, shift=torch.zeros_like(factor))


@dataclass(frozen=True, kw_only=True)
class ShiftScale(Smoothing):
    """Outlier Suppression+ (Wei et al. 2023): channels centred, then those above a threshold tamed.

    steps: how many thresholds, evenly from the largest channel's magnitude down, are tried.
    Linears without a bias get one, and norms too.  Where something else than one norm or linear
    writes a space, or an op lies between that no shift passes, it is scaled only.
    """

    steps: int = 20
    weight: Format = FOUR_BITS
    activation: Grid = EIGHT_BITS

    @property
    def judged(self) -> tuple[Format, Grid | None]:
        """The settings."""
        return self.weight, self.activation

    def changes(self, seen: Seen) -> Iterator[Change]:
        """One per threshold."""
        free = not seen.space.shift and [w.kind for w in seen.space.writers] in (
            ["norm"],
            ["linear"],
        )
        shift = middle(seen.low, seen.high) if free else torch.zeros_like(seen.low)
        sizes = torch.maximum(seen.high - shift, shift - seen.low)
        top = float(sizes.max())
        for i in range(self.steps, 0, -1) if top > 0 else ():
            yield Change(factor=tamed(sizes, top * i / self.steps), shift=shift)


@dataclass(frozen=True, kw_only=True)
class ActivationAware(Smoothing):
    """AWQ (Lin et al. 2023): factor = mean|X|^a for weights that are rounded alone.

    steps: a is one of 1 / steps, 2 / steps .. 1.  The paper also clips; ranges do that here.
    """

    steps: int = 20
    weight: Format = FOUR_BITS_IN_GROUPS

    @property
    def judged(self) -> tuple[Format, Grid | None]:
        """The format, activations in float."""
        return self.weight, None

    def changes(self, seen: Seen) -> Iterator[Change]:
        """One per exponent."""
        for i in range(1, self.steps + 1):
            factor = salient(seen.mean, i / self.steps)
            yield Change(factor=factor, shift=torch.zeros_like(factor))
