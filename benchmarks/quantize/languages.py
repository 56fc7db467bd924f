"""Language models in 3-bit weights, groups of 32: what each rounding adds to the loss."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from allot.num.rounding import Gptq, Nearest
from allot.recipes.bits import Bits
from allot.recipes.offered import integers
from allot.reconstruct.walk import Discrepancy
from allot.recover import Recovery
from allot.scheme import Scheme, quantized
from allot.sweep import outputs
from allot.task import Task
from benchmarks.figures import Figure, at_most, mean_interval
from benchmarks.search.languages import task as language
from benchmarks.search.languages import texts, windows
from benchmarks.search.weights import cache
from benchmarks.tasks import zoo

NETWORKS = ("llama_byte_shakespeare", "llama_byte_python")
# windows of 64 bytes; the first of the text held back chose the walk's settings
CALIBRATE, CHOSEN, JUDGED = 512, 512, 512
W3 = Bits(weight=3, activation=16, group=32)
NOTHING = Recovery(matched=False)
IN_ORDER = Recovery(samples=CALIBRATE, matched=False, in_order=True)
WALKED = replace(IN_ORDER, learning=Discrepancy(samples=CALIBRATE))
SHORT = replace(
    IN_ORDER,
    learning=Discrepancy(samples=CALIBRATE, steps=320, rate=0.02, strength=0.1),
)


def run(quick: bool, seed: int) -> dict[str, Figure]:
    """Excess loss of GPTQ over nearest rounding's, of DiscQuant over GPTQ's."""
    figures: dict[str, Figure] = {}
    for name in NETWORKS[:1] if quick else NETWORKS:
        task = judged(name)
        before = losses(task, None, seed=seed)
        found = {k: losses(task, s, seed=seed) - before for k, s in schemes(quick).items()}
        what = f"{name} W3 in groups of 32"
        figures |= {
            f"{what}: GPTQ's excess loss over nearest rounding's": over(
                found, "gptq", "nearest", bar=0.7, seed=seed
            ),
            f"{what}: DiscQuant's excess loss over GPTQ's": over(
                found, "discquant", "gptq", bar=1.0, seed=seed
            ),
        }
    return figures


def schemes(quick: bool) -> dict[str, Scheme]:
    return {
        "nearest": Scheme(weight=integers(W3, rounding=Nearest()), recovery=NOTHING),
        "gptq": Scheme(weight=integers(W3, rounding=Gptq()), recovery=IN_ORDER),
        "discquant": Scheme(
            weight=integers(W3, rounding=Gptq()), recovery=SHORT if quick else WALKED
        ),
    }


def judged(name: str) -> Task:
    """A network with the same calibration data for every scheme, judged on other text."""
    seen, held = texts(zoo() / "text", name)
    text = windows(held, CHOSEN + JUDGED, seed=1)
    return replace(
        language(name, cache()),
        calibrate=windows(seen, CALIBRATE, seed=0),
        certify=text.subset(slice(CHOSEN, None)),
    )


def over(
    found: dict[str, NDArray[np.float64]], one: str, other: str, *, bar: float, seed: int
) -> Figure:
    """Mean excess loss of one scheme in units of another's; interval: of the first mean."""
    base = float(found[other].mean())
    low, high = mean_interval(found[one])
    return at_most(
        float(found[one].mean()) / base, bar, n=len(found[one]), seeds=[seed],
        interval=(low / base, high / base), **{k: float(found[k].mean()) for k in (one, other)},
    )  # fmt: skip


def losses(task: Task, scheme: Scheme | None, *, seed: int) -> NDArray[np.float64]:
    """Mean cross-entropy of the next byte per window [n], of the original without a scheme."""
    model = task.model
    if scheme is not None:
        made = quantized(task, scheme, seed=seed)
        task, model = replace(task, forward=made.task.forward), made.network()
    logits = outputs(task, model, task.certify, batch=64)
    assert task.certify.labels is not None
    each = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), task.certify.labels.flatten(), reduction="none"
    )
    found: NDArray[np.float64] = each.view(len(task.certify), -1).mean(1).double().numpy()
    return found
