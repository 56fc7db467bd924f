"""Verify: does the exported file compute what was measured, and if not, from which layer on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from allot.deploy import named_layers
from allot.errors import ParityError
from allot.onnx_graph import tap
from allot.packed import layer_tensors
from allot.target import Target, Tolerance, Workload
from allot.task import Inputs, call

LAYER = 0.05


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How far the runtime's outputs lie from the simulation's on the same n samples.

    max_abs: largest difference of an output.  mean_kl: mean divergence of the runtime from the
    simulation [nats].  argmax_agreement: share of samples, or of their tokens, with the same
    largest output.
    """

    max_abs: float
    mean_kl: float
    argmax_agreement: float
    n: int
    most_nat: float
    least_agreement: float

    @property
    def holds(self) -> bool:
        near = self.mean_kl <= self.most_nat and self.argmax_agreement >= self.least_agreement
        return bool(np.isfinite(self.max_abs)) and near


def parity(
    simulated: Tensor,
    run: Tensor,
    *,
    divergence: Callable[[Tensor, Tensor], Tensor],
    within: Tolerance = Tolerance(),  # noqa: B008 - frozen
) -> Parity:
    """Outputs of the runtime against those of the simulation, both [n, ...].

    within: of the target.  A certificate does not hang on it: it is stated of the file's own
    outputs, rounding in the runtime included.  Raises ParityError where their shapes differ.
    """
    if simulated.shape != run.shape:
        raise ParityError(
            f"the file gives outputs {list(run.shape)}, the simulation {list(simulated.shape)}"
        )
    same = (_answers(simulated) == _answers(run)).double()
    return Parity(
        max_abs=float((simulated.double() - run.double()).abs().max()),
        mean_kl=float(divergence(simulated, run).double().mean()),
        argmax_agreement=float(same.mean()),
        n=len(run),
        most_nat=within.mean_nat,
        least_agreement=within.agreement,
    )


def _answers(x: Tensor) -> Tensor:
    """Which output of a sample is the largest; of [n, t, c], which of a token's."""
    return (x if x.dim() == 3 else x.flatten(1)).argmax(-1)


def require(found: Parity, *, where: str = "", why: str = "") -> Parity:
    """The parity if it holds; raises ParityError that says what differs.

    where: first bad layer.  why: the likely cause (`allot.faults`).
    """
    if found.holds:
        return found
    first = f"; {where} is the first layer whose output differs" if where else ""
    first += f"; {why}" if why else ""
    raise ParityError(
        f"the exported file differs from what was measured on {found.n} samples: "
        f"{found.mean_kl:.2g} nats (at most {found.most_nat:.2g}), the same answer in "
        f"{found.argmax_agreement:.2%} (at least {found.least_agreement:.2%}), "
        f"largest difference {found.max_abs:.3g}{first}"
    )


def layer_outputs(deployed: nn.Module, example: Inputs) -> dict[str, Tensor]:
    """Layer -> its output on the example, in execution order (of a layer used twice: the last)."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            # a copy: the network may add to it in place
            found[name] = output.detach().clone()

        return hook

    layers = named_layers(deployed)
    handles = [m.register_forward_hook(keep(n)) for n, m in layers.items()]
    try:
        with torch.no_grad():
            call(deployed, example)
    finally:
        for h in handles:
            h.remove()
    return found


def layer_differences(
    onnx: bytes, deployed: nn.Module, example: Inputs, *, target: Target, workload: Workload
) -> dict[str, float]:
    """Layer -> relative difference ||runtime - simulation|| / ||simulation||, in execution order.

    The file is run with every layer's output as an output of its own, which keeps the runtime
    from fusing across them: a fault of a fusion alone does not show here.  A layer of another
    shape differs without end.
    """
    expected = layer_outputs(deployed, example)
    tapped, names = tap(onnx, layer_tensors(deployed))
    inputs = {"input": example} if isinstance(example, Tensor) else example
    arrays = {k: v.numpy() for k, v in inputs.items()}
    got = target.open(tapped, workload=workload).run(arrays)
    found = {}
    for layer, output in expected.items():
        if layer in names:
            a, b = output.double(), torch.from_numpy(np.asarray(got[names[layer]])).double()
            same = a.shape == b.shape
            found[layer] = float((a - b).norm() / a.norm().clamp(min=1e-12)) if same else math.inf
    return found


def first_difference(differences: dict[str, float], *, most: float = LAYER) -> str:
    """The first layer whose output differs by more than `most` (relative), "" where none does."""
    return next((name for name, d in differences.items() if not d <= most), "")
