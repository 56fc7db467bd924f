"""Probes: a tensor of the network that tells how much has changed since an earlier step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from allot.errors import ModelError
from allot.part import Part
from allot.sampling.nested import first_input, tensors

IN, OUT, ADDED = "in", "out", "added"


@dataclass(frozen=True, kw_only=True)
class Probe(Part):
    """A module of the denoiser, and what of it is looked at: what enters it (IN), what leaves it
    (OUT), or what it adds (ADDED); the first tensor where there are several."""

    module: str
    role: str = OUT


class Watch:
    """The latest value of every probe; a module may be run only so far."""

    def __init__(self) -> None:
        self.seen: dict[Probe, Tensor] = {}
        self.until: Probe | None = None

    def saw(self, probe: Probe, value: Tensor) -> None:
        self.seen[probe] = value.detach()
        if self.until == probe:
            raise Reached

    def value(self, probe: Probe, run: Callable[[], Any]) -> Tensor:
        """The probe's value; where there is none yet, something is run just so far.

        Raises ModelError where that does not lead to it.
        """
        if probe not in self.seen:
            self.until = probe
            try:
                run()
            except Reached:
                pass
            finally:
                self.until = None
        if probe not in self.seen:
            raise ModelError(
                f"{probe.module} is not computed before the span that it decides on; probe a "
                "module before the span or inside its first module"
            )
        return self.seen[probe]


class Reached(Exception):
    """A module was run as far as a probe."""


@contextmanager
def watched(network: nn.Module, probes: Sequence[Probe]) -> Iterator[Watch]:
    """Notes the probes' values while the network is evaluated."""
    watch = Watch()
    with ExitStack() as stack:
        for probe in dict.fromkeys(probes):
            module = network.get_submodule(probe.module)

            def enter(m: nn.Module, args: Any, named: Any, probe: Probe = probe) -> None:
                watch.saw(probe, first_input(args, named))

            def leave(m: nn.Module, args: Any, named: Any, out: Any, probe: Probe = probe) -> None:
                added = first_input(args, named) if probe.role == ADDED else 0
                watch.saw(probe, tensors(out)[0] - added)

            if probe.role == IN:
                handle = module.register_forward_pre_hook(enter, with_kwargs=True)
            else:
                handle = module.register_forward_hook(leave, with_kwargs=True)
            stack.callback(handle.remove)
        yield watch


def relative_change(now: Tensor, before: Tensor) -> Tensor:
    """Mean magnitude of the change over that of what was, per sample: [n, ...] -> [n] float64."""
    change = (now - before).flatten(1).abs().double().mean(1)
    return change / before.flatten(1).abs().double().mean(1).clamp(min=torch.finfo().tiny)
