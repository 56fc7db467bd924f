"""Laws of features: they are what the original's own run computes, however the sampler is planned.

Faults these laws must catch: the plan's ways let in; a step noted twice under guidance; a residual
kept as an output; memory of one run in the next.
"""

from __future__ import annotations

import torch

from allot.sampling.features import Seeds, features
from allot.sampling.probes import IN, Probe
from allot.sampling.sampler import Way
from allot.sampling.spans import HOLD, OUTPUT, Span
from tests.sampling import nets
from tests.small import hooks, identities


def test_features_are_those_of_the_whole_run() -> None:
    original = nets.blocks(guidance=2.0)
    s = nets.seeds(3, original)
    span = Span(name="ff", modules=("blocks.2.ff",), keeps=OUTPUT)
    probe = Probe(module="blocks.2.ff", role=IN)
    noted: list[torch.Tensor] = []
    inner = original.denoiser.get_submodule("blocks.2.ff")
    handle = inner.register_forward_hook(lambda m, args, out: noted.append(out))
    whole = nets.sample(original, s)
    handle.remove()
    plan = nets.planned(original, {2: Way(reuse={nets.BLOCKS: HOLD})})
    before = identities(plan)
    seen = features(plan, s, spans=[span], probes=[probe])
    assert before == identities(plan) and hooks(plan) == 0
    assert list(seen.outputs) == ["with", "without"] and len(seen.inputs) == 6
    for k, name in enumerate(seen.outputs):
        entries = seen.spans[span, name]
        assert [e.step for e in entries] == list(range(6))
        for i, e in enumerate(entries):
            assert torch.equal(e.values[0], noted[2 * i + k])
            assert torch.equal(inner(seen.probes[probe, name][i]), e.values[0])
    # the last output leads to the samples
    grid, scale = original.grid, 2.0
    out = {k: v[-1] for k, v in seen.outputs.items()}
    guided = out["without"] + scale * (out["with"] - out["without"])
    last = grid.read(seen.inputs[-1], guided, grid.level(5))
    assert torch.equal(grid.move(seen.inputs[-1], [last], grid.level(6), last=True), whole)


def test_residuals_are_what_a_span_adds() -> None:
    original = nets.blocks()
    s = nets.seeds(3, original)
    probes = [Probe(module="blocks.1", role=IN), Probe(module="blocks.2")]
    seen = features(original, s, spans=[nets.BLOCKS], probes=probes)
    for i, e in enumerate(seen.spans[nets.BLOCKS, ""]):
        entered, left = (seen.probes[p, ""][i] for p in probes)
        assert torch.equal(e.values[0], left - entered)


def test_batches_cover_all_seeds_in_order() -> None:
    s = nets.seeds(7, nets.blocks())
    parts = list(s.batches(3))
    assert [len(p) for p in parts] == [3, 3, 1]
    assert torch.equal(torch.cat([p.noise for p in parts]), s.noise)
    assert torch.equal(torch.cat([p.conditions["label"] for p in parts]), s.conditions["label"])
    assert isinstance(parts[0], Seeds)
