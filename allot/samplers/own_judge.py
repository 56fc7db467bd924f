"""Own judge: a sampler's network as the judge of its samples, where a user brings no other.

What a denoiser computes deep inside at its least noise tells what is in a picture (Tang et al.
2023, Emergent correspondence from image diffusion); nothing has to be trained or downloaded.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

from torch import Tensor, nn

from allot.judging.judge import Judge, judge
from allot.sampling.sampler import Sampler


class _Look(nn.Module):
    """Samples [n, ...] -> mean over places of a deep tensor of the denoiser, [n, channels]."""

    def __init__(self, sampler: Sampler, conditions: Mapping[str, Tensor], *, deep: str) -> None:
        nn.Module.__init__(self)
        self.denoiser = copy.deepcopy(sampler.denoiser)
        last = sampler.grid.level(len(sampler.grid) - 1)
        self.signal, self.time, self.deep = last.signal, last.time, deep
        for name, rows in conditions.items():
            self.register_buffer(f"condition_{name}", rows[:1].clone())
        self.names = tuple(conditions)
        self.features = nn.Identity()

    def forward(self, samples: Tensor) -> Tensor:
        n = len(samples)
        told = {k: getattr(self, f"condition_{k}").expand(n, *([-1] * (r - 1))) for k, r in (
            (k, getattr(self, f"condition_{k}").dim()) for k in self.names)}  # fmt: skip
        seen: list[Tensor] = []
        at = self.denoiser.get_submodule(self.deep)

        def keep(m: nn.Module, args: object, out: Tensor | tuple[Tensor, ...]) -> None:
            seen.append(out[0] if isinstance(out, tuple) else out)

        handle = at.register_forward_hook(keep)
        try:
            self.denoiser(self.signal * samples, samples.new_full((n,), self.time), **told)
        finally:
            handle.remove()
        x = seen[-1]
        # tokens [n, t, c] or places [n, c, ...]
        pooled: Tensor = self.features(x.mean(1) if x.dim() == 3 else x.flatten(2).mean(2))
        return pooled


def own_judge(sampler: Sampler, conditions: Mapping[str, Tensor]) -> Judge:
    """A judge from the sampler's own network; conditions: rows as it is told, of which the first
    is used for all samples."""
    return judge(_Look(sampler, conditions, deep=_deepest(sampler)), features="features")


def _deepest(sampler: Sampler) -> str:
    """The module in the middle of the longest span, else of the denoiser's largest list."""
    if sampler.spans:
        longest = max(sampler.spans, key=lambda s: len(s.modules))
        return longest.modules[len(longest.modules) // 2]
    lists = [(n, m) for n, m in sampler.denoiser.named_modules() if isinstance(m, nn.ModuleList)]
    if not lists:
        return next(n for n, _ in reversed(list(sampler.denoiser.named_modules())) if n)
    name, blocks = max(lists, key=lambda x: len(x[1]))
    return f"{name}.{len(blocks) // 2}"
