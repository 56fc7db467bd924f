"""Language models in 3-bit weights, groups of 32: what each rounding adds to the loss."""

from __future__ import annotations

import numpy as np
import torch

from allot.num.rounding import Gptq, Nearest
from allot.recipes.bits import Bits
from allot.recipes.offered import integers
from allot.recover import Recovery
from allot.scheme import Scheme, quantized
from allot.sweep import outputs
from allot.task import Data, Task
from benchmarks.figures import Figure, at_most, mean_interval
from benchmarks.search.languages import task as language
from benchmarks.search.weights import cache

NETWORKS = ("llama_byte_shakespeare", "llama_byte_python")
W3 = Bits(weight=3, activation=16, group=32)
IN_ORDER = Recovery(samples=64, matched=False, in_order=True)
NOTHING = Recovery(matched=False)


def run(quick: bool, seed: int) -> dict[str, Figure]:
    """Excess loss of GPTQ over nearest rounding's."""
    figures: dict[str, Figure] = {}
    for name in NETWORKS[:1] if quick else NETWORKS:
        task = language(name, cache())
        before = losses(task, None)
        excess = {k: losses(task, s) - before for k, s in SCHEMES.items()}
        nearest = excess["nearest"]
        ratio = float(excess["gptq"].mean() / nearest.mean())
        figures[f"{name} W3 in groups of 32: GPTQ's excess loss over nearest rounding's"] = at_most(
            ratio, 0.7, n=len(nearest), seeds=[seed],
            interval=tuple(v / float(nearest.mean()) for v in mean_interval(excess["gptq"])),
            nearest=float(nearest.mean()), gptq=float(excess["gptq"].mean()),
        )  # fmt: skip
    return figures


SCHEMES = {
    "nearest": Scheme(weight=integers(W3, rounding=Nearest()), recovery=NOTHING),
    "gptq": Scheme(weight=integers(W3, rounding=Gptq()), recovery=IN_ORDER),
}


def losses(task: Task, scheme: Scheme | None) -> np.ndarray:
    """Mean cross-entropy of the next byte per window [n], of the original without a scheme."""
    data: Data = task.certify
    if scheme is None:
        logits = outputs(task, task.model, data, batch=48)
    else:
        made = quantized(task, scheme)
        logits = outputs(made.task, made.network(), data, batch=48)
    assert data.labels is not None
    each = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), data.labels.flatten(), reduction="none"
    )
    found: np.ndarray = each.view(len(data), -1).mean(1).double().numpy()
    return found
