"""Spans are found by structure and can be left out; what depends on time alone is named.

Faults that these tests must find: a span that lacks the way down to it; a block too many or too
few; a module that reads x taken for one that reads time alone, also where its weights are 0.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from allot.families.diffusion_denoiser import denoiser_of, example_of
from allot.families.diffusion_spans import span_sets, spans_of, time_only
from allot.sampling.grid import Grid
from allot.sampling.sampler import Sampler, Step, Way
from allot.sampling.spans import HOLD
from tests.families import networks

GRID = Grid(times=(900.0, 500.0), signals=(0.3, 0.8), noises=(0.954, 0.6))


def made(name: str) -> nn.Module:
    return denoiser_of(networks.made(networks.NETWORKS[name]))


def sets() -> list[tuple[str, str]]:
    return [(n, s) for n in networks.NETWORKS for s in span_sets(made(n))]


@pytest.mark.parametrize(("name", "group"), sets())
def test_every_set_of_spans_can_be_left_out_together(name: str, group: str) -> None:
    denoiser = made(name)
    example = example_of(denoiser)
    x = example.pop("x")
    del example["time"]
    chosen = span_sets(denoiser)[group]
    sampler = Sampler(denoiser=denoiser, grid=GRID, spans=spans_of(denoiser))
    calls: list[str] = []
    for span in chosen:
        for module in span.modules:
            inner = denoiser.get_submodule(module)
            inner.register_forward_hook(lambda m, i, o, module=module: calls.append(module))
    with torch.no_grad():
        sampler(x, **example)
        every = len(calls)
        calls.clear()
        sampler.steps[1] = Step(index=1, way=Way(reuse=dict.fromkeys(chosen, HOLD)))
        assert bool(sampler(x, **example).isfinite().all())
    assert every == 2 * sum(len(s.modules) for s in chosen)
    assert len(calls) == every // 2


def test_levels_below_every_branch_of_a_unet() -> None:
    found = span_sets(made("UNet"))
    assert ["deeper than branch 0", "deeper than branch 1"] == list(found)
    assert (
        "model.down_blocks.1.downsamplers.0",
        "model.down_blocks.2",
        "model.mid_block",
        "model.up_blocks.0",
    ) == found["deeper than branch 1"][0].modules


def test_middle_blocks_of_a_transformer_and_their_halves() -> None:
    found = span_sets(made("DiT"))
    assert ["blocks 1 to 3", "blocks 1 to 2", "blocks 3 to 3", "attention", "feed-forward"] == list(
        found
    )
    assert 5 == len(found["attention"]) == len(found["feed-forward"])


def test_two_blocks_have_none_between_them() -> None:
    denoiser = denoiser_of(networks.made(lambda: networks.dit(layers=2)))
    assert {"attention", "feed-forward"} == set(span_sets(denoiser))


def test_a_network_without_blocks_has_no_spans() -> None:
    class Other(nn.Module):
        def __init__(self) -> None:
            nn.Module.__init__(self)
            self.model = nn.Linear(1, 1)

    assert () == spans_of(Other())


def leaves(denoiser: nn.Module, names: tuple[str, ...]) -> set[str]:
    linear = [n for n, m in denoiser.named_modules() if isinstance(m, nn.Linear)]
    return {n for n in linear if any(n == o or n.startswith(f"{o}.") for o in names)}


def test_time_only_modules_of_a_unet() -> None:
    denoiser = made("UNet with classes")
    linear = [n for n, m in denoiser.named_modules() if isinstance(m, nn.Linear)]
    wanted = {n for n in linear if "time_emb" in n}
    found = time_only(denoiser)
    assert wanted == leaves(denoiser, found)
    assert "model.class_embedding" in found


@pytest.mark.parametrize("zero", [False, True])
def test_time_only_modules_of_a_dit(zero: bool) -> None:
    denoiser = made("DiT")
    if zero:  # as they are before training
        for p in denoiser.parameters():
            p.zero_()
    linear = [n for n, m in denoiser.named_modules() if isinstance(m, nn.Linear)]
    wanted = {n for n in linear if ".norm1." in n} | {"model.proj_out_1"}
    # DiT calls the one of its first block again for its last layer, always with time and class
    assert wanted == leaves(denoiser, time_only(denoiser))


@pytest.mark.parametrize("name", ["PixArt", "Flux", "SD3", "UNet with text and sizes"])
def test_what_reads_a_text_is_not_of_time_alone(name: str) -> None:
    denoiser = made(name)
    found = time_only(denoiser)
    assert found
    assert not any("text_embedder" in n or "caption" in n or "attn" in n for n in found)
    example = example_of(denoiser)
    other = example_of(denoiser, seed=1) | {"time": example["time"]}
    seen: dict[str, list[torch.Tensor]] = {}
    for n in found:
        m = denoiser.get_submodule(n)
        m.register_forward_hook(
            lambda m, i, o, n=n: seen.setdefault(n, []).append(o[0] if isinstance(o, tuple) else o)
        )
    with torch.no_grad():
        denoiser(**example)
        denoiser(**other)
    for outputs in seen.values():
        half = len(outputs) // 2
        assert all(torch.equal(outputs[i], outputs[half + i]) for i in range(half))
