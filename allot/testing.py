"""Testing: the laws that every option, rounding and target keeps, to be inherited by its tests.

    class TestMine(OptionLaws):
        def option(self) -> Option:
            return Mine(strength=3)

pytest collects the laws with the class; each is one method whose name says it.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from allot import part
from allot.num.codebook import Codebook
from allot.num.formats import Grid, Int, UInt, rowwise
from allot.num.rounding import Rounding, wide
from allot.option import Effect, Option, Stats
from allot.part import Part
from allot.site import Graph, Site, Touch
from allot.space import Choice
from allot.target import Target


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _survives_a_file(p: Part) -> bool:
    """Whether a part is plain data, and one of allot's rooms comes back from a file as equal.

    Files name no parts from elsewhere: those are handed over as values.
    """
    data = json.loads(json.dumps(p.dump()))
    ours = type(p).__module__.startswith(part.TRUSTED)
    return bool(part.load(data) == p) if ours else data == p.dump()


def same_tensors(a: Sequence[Tensor], b: Sequence[Tensor]) -> bool:
    """Equal bit for bit, and equally many."""
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


class OptionLaws:
    """Laws of an option. Give `option`, `original`, and `place`: where it may be applied."""

    @abstractmethod
    def option(self) -> Option:
        """One that changes something."""

    @abstractmethod
    def original(self) -> Option:
        """The one of the same class that changes nothing."""

    @abstractmethod
    def place(self) -> tuple[nn.Module, Graph, Site, Stats]:
        """A network in eval mode, its graph, a site of the option's kind, statistics for it."""

    def test_it_survives_a_file(self) -> None:
        assert _survives_a_file(self.option()) and _survives_a_file(self.original())

    def test_its_label_is_one_word_and_not_the_originals(self) -> None:
        label, original = self.option().label, self.original().label
        assert label and label != original and not any(c.isspace() for c in label + original)

    def test_only_the_original_says_so(self) -> None:
        assert self.original().is_original and not self.option().is_original

    def test_the_original_costs_what_the_original_costs(self) -> None:
        *_, site, _ = self.place()
        effect = self.original().effect(site)
        assert effect.keep in (-1, site.shape[0])
        assert (effect.gone, effect.tokens) == (False, 1)
        assert (effect.stored_bits, effect.compute_bits) == (32, 32)

    def test_it_is_cheaper_than_the_original(self) -> None:
        *_, site, _ = self.place()
        assert _cheaper(self.option().effect(site), self.original().effect(site))

    def test_the_original_needs_nothing_to_be_known(self) -> None:
        _, graph, site, _ = self.place()
        assert self.original().needs(site, graph) == ()

    def test_it_takes_no_statistic_that_it_did_not_ask_for(self) -> None:
        _, graph, site, stats = self.place()
        asked = {s: stats[s] for s in self.option().needs(site, graph)}
        for module, touch in self._touched():
            self._apply(module, touch, asked)

    def test_apply_leaves_the_module_and_its_numbers_as_they_are(self) -> None:
        for module, touch in self._touched():
            before = {k: v.clone() for k, v in module.state_dict().items()}
            parts = [id(m) for m in module.modules()]
            new = self._apply(module, touch, self.place()[3])
            assert new is not module and parts == [id(m) for m in module.modules()]
            assert list(before) == list(module.state_dict())
            assert same_tensors(list(before.values()), list(module.state_dict().values()))

    def test_applying_it_twice_gives_the_same_numbers(self) -> None:
        for module, touch in self._touched():
            news = [self._apply(module, touch, self.place()[3]) for _ in range(2)]
            assert same_tensors(*(list(new.state_dict().values()) for new in news))

    def _touched(self) -> Iterator[tuple[nn.Module, Touch]]:
        model, _, site, _ = self.place()
        return ((model.get_submodule(t.module), t) for t in site.touches)

    def _apply(self, module: nn.Module, touch: Touch, stats: Stats) -> nn.Module:
        _, graph, site, _ = self.place()
        return self.option().apply(module, touch=touch, site=site, graph=graph, stats=stats)


def _cheaper(a: Effect, b: Effect) -> bool:
    keeps = (a.keep < b.keep and a.keep > 0) or a.gone > b.gone or a.tokens < b.tokens
    return keeps or a.stored_bits < b.stored_bits or a.compute_bits < b.compute_bits


class RoundingLaws:
    """Laws of a rounding. Give `rounding`, and `formats` for other grids than the usual."""

    formats: tuple[Grid, ...] = (
        *(Int(bits=b) for b in range(2, 9)),
        UInt(bits=3),
        Codebook(bits=3, book=(-4.0, -2.0, -1.0, -0.25, 0.0, 0.5, 1.5, 5.0)),
    )

    @abstractmethod
    def rounding(self) -> Rounding: ...

    def case(self, fmt: Grid, *, rows: int = 6, k: int = 9) -> tuple[Tensor, Tensor, Tensor]:
        """w [rows, k] reaching beyond the grid, scale [rows] of both signs, gram [1, k, k].

        A grid that begins at 0 is given what a caller with zero points gives: w + scale * zero.
        """
        w, x = _random(rows, k), _random(40, k, seed=1) @ _random(k, k, seed=2)
        low, high = fmt.reach
        zero = high // 2 if low >= 0 else 0.0
        scale = w.abs().amax(1) / (high - zero) * torch.linspace(0.6, 1.2, rows, dtype=w.dtype)
        scale = scale * (1 - 2 * (torch.arange(rows) % 2))
        return w + scale[:, None] * zero, scale, (x.T @ x)[None]

    def cases(self) -> Iterator[tuple[Grid, Tensor, Tensor, Tensor]]:
        """Every grid with a scale [rows] and with one for every three columns, [rows, k]."""
        for fmt in self.formats:
            w, scale, gram = self.case(fmt)
            uneven = torch.tensor([1.0, 0.7, 1.3], dtype=w.dtype)
            yield fmt, w, scale, gram
            yield fmt, w, scale[:, None] * uneven.repeat_interleave(w.shape[1] // 3), gram

    def test_it_survives_a_file(self) -> None:
        assert _survives_a_file(self.rounding())

    def test_codes_are_whole_numbers_of_the_format(self) -> None:
        for fmt, w, scale, gram in self.cases():
            for g in (gram, None):
                codes = self.rounding().codes(w, scale, fmt, g)
                assert codes.shape == w.shape and torch.equal(codes, codes.round())
                assert fmt.lo <= codes.min() and codes.max() <= fmt.hi

    def test_values_on_the_grid_survive(self) -> None:
        for fmt, w, scale, gram in self.cases():
            codes = _nearest(w, scale, fmt)
            on_grid = fmt.values(codes) * wide(scale, w)
            assert torch.equal(codes, self.rounding().codes(on_grid, scale, fmt, gram).double())

    def test_without_a_gram_it_is_nearest(self) -> None:
        for fmt, w, scale, _ in self.cases():
            got = self.rounding().codes(w, scale, fmt, None).double()
            assert torch.equal(_nearest(w, scale, fmt), got)

    def test_inputs_alike_and_apart_make_it_nearest(self) -> None:
        for fmt, w, scale, _ in self.cases():
            white = 7 * torch.eye(w.shape[1], dtype=w.dtype)[None]
            got = self.rounding().codes(w, scale, fmt, white).double()
            assert torch.equal(_nearest(w, scale, fmt), got)

    def test_a_scale_for_every_column_may_be_the_same_one(self) -> None:
        for fmt in self.formats:
            w, scale, gram = self.case(fmt)
            one = self.rounding().codes(w, scale, fmt, gram)
            assert torch.equal(one, self.rounding().codes(w, wide(scale, w), fmt, gram))

    def test_rows_are_rounded_each_for_itself(self) -> None:
        for fmt, w, scale, gram in self.cases():
            order = torch.arange(len(w)).flip(0)
            whole = self.rounding().codes(w, scale, fmt, gram)
            turned = self.rounding().codes(w[order], scale[order], fmt, gram)
            assert torch.equal(whole[order], turned)

    def test_a_larger_row_with_a_larger_scale_has_the_same_codes(self) -> None:
        for fmt, w, scale, gram in self.cases():
            factor = 2.0 ** torch.arange(-2, len(w) - 2, dtype=w.dtype)
            whole = self.rounding().codes(w, scale, fmt, gram)
            larger = rowwise(factor, scale) * scale
            stretched = self.rounding().codes(w * factor[:, None], larger, fmt, gram)
            assert torch.equal(whole, stretched)

    def test_the_size_of_the_gram_does_not_matter(self) -> None:
        for fmt, w, scale, gram in self.cases():
            one = self.rounding().codes(w, scale, fmt, gram)
            assert torch.equal(one, self.rounding().codes(w, scale, fmt, 2.0**20 * gram))

    def test_what_it_is_given_stays_as_it_is(self) -> None:
        for fmt, *given in self.cases():
            before = [x.clone() for x in given]
            self.rounding().codes(given[0], given[1], fmt, given[2])
            assert same_tensors(before, given)


def _nearest(w: Tensor, scale: Tensor, fmt: Grid) -> Tensor:
    return fmt.nearest(w / wide(scale, w))


class TargetLaws:
    """Laws of a target. Give `target` and `offered`: choices with every option it might see."""

    @abstractmethod
    def target(self) -> Target: ...

    @abstractmethod
    def offered(self) -> tuple[Graph, Sequence[Choice]]: ...

    def test_it_survives_a_file(self) -> None:
        assert _survives_a_file(self.target())

    def test_it_has_a_name_and_states_bytes(self) -> None:
        assert self.target().name and "size" in self.target().bills

    def test_what_it_lacks_is_one_sentence_and_has_no_version(self) -> None:
        missing, version = self.target().missing(), self.target().version()
        assert bool(version) != bool(missing) and "\n" not in missing

    def test_it_runs_every_original(self) -> None:
        graph, choices = self.offered()
        for c in choices:
            assert self.target().can(c.options[0], graph.site(c.site), graph) == ""

    def test_what_it_cannot_is_told_in_one_line(self) -> None:
        graph, choices = self.offered()
        for c in choices:
            for option in c.options:
                assert "\n" not in self.target().can(option, graph.site(c.site), graph)

    def test_channel_steps_are_whole_and_no_larger_than_the_group(self) -> None:
        for size in (1, 3, 8, 16, 20, 64, 512):
            step = self.target().channel_step(size)
            assert isinstance(step, int) and 1 <= step <= max(size, 16)

    def test_activation_widths_are_whole_and_at_most_eight(self) -> None:
        assert all(isinstance(b, int) and 1 < b <= 8 for b in self.target().activation_bits())

    def test_floats_are_computed_in_float(self) -> None:
        assert self.target().computes(32, 32) in ((32, 32), (16, 16))

    def test_no_kernel_computes_integers_in_fewer_bits_than_it_is_given(self) -> None:
        floats = self.target().computes(32, 32)[1]
        for bits in range(2, 9):
            for entering in (*self.target().activation_bits(), 32):
                got = self.target().computes(bits, entering)
                assert got[0] >= bits and got[1] >= min(entering, floats)

    def test_asking_changes_nothing(self) -> None:
        target, (graph, choices) = self.target(), self.offered()
        said = [
            [target.can(o, graph.site(c.site), graph) for c in choices for o in c.options]
            for _ in range(2)
        ]
        assert said[0] == said[1] and target == self.target()
