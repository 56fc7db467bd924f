"""Language models: a prompt and a token of a file in few bits, against float in ONNX Runtime.

Each form is a workload, a plan and a runtime: for tokens one by one, weights in groups of 128 and
8-bit ranges of the same groups, found at run time; for prompts, weights of whole channels and a
range per token. The head is quantized with all other linears, the embedding stays in float.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from allot.deploy import deploy
from allot.onnx_graph import to_onnx
from allot.runtimes import OnnxRuntime, OpenVino
from allot.site import Graph
from allot.target import Arrays, Workload
from allot.task import Inputs
from allot.timing import Ratio, compare, ratio
from allot.trace import trace
from benchmarks.figures import Figure, at_most
from benchmarks.runtime import llama
from benchmarks.search.languages import token_kl

# least speed over float in ONNX Runtime; most divergence of a file from its simulation, in nats
BARS = {"decode": 2.7, "prefill": 2.5}
PARITY = 1e-3
PAST, PROMPT = 128, 128
ROUNDS, FEW = 41, 15
LAYERS, FEW_LAYERS = 12, 4
RUNTIMES = (OnnxRuntime(), OpenVino())
ONE = Workload(batch=1)


@dataclass(frozen=True, kw_only=True)
class Form:
    """bits: as they are asked for.  judged: whether a bar is set for it."""

    workload: str
    bits: str
    judged: bool = True


FORMS = (
    Form(workload="decode", bits="W4A8g128"),
    Form(workload="prefill", bits="W8A8token"),
    Form(workload="decode", bits="W8A8g128", judged=False),
    Form(workload="decode", bits="W2A8g128", judged=False),
    Form(workload="prefill", bits="W4A8g128", judged=False),
)


def run(quick: bool, seed: int) -> dict[str, Figure]:
    """Speed and parity of every form in both runtimes; a quick run takes those that are judged, on
    a third of the layers."""
    model = llama.Prompt(llama.build(layers=FEW_LAYERS if quick else LAYERS, seed=seed))
    graph = trace(model, lambda m, x: m(x), tokens(2, 8, seed))
    found: dict[str, Figure] = {}
    rounds = FEW if quick else ROUNDS
    for workload in BARS:
        forms = [f for f in FORMS if f.workload == workload and (f.judged or not quick)]
        found |= _measured(workload, forms, model, graph, rounds=rounds, seed=seed)
    return found


def tokens(n: int, t: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(llama.VOCABULARY, (n, t), generator=generator)


def inputs(workload: str, layers: int, *, batch: int, seed: int) -> dict[str, torch.Tensor]:
    """What a call of a workload is given."""
    if workload == "prefill":
        return {"tokens": tokens(batch, PROMPT, seed)}
    generator = torch.Generator().manual_seed(seed)
    size = (batch, layers, llama.HEADS, PAST, llama.WIDTH // llama.HEADS)
    past = {k: torch.randn(size, generator=generator) for k in ("keys", "values")}
    return {"tokens": tokens(batch, 1, seed), **past}


def _measured(
    workload: str, forms: list[Form], model: nn.Module, graph: Graph, *, rounds: int, seed: int
) -> dict[str, Figure]:
    """Figures of forms of one workload, timed in turn beside the float file."""
    layers = len(model.get_submodule("model.model.layers"))  # type: ignore[arg-type]
    given = inputs(workload, layers, batch=1, seed=seed)
    arrays: Arrays = {k: v.numpy() for k, v in given.items()}
    example = inputs(workload, layers, batch=2, seed=seed)
    plain = _runnable(workload, deploy(model, graph))
    sessions = {"float": OnnxRuntime().open(_file(workload, plain, example), workload=ONE)}
    found: dict[str, Figure] = {}
    for form in forms:
        network = _runnable(workload, deploy(llama.planned(model, graph, form.bits), graph))
        onnx = _file(workload, network, example)
        for target in RUNTIMES:
            name = f"{workload} {form.bits}: {target.name}"
            sessions[name] = target.open(onnx, workload=ONE)
            got = torch.from_numpy(sessions[name].run(arrays)["output"])
            found[f"{name}, divergence from the simulation"] = _parity(network, given, got, seed)
    times = compare(sessions, arrays, rounds=rounds)
    judged = {f"{workload} {f.bits}": f.judged for f in forms}
    for name in (n for n in sessions if n != "float"):
        speed = ratio(times["float"], times[name], seed=seed)
        bar = BARS[workload] if judged[name.partition(":")[0]] else 0.0
        found[f"{name}, speed"] = _speed(speed, bar, seed, ms=1e3 * times[name].median_s)
    return found


def _runnable(workload: str, deployed: nn.Module) -> nn.Module:
    """A deployed network of prompts, or its parts that make one step."""
    if workload == "prefill":
        return deployed
    return llama.Step(deployed.get_submodule("model")).eval()


def _file(workload: str, network: nn.Module, example: Mapping[str, torch.Tensor]) -> bytes:
    made = ("output",) if workload == "prefill" else ("output", "new_keys", "new_values")
    given: Inputs = dict(example)
    return to_onnx(network, given, input_names=list(example), output_names=made)


def _parity(
    network: nn.Module, given: Mapping[str, torch.Tensor], got: torch.Tensor, seed: int
) -> Figure:
    """Divergence of what a runtime computed, per token in nats."""
    with torch.no_grad():
        wanted = network(**given)
    wanted = wanted if isinstance(wanted, torch.Tensor) else wanted[0]
    return at_most(float(token_kl(wanted, got).mean()), PARITY, n=got.shape[1], seeds=[seed])


def _speed(speed: Ratio, bar: float, seed: int, *, ms: float) -> Figure:
    """Holds where the bar lies below the upper end of the interval."""
    return {
        "value": speed.value,
        "bar": bar,
        "holds": bool(speed.high >= bar and np.isfinite(speed.value)),
        "n": speed.n,
        "interval": [speed.low, speed.high],
        "seeds": [seed],
        "ms": ms,
    }
