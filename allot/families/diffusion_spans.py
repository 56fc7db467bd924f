"""Spans of diffusion networks, by structure, and which modules depend on time and class alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from allot.families.diffusion_denoiser import example_of
from allot.sampling.faulty import finite
from allot.sampling.spans import OUTPUT, RESIDUAL, Span

# inputs that are not NaN while `time_only` looks
_TIMELESS = ("time", "class_labels")
# places of tokens, the same for every sample
_SHARED = ("image_rotary_emb",)


def span_sets(denoiser: nn.Module) -> dict[str, tuple[Span, ...]]:
    """Name -> spans that are left out together; names are relative to the denoiser.

    UNets: "deeper than branch b" for every level b but the lowest: all that lies below it, of which
    what enters level b on the way up is kept (DeepCache, Ma et al. 2024).  Transformers: "blocks a
    to b", all but the first and the last, and its halves; "attention" and "feed-forward", in every
    block apart, before their gates (FORA, Selvaraju et al. 2024).  Of blocks, what they add is
    kept, or what leaves them where two streams do (Flux, SD3); of Flux's blocks of one stream,
    "single blocks 0 to b" are all but the last.
    """
    model = denoiser.get_submodule("model")
    if isinstance(getattr(model, "up_blocks", None), nn.ModuleList):
        return _branches(model)
    blocks = getattr(model, "transformer_blocks", None)
    if not isinstance(blocks, nn.ModuleList):
        return {}
    return _ranges(blocks) | _singles(model) | _parts(model)


def spans_of(denoiser: nn.Module) -> tuple[Span, ...]:
    """Every span of `span_sets`, each once: those that a sampler is to know."""
    return tuple(dict.fromkeys(s for group in span_sets(denoiser).values() for s in group))


def _branches(model: nn.Module) -> dict[str, tuple[Span, ...]]:
    down, up = model.get_submodule("down_blocks"), model.get_submodule("up_blocks")
    assert isinstance(down, nn.ModuleList) and isinstance(up, nn.ModuleList)
    middle = ["model.mid_block"] if getattr(model, "mid_block", None) is not None else []
    found: dict[str, tuple[Span, ...]] = {}
    for b in range(len(down) - 1):
        samplers = getattr(down[b], "downsamplers", None) or ()
        inner = [f"model.down_blocks.{b}.downsamplers.{i}" for i in range(len(samplers))]
        inner += [f"model.down_blocks.{i}" for i in range(b + 1, len(down))]
        inner += middle + [f"model.up_blocks.{i}" for i in range(len(up) - 1 - b)]
        name = f"deeper than branch {b}"
        found[name] = (Span(name=name, modules=tuple(inner), keeps=OUTPUT),)
    return found


def _ranges(blocks: nn.ModuleList) -> dict[str, tuple[Span, ...]]:
    """All blocks but the first and the last, and the two halves of them."""
    first, last = 1, len(blocks) - 2
    half = (first + last) // 2
    ends = [(first, last), (first, half), (half + 1, last)]
    found: dict[str, tuple[Span, ...]] = {}
    for a, b in dict.fromkeys((a, b) for a, b in ends if a <= b):
        name = f"blocks {a} to {b}"
        modules = tuple(f"model.transformer_blocks.{i}" for i in range(a, b + 1))
        found[name] = (
            Span(name=name, modules=modules, keeps=OUTPUT, shared=_SHARED)
            if _joint(blocks)
            else Span(name=name, modules=modules, keeps=RESIDUAL),
        )
    return found


def _singles(model: nn.Module) -> dict[str, tuple[Span, ...]]:
    """All blocks of one stream behind those of two, but the last."""
    last = len(getattr(model, "single_transformer_blocks", ())) - 2
    if last < 0:
        return {}
    name = f"single blocks 0 to {last}"
    modules = tuple(f"model.single_transformer_blocks.{i}" for i in range(last + 1))
    return {name: (Span(name=name, modules=modules, keeps=OUTPUT, shared=_SHARED),)}


def _joint(blocks: nn.ModuleList) -> bool:
    """Whether blocks hand on two streams, of image and text."""
    return any(getattr(b, "norm1_context", None) is not None for b in blocks)


def _parts(model: nn.Module) -> dict[str, tuple[Span, ...]]:
    """Attentions and feed-forwards of all blocks, a span each."""
    names = {
        "attention": ("attn", "attn1", "attn2"),
        "feed-forward": ("ff", "ff_context"),
    }
    found: dict[str, tuple[Span, ...]] = {}
    for kind, attributes in names.items():
        blocks = getattr(model, "transformer_blocks", ())
        paths = [
            f"model.transformer_blocks.{i}.{a}"
            for i, block in enumerate(blocks)
            for a in attributes
            if isinstance(getattr(block, a, None), nn.Module)
        ]
        if kind == "attention":
            singles = getattr(model, "single_transformer_blocks", ())
            paths += [f"model.single_transformer_blocks.{i}.attn" for i in range(len(singles))]
        if paths:
            found[kind] = tuple(
                Span(name=p.removeprefix("model."), modules=(p,), shared=_SHARED) for p in paths
            )
    return found


def time_only(denoiser: nn.Module, example: Mapping[str, Tensor] | None = None) -> tuple[str, ...]:
    """Outermost modules with weights whose outputs depend on time and class alone, in order.

    The time embedding, what projects it in every block and what modulates norms; for a fixed set of
    steps and classes they are constants.  Found by one run whose other inputs are NaN, which
    spreads to all that reads them, also through weights that are 0.  example: inputs of the
    denoiser; without them random ones of its sizes.
    """
    inputs = dict(example if example is not None else example_of(denoiser))
    for name, x in inputs.items():
        if name not in _TIMELESS and x.is_floating_point():
            inputs[name] = torch.full_like(x, torch.nan)
    clean: dict[str, bool] = {}
    handles = []
    for name, module in denoiser.named_modules():
        if name and any(True for _ in module.parameters()):

            def note(m: nn.Module, args: Any, out: Any, name: str = name) -> None:
                clean[name] = clean.get(name, True) and finite(out)

            handles.append(module.register_forward_hook(note))
    try:
        with torch.no_grad():
            denoiser(**inputs)
    finally:
        for h in handles:
            h.remove()
    return _outermost([n for n, _ in denoiser.named_modules() if clean.get(n)])


def _outermost(names: list[str]) -> tuple[str, ...]:
    found: list[str] = []
    for name in names:
        if not any(name.startswith(f"{outer}.") for outer in found):
            found.append(name)
    return tuple(found)
