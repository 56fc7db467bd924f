"""Stock: the cache configuration of diffusers that computes what a plan's steps compute, if any.

Pyramid attention broadcast (Zhao et al. 2024) holds the results of chosen attentions for N - 1 of N
steps within a range of times; other caches of diffusers decide at run time or count steps another
way than plans do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from allot.families.diffusion_runner import ways_of
from allot.sampling.grid import Grid
from allot.sampling.sampler import Sampler, Way
from allot.sampling.spans import HOLD, OUTPUT, Span

CONFIG = "PyramidAttentionBroadcastConfig"
_ATTENTION = re.compile(r"\.attn\d?$")


def stock_cache(sampler: Sampler) -> dict[str, Any] | None:
    """Arguments of diffusers' PyramidAttentionBroadcastConfig that the steps amount to, or None.

    The network with it, run by the scheduler that the grid is of, gives the sampler's samples; the
    configuration still needs its `current_timestep_callback`, which no file can hold.  None where
    a step is dropped, changes bits or gains, predicts otherwise or reuses something else than
    attentions, in another rhythm, or under guidance, whose second condition diffusers' cache would
    take for a further step.
    """
    ways = ways_of(sampler)
    if sampler.guidance is not None or len(ways) < len(sampler.grid):
        return None
    if any(Way(reuse=w.reuse) != w for w in ways.values()):
        return None
    reusing = {i: w for i, w in ways.items() if w.reuse}
    spans = _same(tuple(reusing.values()))
    if not spans or not all(_is_attention(s) for s in spans):
        return None
    every = _rhythm(sorted(reusing))
    return None if every is None else _config(spans, every, sorted(reusing), sampler.grid)


def _same(ways: Sequence[Way]) -> tuple[Span, ...]:
    """The spans that all ways reuse by holding them, none where they differ."""
    found = {frozenset(w.reuse) for w in ways}
    held = all(p == HOLD for w in ways for p in w.reuse.values())
    return tuple(ways[0].reuse) if len(found) == 1 and held else ()


def _is_attention(span: Span) -> bool:
    alone = len(span.modules) == 1 and span.keeps == OUTPUT
    return alone and _ATTENTION.search(span.modules[0]) is not None


def _rhythm(steps: Sequence[int]) -> int | None:
    """N where the steps are all between the first and the last that N does not divide."""
    between = range(steps[0], steps[-1] + 1)
    for n in range(2, steps[-1] + 2):
        if [i for i in between if i % n] == list(steps):
            return n
    return None


def _config(spans: Sequence[Span], every: int, steps: Sequence[int], grid: Grid) -> dict[str, Any]:
    times = [*grid.times, -1.0]
    low = (times[steps[-1]] + times[steps[-1] + 1]) / 2
    high = (times[steps[0]] + times[steps[0] - 1]) / 2
    names = [f"^{re.escape(s.modules[0].removeprefix('model.'))}$" for s in spans]
    both: Mapping[str, Any] = {
        "attention_block_skip_range": every,
        "attention_timestep_skip_range": [low, high],
        "attention_block_identifiers": names,
    }
    found = {f"{kind}_{k}": v for kind in ("spatial", "cross") for k, v in both.items()}
    return {"_class_name": CONFIG, **found}
