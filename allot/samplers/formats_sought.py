"""Formats sought: of several formats of a tensor the one that its own values lose least by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from allot.calibrate import calibrate
from allot.num.activation_ranges import ActivationRange, Seen
from allot.num.affine import rounded
from allot.option import Option
from allot.options.tensors import ActivationFormat, seen_whole
from allot.site import Graph, Site
from allot.task import Task


@dataclass(frozen=True, kw_only=True, eq=False)
class Given:
    """A rule of a scheme: for each site the option it was given, for others none."""

    options: Mapping[str, Option]

    def __call__(self, site: Site, graph: Graph) -> Option | None:
        return self.options.get(site.name)


def best_formats(
    task: Task, graph: Graph, sites: Iterable[str], formats: Sequence[ActivationFormat]
) -> dict[str, ActivationFormat]:
    """Site -> the format of least squared error on the tensor's values, the first of equals.

    formats: with one fixed range for the tensor each.
    """
    names = tuple(sites)
    needs = {(n, f): f.needs(graph.site(n), graph) for n in names for f in formats}
    wanted = tuple(dict.fromkeys(s for group in needs.values() for s in group))
    stats = calibrate(task, task.model, wanted)
    found = {}
    for n in names:
        seen = [seen_whole({s: stats[s].cpu() for s in needs[n, f]}) for f in formats]
        errors = [_error(f, s) for f, s in zip(formats, seen, strict=True)]
        found[n] = formats[int(torch.tensor(errors, dtype=torch.float64).argmin())]
    return found


def _error(option: ActivationFormat, seen: Seen) -> float:
    assert option.grid is not None and isinstance(option.ranges, ActivationRange)
    scale, zero = option.ranges.fit(seen, option.grid)
    values = seen.values.float()
    got = rounded(values, scale[:, None], zero[:, None], option.grid)
    return float((values - got).double().square().mean())
