"""Selection: which samples to calibrate on, by density and diversity of what they are."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from allot.errors import DataError, InputError
from allot.sweep import find, observed, outputs
from allot.task import Data, Task

# neighbours within one bandwidth of a sample, in the middle of the data
_NEIGHBOURS = 8
_ROWS = 1024
# gains nearer than this differ by rounding
_TIE = 1e-9
# differences and not products, which cancel: a duplicate's distance is 0
EXACT = "donot_use_mm_for_euclid_dist"


def features(task: Task, data: Data, *, module: str = "", batch: int = 128) -> Tensor:
    """What each sample is to the network: [n, d] in float64.

    The output of a named module, or of the network (""): maps [n, d, h, w] are averaged over
    their places, tokens [n, t, d] over t.  The network runs in eval mode on a copy; nothing is
    left.  Raises InputError for a module that is not there, does not run once per batch or does
    not put out one tensor.
    """
    if not module:
        model = copy.deepcopy(task.model).eval()
        with torch.no_grad():
            return torch.cat([pooled(task.forward(model, b)) for b in data.batches(batch)])
    return torch.cat(each(task, data, module, lambda x: pooled(_only(module, x)), batch=batch))


def each(
    task: Task, data: Data, module: str, read: Callable[[Any], Tensor], *, batch: int = 128
) -> list[Tensor]:
    """What `read` makes of a module's output for each batch of the data, in eval mode on a copy.

    Raises InputError for a module that is not there or does not run once for each batch.
    """
    model = copy.deepcopy(task.model).eval()
    try:
        find(model, module)
    except AttributeError as e:
        raise InputError(f"the network has no module {module!r} to look at") from e
    found: list[Tensor] = []
    with observed(model, {(module, "out"): [lambda x: found.append(read(x))]}):
        outputs(task, model, data, batch=batch)
    batches = -(-len(data) // batch)
    if len(found) != batches:
        raise InputError(
            f"module {module!r} ran {len(found)} times in {batches} batches; "
            "name one that runs once for each"
        )
    return found


def pooled(x: Tensor) -> Tensor:
    """[n, d], [n, t, d] or [n, d, h, w, ...] -> [n, d]: the mean over tokens or places, float64."""
    x = x.double()
    if x.dim() < 3:
        return x.view(len(x), -1)
    return x.mean(1) if x.dim() == 3 else x.flatten(2).mean(2)


def density(x: Tensor) -> Tensor:
    """Gaussian kernel density of each sample among all, [n, d] -> [n] in (0, 1].

    The bandwidth is the median distance to the eighth nearest other sample, so that a scale of
    the features changes nothing; the value is not normalized, as only ratios are used.
    """
    reach = min(_NEIGHBOURS, len(x) - 1)
    away = [torch.cdist(rows, x, compute_mode=EXACT) for rows in x.split(_ROWS)]
    near = torch.cat([d.kthvalue(reach + 1, 1).values for d in away])
    width = near.median().clamp(min=torch.finfo(x.dtype).tiny)
    return torch.cat([(-0.5 * (d / width).square()).exp().mean(1) for d in away])


def spread(x: Tensor, k: int, *, weight: float = 0.5) -> Tensor:
    """k samples that are dense and far apart, in order of choice: [n, d] -> indices [k].

    The first is the densest; each other one has the largest density ** weight times distance to
    the nearest chosen one (density and diversity as in Liu et al. 2024, who score whole denoising
    steps by the two; samples are chosen one by one here, since not every network has steps).
    weight 0 is the farthest point rule (Gonzalez 1985): every sample is then within twice the
    least radius at which k samples can cover all.  Of duplicates, none is chosen a second time
    before every distinct sample is.  Ties go to the first.  Raises DataError for too many.
    """
    check_count(len(x), k)
    dense = density(x)
    gain = dense.clone()
    left = x.new_full((len(x),), torch.inf)
    chosen: list[int] = []
    for _ in range(k):
        gain[chosen] = -1
        chosen.append(int(gain.argmax()))
        away = torch.cdist(x[chosen[-1:]], x, compute_mode=EXACT)[0]
        left = torch.minimum(left, away)
        gain = dense**weight * left
    return torch.tensor(chosen)


def cover(x: Tensor, k: int) -> Tensor:
    """k samples to which all others are alike, in order of choice: [n, d] -> indices [k].

    Greedy facility location: the sum over samples of the Gaussian similarity to the most similar
    chosen one, at least 1 - 1/e of the largest possible (Nemhauser et al. 1978).  The bandwidth is
    the median distance.  Two samples nearest to each other gain the same: ties go to the one more
    alike to all, then to the first.  Raises DataError for too many.
    """
    check_count(len(x), k)
    away = torch.cdist(x, x, compute_mode=EXACT)
    width = away.median().clamp(min=torch.finfo(x.dtype).tiny)
    alike = (-0.5 * (away / width).square()).exp()
    central = alike.sum(0)
    best = x.new_zeros(len(x))
    chosen: list[int] = []
    for _ in range(k):
        gain = (alike - best[:, None]).clamp(min=0).sum(0)
        gain[chosen] = -1
        tied = gain >= gain.max() - _TIE
        chosen.append(int(torch.where(tied, central, -1).argmax()))
        best = torch.maximum(best, alike[:, chosen[-1]])
    return torch.tensor(chosen)


def selected(
    task: Task, k: int, *, choose: Callable[[Tensor, int], Tensor] = spread, module: str = ""
) -> Task:
    """The task with the k calibration samples that `choose` takes by their features."""
    index = choose(features(task, task.calibrate, module=module), k)
    return replace(task, calibrate=task.calibrate.subset(index))


def check_count(n: int, k: int) -> None:
    """Raises DataError unless k of n samples can be chosen."""
    if not 1 <= k <= n:
        raise DataError(f"{k} of {n} samples cannot be chosen; choose from 1 to {n}")


def _only(module: str, output: Any) -> Tensor:
    if isinstance(output, Tensor):
        return output
    raise InputError(f"module {module!r} puts out {type(output).__name__}, not one tensor")
