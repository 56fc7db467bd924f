"""Laws of overlays: what is read is what was made, to the bit; damage is told and made again.

Faults these laws must catch: a key that forgets an option, the recovery, the weights or the data;
a beginning that is taken although something in it differs, or made again although it is there;
a file cut short or changed that is taken; a file half written; a folder written that was to be
read only; learning that is done again although its result lies there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from allot.measure import Meter
from allot.memo import Memo
from allot.num.formats import Float16, Format, Int
from allot.num.rounding import Nearest
from allot.option import Option
from allot.options.formatted import Formatted
from allot.options.precision import Activation, Weight
from allot.options.width import Keep
from allot.overlays import Overlays
from allot.pieces import pieces
from allot.plan import Plan
from allot.plan import load as load_plan
from allot.reconstruct.learning import Learning, Planned
from allot.reconstruct.setting import Reconstruction
from allot.recover import STRONG, Recovery, moments, recovered
from allot.sweep import outputs
from tests import small, toys

NOTHING: Mapping[str, nn.Module] = {}
LEARNED = Recovery(samples=24, in_order=True, learning=Reconstruction(steps=4, batch=8, samples=24))
IN_ORDER = Recovery(samples=24, in_order=True)
GROUPED = Formatted(
    name="W3g3", format=Format(grid=Int(bits=3), group=3, scales=Float16()), rounding=Nearest()
)


def options(k: small.Kit, weight: Option, *, keep: float = 0.0) -> dict[str, Option]:
    """Every weight as given, tensors in 8 bits, perhaps fewer channels."""
    found: dict[str, Option] = {}
    for site in k.graph.sites:
        if site.kind == "weight":
            found[site.name] = weight
        elif site.kind == "activation":
            found[site.name] = Activation(bits=8)
        elif site.kind == "channels" and keep and not site.fixed:
            found[site.name] = Keep(ratio=keep)
    return found


@dataclass
class Made:
    """Stand-ins as recovery makes them; times: how often it did, known: of what it knew."""

    kit: small.Kit
    given: Mapping[str, Option]
    recovery: Recovery
    times: int = 0
    known: tuple[str, ...] = ()

    def __call__(self, known: Mapping[str, nn.Module] = NOTHING) -> dict[str, nn.Module]:
        self.times += 1
        self.known = tuple(known)
        k, first = self.kit, replace(self.recovery, learning=None)
        original = moments(k.task, k.bank.skeleton, k.graph, samples=self.recovery.samples)
        standins = recovered(
            k.bank, k.task, self.given, recovery=first, original=original,
            known=known if self.recovery.learning is None else None,
        )  # fmt: skip
        if not isinstance(self.recovery.learning, Learning):
            return standins
        return self.recovery.learning.learned(
            Planned(
                bank=k.bank, task=k.task, options=self.given, standins={**standins, **known},
                original=original, seed=0, progress=lambda share: None, known=frozenset(known),
            )
        )  # fmt: skip


def overlays(k: small.Kit, folder: Path, **settings: Any) -> Overlays:
    return Overlays(folder, k.bank, k.task.calibrate, **settings)


def output(k: small.Kit, standins: Mapping[str, nn.Module]) -> Tensor:
    with k.bank.trial(standins) as model:
        return outputs(k.task, model, k.task.search, batch=7)


CASES = [
    (toys.chain, Weight(bits=3), 0.0, LEARNED),
    (toys.chain, Weight(bits=4), 0.5, IN_ORDER),
    (toys.residual, Weight(bits=2), 0.0, LEARNED),
    (toys.chain, GROUPED, 0.0, LEARNED),
]


@pytest.mark.parametrize(("make", "weight", "keep", "recovery"), CASES)
def test_what_is_read_computes_what_was_made_to_the_bit(
    make: Any, weight: Option, keep: float, recovery: Recovery, tmp_path: Path
) -> None:
    k = small.kit(make)
    given = options(k, weight, keep=keep)
    maker = Made(k, given, recovery)
    plain = output(k, maker())
    first = overlays(k, tmp_path).get(given, recovery, maker)
    again = overlays(k, tmp_path, frozen=True).get(given, recovery, maker)
    assert maker.times == 2 and again.keys() == first.keys()
    assert torch.equal(plain, output(k, first)) and torch.equal(plain, output(k, again))
    for name, module in first.items():
        a, b = module.state_dict(), again[name].state_dict()
        assert a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)
        assert module.training == again[name].training
    # the file's tensors are its own: nothing of the bank is shared
    weights = {x.data_ptr() for x in k.bank.skeleton.state_dict().values()}
    own = [
        m for m in again.values() for m in m.modules() if m not in set(k.bank.skeleton.modules())
    ]
    assert not weights & {x.data_ptr() for m in own for x in m.parameters(recurse=False)}


def test_one_file_is_written_for_a_piece_and_named_by_its_hash(tmp_path: Path) -> None:
    k = small.kit(toys.residual)
    given = options(k, Weight(bits=3))
    kept = overlays(k, tmp_path)
    assert kept.digest(given, IN_ORDER) == ""
    for _ in range(2):
        kept.get(given, IN_ORDER, Made(k, given, IN_ORDER))
    files = sorted(tmp_path.iterdir())
    keys = kept.keys(given, IN_ORDER)
    assert len(files) == len(keys) == len(pieces(k.graph, IN_ORDER)) > 1
    for file in files:
        key, digest, _ = file.name.split(".")
        assert key in keys and digest == hashlib.sha256(file.read_bytes()).hexdigest()[:32]
    # of the same: the same bytes
    overlays(k, tmp_path / "b").get(given, IN_ORDER, Made(k, given, IN_ORDER))
    again = sorted((tmp_path / "b").iterdir())
    assert [(p.name, p.read_bytes()) for p in again] == [(p.name, p.read_bytes()) for p in files]
    whole = kept.digest(given, IN_ORDER)
    assert whole == overlays(k, tmp_path / "b").digest(given, IN_ORDER) != ""
    files[0].unlink()
    assert kept.digest(given, IN_ORDER) == ""


@pytest.mark.parametrize("recovery", [IN_ORDER, LEARNED])
def test_plans_that_begin_alike_share_what_was_made_of_their_beginning(
    recovery: Recovery, tmp_path: Path
) -> None:
    k = small.kit(toys.residual)
    first = options(k, Weight(bits=3))
    cut = pieces(k.graph, recovery)[1].start
    started = [n for n, event in k.graph.order[: int(cut)] if event == "start"]
    # the same up to the second piece, and other weights from there on
    second = {
        n: o if any(t.module in started for t in k.graph.site(n).touches) else _other(o)
        for n, o in first.items()
    }
    kept = overlays(k, tmp_path)
    kept.get(first, recovery, Made(k, first, recovery))
    alone, shared = Made(k, second, recovery), Made(k, second, recovery)
    wanted = alone()
    found = kept.get(second, recovery, shared)
    assert shared.known and set(shared.known) <= set(started) and not alone.known
    a, b = kept.keys(first, recovery), kept.keys(second, recovery)
    assert a[0] == b[0] and not {*a[1:]} & {*b[1:]}
    assert len(list(tmp_path.iterdir())) == len({*a, *b})
    # and it is what would have been made without
    assert found.keys() == wanted.keys()
    assert all(small.same_state(small.state(m), small.state(found[n])) for n, m in wanted.items())


def _other(option: Option) -> Option:
    return Weight(bits=4) if isinstance(option, Weight) else option


def test_a_meter_learns_a_shared_beginning_once(tmp_path: Path) -> None:
    k = small.kit(toys.residual)
    plans = [options(k, Weight(bits=3)), options(k, Weight(bits=3))]
    last = max(plans[1], key=lambda n: k.graph.order.index((n.rpartition(".")[0], "start")))
    plans[1][last] = Weight(bits=4) if last.endswith("weight") else Activation(bits=6)
    found = []
    for folder in (tmp_path / "both", None):
        losses = []
        for given in plans:
            kept = overlays(k, folder or tmp_path / str(len(found) + len(losses)))
            meter = Meter(k.task, k.bank, k.task.search, memo=Memo(), batch=7, overlays=kept)
            losses.append(meter.loss(given, recovery=LEARNED))
        found.append(losses)
    assert found[0] == found[1] and found[0][0] != found[0][1]
    # of each stage, all pieces of the first plan and those of the second that differ
    count = len(pieces(k.graph, IN_ORDER)) + len(pieces(k.graph, LEARNED))
    assert count < len(list((tmp_path / "both").iterdir())) < 2 * count


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
@pytest.mark.parametrize("frozen", [False, True])
def test_a_damaged_file_is_told_of_and_made_again(
    damage: str, frozen: bool, tmp_path: Path
) -> None:
    k, said = small.kit(), list[str]()
    given = options(k, Weight(bits=3))
    maker = Made(k, given, IN_ORDER)
    wanted = output(k, overlays(k, tmp_path).get(given, IN_ORDER, maker))
    file = sorted(tmp_path.iterdir())[-1]
    data = file.read_bytes()
    flipped = data[:-3] + bytes([data[-3] ^ 1]) + data[-2:]
    broken = {"cut": data[:-9], "flipped": flipped, "empty": b""}[damage]
    file.write_bytes(broken)
    kept = overlays(k, tmp_path, frozen=frozen, tell=said.append)
    assert torch.equal(wanted, output(k, kept.get(given, IN_ORDER, maker))) and maker.times == 2
    (sentence,) = said
    assert file.name in sentence and "its hash differs" in sentence and "made again" in sentence
    assert file.read_bytes() == (broken if frozen else data)


def test_nothing_is_written_where_it_is_only_to_be_read(tmp_path: Path) -> None:
    k = small.kit()
    given = options(k, Weight(bits=3))
    overlays(k, tmp_path / "no", frozen=True).get(given, IN_ORDER, Made(k, given, IN_ORDER))
    assert not (tmp_path / "no").exists()


def test_the_key_is_another_for_everything_that_the_result_depends_on(tmp_path: Path) -> None:
    k = small.kit()
    given = options(k, Weight(bits=3))
    names = list(given)
    other_data = replace(k.task.calibrate.subset(slice(0, 12)))
    other, deep = small.kit(lambda: toys.chain(seed=1)), small.kit(toys.residual)
    keys = [
        overlays(k, tmp_path).keys(given, LEARNED),
        overlays(k, tmp_path).keys(given, IN_ORDER),
        overlays(k, tmp_path).keys(given, replace(LEARNED, samples=23)),
        Overlays(tmp_path, k.bank, other_data).keys(given, LEARNED),
        overlays(other, tmp_path).keys(given, LEARNED),
        overlays(deep, tmp_path).keys(options(deep, Weight(bits=3)), LEARNED),
        *(
            overlays(k, tmp_path).keys({**given, n: changed}, LEARNED)
            for n in names
            for changed in [Weight(bits=4) if n.endswith("weight") else Activation(bits=6)]
        ),
    ]
    assert len(set(keys)) == len(keys) == 6 + len(names)
    assert keys[0] == overlays(k, tmp_path).keys(dict(reversed(given.items())), LEARNED)
    # no file serves two of the others
    every = [key for found in keys[:6] for key in found]
    assert len(set(every)) == len(every)


def test_the_files_of_plans_that_are_not_kept_go(tmp_path: Path) -> None:
    k = small.kit()
    kept = overlays(k, tmp_path)
    plans = [options(k, Weight(bits=b)) for b in (3, 4)]
    for given in plans:
        kept.get(given, IN_ORDER, Made(k, given, IN_ORDER))
    kept.keep([(plans[1], IN_ORDER)])
    assert kept.digest(plans[0], IN_ORDER) == "" != kept.digest(plans[1], IN_ORDER)


class Own(nn.Module):
    """A module of the user's."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


def test_what_a_file_cannot_say_is_made_each_time_and_told_once(tmp_path: Path) -> None:
    k, said = small.kit(), list[str]()
    kept = overlays(k, tmp_path, tell=said.append)
    made = {"conv2": Own(k.bank.module("conv2"))}
    for _ in range(2):
        assert kept.get({}, IN_ORDER, lambda known: made) == made
    assert len(said) == 1 and kept.digest({}, IN_ORDER) == ""


def test_a_meter_measures_the_same_with_and_without(tmp_path: Path) -> None:
    k = small.kit()
    given = options(k, Weight(bits=2))
    found = []
    for kept in (None, overlays(k, tmp_path), overlays(k, tmp_path)):
        meter = Meter(k.task, k.bank, k.task.search, memo=Memo(), batch=7, overlays=kept)
        found.append(meter.loss(given, recovery=LEARNED))
    assert found[0] == found[1] == found[2]
    # what statistics alone repair is no overlay
    meter.loss(given, recovery=Recovery(samples=24))
    assert len(list(tmp_path.iterdir())) == sum(
        len(pieces(k.graph, r)) for r in (IN_ORDER, LEARNED)
    )


def test_a_plan_names_its_overlays_and_keeps_its_digest_without_any() -> None:
    plan = Plan(graph="g", weights="w", options={"a.weight": Weight(bits=4)})
    assert "overlays" not in plan.dump() and load_plan(plan.dump()) == plan
    named = replace(plan, overlays=("0123",))
    assert load_plan(named.dump()) == named and named.digest != plan.digest


def test_the_usual_recovery_of_finalists_is_kept_too() -> None:
    assert STRONG.together and not Recovery().together
