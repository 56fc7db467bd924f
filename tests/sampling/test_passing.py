"""Laws of spans in a run: where all is computed nothing changes, and nothing is left behind.

Faults these laws must catch: a span kept under the other condition's name; rows that go back to the
wrong samples; a result kept of a step that took it again; modules or hooks left swapped; arguments
gathered twice or not at all; a trigger that looks at the whole batch.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from allot.errors import ModelError
from allot.sampling.moment import Moment, Request
from allot.sampling.probes import ADDED, IN, Probe
from allot.sampling.sampler import Sampler, Way
from allot.sampling.spans import HOLD, NOTHING, RESIDUAL, Span, Taylor
from allot.sampling.triggers import Changed, Notes
from tests.sampling import nets
from tests.small import hooks, identities

FIRST = Probe(module="blocks.0", role=ADDED)
INSIDE = Probe(module="blocks.0.attn", role=IN)
DOWN = Probe(module="down.0.conv")


class ByRow:
    """A trigger for tests: takes the result again where a sample's row of a table says so."""

    probe = None
    remembers = None

    def __init__(self, table: Tensor) -> None:
        self.table = table  # [steps, n] bool

    def decided(self, seen: Tensor, notes: Notes | None, moment: Moment) -> Tensor:
        return self.table[moment.step]

    def noted(self, seen: Tensor, notes: Notes | None, again: Tensor | None) -> Notes:
        raise AssertionError("it takes no notes")


def deep(steps: int = 6) -> tuple[Sampler, Span, Probe]:
    return nets.levels(steps), nets.DEEP, DOWN


def middle(steps: int = 6) -> tuple[Sampler, Span, Probe]:
    return nets.blocks(steps), nets.BLOCKS, FIRST


NETS = pytest.mark.parametrize("make", (deep, middle))


@NETS
def test_a_threshold_of_zero_is_the_original_bit_for_bit(make) -> None:  # type: ignore[no-untyped-def]
    original, span, probe = make()
    s = nets.seeds(5, original)
    for summed in (False, True):
        t = Changed(probe=probe, threshold=0.0, summed=summed)
        way = Way(reuse={span: HOLD}, when={span: t})
        plan = nets.planned(original, dict.fromkeys(range(6), way))
        assert torch.equal(nets.sample(original, s), nets.sample(plan, s))


def test_a_probe_inside_the_span_changes_nothing_either() -> None:
    original = nets.blocks()
    s = nets.seeds(4, original)
    t = Changed(probe=INSIDE, threshold=0.0, summed=True)
    way = Way(reuse={nets.ALL: HOLD}, when={nets.ALL: t})
    plan = nets.planned(original, dict.fromkeys(range(6), way))
    assert torch.equal(nets.sample(original, s), nets.sample(plan, s))


@NETS
def test_a_result_taken_at_its_own_step_is_the_full_one(make) -> None:  # type: ignore[no-untyped-def]
    """Age 0: what is kept at a step and taken again on the same input gives the same output."""
    original, span, _ = make()
    s = nets.seeds(3, original)
    request = Request()
    moment = Moment(step=2, level=original.grid.level(2), request=request)
    later = nets.planned(original, {2: Way(), 3: Way(reuse={span: HOLD})})
    with torch.no_grad():
        full = original.evaluate(s.noise, moment, s.conditions)
        with later.spanned(Way(), moment):
            kept = later.evaluate(s.noise, moment, s.conditions)
        with later.spanned(Way(reuse={span: HOLD}), moment):
            again = later.evaluate(s.noise, moment, s.conditions)
    assert torch.equal(full, kept)
    torch.testing.assert_close(full, again, rtol=1e-12, atol=1e-12)


@NETS
@pytest.mark.parametrize("predictor", (HOLD, Taylor(order=1), Taylor(order=2)))
def test_a_sample_alone_is_its_row_in_a_batch(make, predictor) -> None:  # type: ignore[no-untyped-def]
    original, span, probe = make(8)
    s = nets.seeds(8, original)
    threshold = _between(original, span, probe, s)
    way = Way(
        reuse={span: predictor}, when={span: Changed(probe=probe, threshold=threshold, summed=True)}
    )
    plan = nets.planned(original, dict.fromkeys(range(8), way))
    whole = nets.sample(plan, s)
    assert not torch.equal(whole, nets.sample(original, s))
    alone = torch.cat([nets.sample(plan, one) for one in s.batches(1)])
    torch.testing.assert_close(whole, alone, rtol=1e-9, atol=1e-9)


class Noting:
    """Another trigger's decisions, listened to."""

    def __init__(self, of: Changed) -> None:
        self.of, self.probe, self.remembers = of, of.probe, of.remembers
        self.said: list[Tensor] = []

    def decided(self, seen: Tensor, notes: Notes | None, moment: Moment) -> Tensor:
        self.said.append(self.of.decided(seen, notes, moment))
        return self.said[-1]

    def noted(self, seen: Tensor, notes: Notes | None, again: Tensor | None) -> Notes:
        return self.of.noted(seen, notes, again)


def _between(original: Sampler, span: Span, probe: Probe, s: nets.Seeds) -> float:
    """A threshold at which samples of a batch decide differently at some step."""
    for threshold in torch.linspace(0.05, 3, 60).tolist():
        noting = Noting(Changed(probe=probe, threshold=threshold, summed=True))
        way = Way(reuse={span: HOLD}, when={span: noting})
        nets.sample(nets.planned(original, dict.fromkeys(range(len(original.grid)), way)), s)
        if any(0 < int(d.sum()) < len(d) for d in noting.said):
            return float(threshold)
    raise AssertionError("all samples decide alike at every threshold")


@NETS
@pytest.mark.parametrize("predictor", (HOLD, Taylor(order=1)))
def test_rows_decided_apart_are_as_if_each_had_a_plan_of_its_own(make, predictor) -> None:  # type: ignore[no-untyped-def]
    original, span, _ = make(6)
    n, g = 6, torch.Generator().manual_seed(1)
    s = nets.seeds(n, original)
    table = torch.rand(6, n, generator=g) < 0.6
    table[0] = False
    by_row = Way(reuse={span: predictor}, when={span: ByRow(table)})
    whole = nets.sample(nets.planned(original, dict.fromkeys(range(6), by_row)), s)
    for j, one in enumerate(s.batches(1)):
        steps = table[:, j].nonzero()[:, 0].tolist()
        plan = nets.planned(original, dict.fromkeys(steps, Way(reuse={span: predictor})))
        torch.testing.assert_close(whole[j : j + 1], nets.sample(plan, one), rtol=1e-9, atol=1e-9)


def test_what_is_decided_without_an_earlier_result_is_computed() -> None:
    original = nets.blocks()
    s = nets.seeds(3, original)
    always = ByRow(torch.ones(6, 3, dtype=torch.bool))
    decided = Way(reuse={nets.BLOCKS: HOLD}, when={nets.BLOCKS: always})
    plan = nets.planned(original, dict.fromkeys(range(6), decided))
    fixed = nets.planned(original, dict.fromkeys(range(1, 6), Way(reuse={nets.BLOCKS: HOLD})))
    assert torch.equal(nets.sample(plan, s), nets.sample(fixed, s))


def test_conditions_of_guidance_have_memories_of_their_own() -> None:
    guided = nets.blocks(guidance=3.0)
    s = nets.seeds(4, guided)
    ways = dict.fromkeys((1, 3, 4), Way(reuse={nets.BLOCKS: HOLD}))
    request = Request()
    with torch.no_grad():
        nets.planned(guided, ways).run(s.noise, s.conditions, request)
    kept = [
        request.kept["span", "middle", name].entries[-1].values[0] for name in ("with", "without")
    ]
    assert not torch.allclose(kept[0], kept[1])
    # with both conditions the same, guidance of any scale is none
    same = {"label": torch.full((4,), 2)}
    plain = Sampler(denoiser=guided.denoiser, grid=guided.grid)
    with torch.no_grad():
        one = nets.planned(guided, ways)(s.noise, **same)
        other = nets.planned(plain, ways)(s.noise, **same)
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@NETS
def test_two_runs_are_equal_and_leave_nothing(make) -> None:  # type: ignore[no-untyped-def]
    original, span, probe = make()
    s = nets.seeds(4, original)
    t = Changed(probe=probe, threshold=0.4, summed=True)
    plan = nets.planned(original, {i: Way(reuse={span: HOLD}, when={span: t}) for i in range(1, 6)})
    before = identities(plan)
    first, second = nets.sample(plan, s), nets.sample(plan, s)
    assert torch.equal(first, second)
    assert before == identities(plan) and hooks(plan) == 0


@NETS
@pytest.mark.parametrize("role", ("in", "out"))
def test_an_interrupted_run_leaves_nothing(make, role: str) -> None:  # type: ignore[no-untyped-def]
    original, span, probe = make()
    s = nets.seeds(4, original)
    t = Changed(probe=probe, threshold=0.4, summed=True)
    plan = nets.planned(original, {i: Way(reuse={span: HOLD}, when={span: t}) for i in range(1, 6)})
    whole, before = nets.sample(plan, s), identities(plan)
    calls = 0

    def stop(m, args, *out) -> None:  # type: ignore[no-untyped-def]
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt

    inside = plan.denoiser.get_submodule(span.modules[0])
    add = inside.register_forward_pre_hook if role == "in" else inside.register_forward_hook
    handle = add(stop)
    always = nets.planned(original, {i: Way(reuse={span: HOLD}) for i in (2,)})
    with pytest.raises(KeyboardInterrupt):
        nets.sample(always, s)
    handle.remove()
    assert before == identities(plan) and hooks(plan) == 0
    assert torch.equal(whole, nets.sample(plan, s))


@NETS
def test_taking_again_what_no_step_computed_is_refused(make) -> None:  # type: ignore[no-untyped-def]
    original, span, _ = make()
    plan = nets.planned(original, {0: Way(reuse={span: HOLD})})
    with pytest.raises(ModelError, match=f"step 0 reuses {span.name}, which no step before"):
        nets.sample(plan, nets.seeds(2, original))


def test_a_probe_that_comes_too_late_is_refused() -> None:
    original = nets.blocks()
    t = Changed(probe=Probe(module="head"), threshold=0.1)
    way = Way(reuse={nets.BLOCKS: HOLD}, when={nets.BLOCKS: t})
    with pytest.raises(ModelError, match="head is not computed before the span"):
        nets.sample(nets.planned(original, {1: way}), nets.seeds(2, original))


def test_a_span_inside_one_decided_by_sample_is_refused() -> None:
    original = nets.blocks()
    t = Changed(probe=FIRST, threshold=0.1)
    way = Way(reuse={nets.BLOCKS: HOLD, nets.ATTENTION[1]: HOLD}, when={nets.BLOCKS: t})
    with pytest.raises(ModelError, match="attn 1 lies inside middle"):
        nets.sample(nets.planned(original, {1: way}), nets.seeds(2, original))


def test_a_residual_of_several_tensors_is_refused() -> None:
    original = nets.levels()
    span = Span(name="down", modules=("down.1",), keeps=RESIDUAL)
    with pytest.raises(ModelError, match="3 tensors leave it"):
        nets.sample(nets.planned(original, {1: Way(reuse={span: HOLD})}), nets.seeds(2, original))


def test_a_span_that_several_tensors_leave_is_held_whole() -> None:
    original = nets.levels()
    span = Span(name="down", modules=("down.1",))
    s = nets.seeds(3, original)
    request = Request()
    moment = Moment(step=2, level=original.grid.level(2), request=request)
    later = nets.planned(original, {3: Way(reuse={span: HOLD})})
    with torch.no_grad():
        with later.spanned(Way(), moment):
            kept = later.evaluate(s.noise, moment, s.conditions)
        with later.spanned(Way(reuse={span: HOLD}), moment):
            assert torch.equal(kept, later.evaluate(s.noise, moment, s.conditions))


def test_a_residual_span_replaced_by_nothing_is_not_there() -> None:
    original = nets.blocks()
    s = nets.seeds(3, original)
    gone = {Span(name=f"b{i}", modules=(f"blocks.{i}",), keeps=RESIDUAL): NOTHING for i in (1, 2)}
    plan = nets.planned(original, dict.fromkeys(range(6), Way(reuse=gone)))
    network = original.denoiser
    assert isinstance(network, nets.Blocks)
    found = nets.sample(plan, s)
    network.blocks = torch.nn.ModuleList([network.blocks[0], network.blocks[3]])
    torch.testing.assert_close(found, nets.sample(original, s), rtol=1e-12, atol=1e-12)


def test_a_shared_argument_is_not_cut_into_rows() -> None:
    class Shared(nets.Blocks):
        """Its blocks are told of six positions, and of as many samples."""

        def forward(self, x: Tensor, time: Tensor, *, label: Tensor) -> Tensor:
            emb = self.time(nets.waves(time, x)) + self.classes(label)
            x = self.embed(x)
            for block in self.blocks:
                x = block(x, emb=emb, places=torch.arange(6.0)[:, None])
            out: Tensor = self.head(x)
            return out

    class Placed(nets.Block):
        def forward(self, x: Tensor, *, emb: Tensor, places: Tensor) -> Tensor:
            assert len(places) == 6
            return super().forward(x + places.to(x.dtype), emb=emb)

    network = nets.seeded(Shared)
    assert isinstance(network, Shared)
    for block in network.blocks:
        block.__class__ = Placed
    original = Sampler(denoiser=network, grid=nets.grid(4))
    span = Span(name="m", modules=("blocks.1", "blocks.2"), keeps=RESIDUAL, shared=("places",))
    table = torch.zeros(4, 6, dtype=torch.bool)
    table[2, :4] = True
    way = Way(reuse={span: HOLD}, when={span: ByRow(table)})
    s = nets.seeds(6, nets.blocks())
    whole = nets.sample(nets.planned(original, {2: way}), s)
    torch.testing.assert_close(whole[4:], nets.sample(original, s)[4:], rtol=1e-9, atol=1e-9)
