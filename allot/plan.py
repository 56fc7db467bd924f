"""Plan: (site, phase) -> option, bound to one network and its weights; small enough to read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from allot.errors import PlanError
from allot.option import Option
from allot.part import load as load_part

VERSION = 1
PHASE = "all"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What was decided, as data.

    options: site name -> option (of the only phase, "all", until a family has steps).
    recovery: name and settings of what repairs the planned model.  graph, weights: digests of
    the original it was made for.  overlays: digests of what recovery made of the options
    together, where that is stored.
    """

    graph: str
    weights: str
    options: Mapping[str, Option]
    recovery: str = ""
    rewrites: tuple[str, ...] = field(default=())
    overlays: tuple[str, ...] = field(default=())

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.dump(), sort_keys=True).encode()).hexdigest()[:16]

    def dump(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "graph": self.graph,
            "weights": self.weights,
            "recovery": self.recovery,
            "rewrites": list(self.rewrites),
            "options": {k: {PHASE: o.dump()} for k, o in sorted(self.options.items())},
            # only where there are some, so that all other plans keep the digest they always had
            **({"overlays": list(self.overlays)} if self.overlays else {}),
        }

    def check(self, *, graph: str, weights: str) -> None:
        """Raises PlanError unless the plan was made for this network with these weights."""
        if self.graph != graph:
            raise PlanError(f"the plan is for another network: {self.graph}, this one is {graph}")
        if self.weights != weights:
            raise PlanError(
                f"the plan is for other weights of this network: {self.weights}, these are "
                f"{weights}; search again or load the weights it was made for"
            )


def load(data: Any) -> Plan:
    """The plan that `dump` wrote; raises PlanError for another version or damaged data."""
    if not isinstance(data, dict) or data.get("version") != VERSION:
        raise PlanError(f"not a plan of version {VERSION}")
    try:
        options = {k: load_part(v[PHASE]) for k, v in data["options"].items()}
        if not all(isinstance(o, Option) for o in options.values()):
            raise PlanError("the plan is damaged: it names something that is no option")
        return Plan(
            graph=data["graph"],
            weights=data["weights"],
            options=options,
            recovery=data["recovery"],
            rewrites=tuple(data["rewrites"]),
            overlays=tuple(data.get("overlays", ())),
        )
    except (KeyError, TypeError, AttributeError) as e:
        raise PlanError(f"the plan is damaged: {e!r}") from e


def weights_digest(model: nn.Module) -> str:
    """Hash of every parameter and buffer of a model, by name."""
    h = hashlib.sha256()
    for name, x in sorted(model.state_dict().items()):
        h.update(name.encode())
        h.update(x.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return h.hexdigest()[:16]
