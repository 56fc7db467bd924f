"""Laws of spans on networks of diffusers: samples that are decided apart are as if alone.

Faults these laws must catch: an argument of a block that is not cut into rows; several results of
which one goes back to the wrong samples; a network that looks at what a stand-in lacks.
"""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("diffusers")

from allot.families.diffusion_denoiser import denoiser_of, example_of
from allot.families.diffusion_spans import span_sets
from allot.sampling.grid import Grid
from allot.sampling.sampler import Sampler, Step, Way
from allot.sampling.spans import HOLD
from tests.families import networks
from tests.sampling.test_passing import ByRow

GRID = Grid(times=(900.0, 700.0, 400.0), signals=(0.3, 0.6, 0.8), noises=(0.954, 0.8, 0.6))
TABLE = torch.tensor([[0, 0, 0], [1, 0, 1], [0, 1, 1]]).bool()


@pytest.mark.parametrize("name", list(networks.NETWORKS))
def test_a_sample_is_taken_again_or_not_as_if_it_were_alone(name: str) -> None:
    denoiser = denoiser_of(networks.made(networks.NETWORKS[name]))
    example = example_of(denoiser)
    del example["time"]
    fixed = {k: v for k, v in example.items() if len(v) != len(example["x"])}
    rows = {k: v[:1] for k, v in example.items() if k not in fixed}
    g = torch.Generator().manual_seed(0)
    rows = {k: v.expand(3, *v.shape[1:]).contiguous() for k, v in rows.items()}
    x = torch.randn(rows.pop("x").shape, generator=g)
    for group, chosen in span_sets(denoiser).items():
        sampler = Sampler(denoiser=denoiser, grid=GRID)
        way = Way(reuse=dict.fromkeys(chosen, HOLD), when=dict.fromkeys(chosen, ByRow(TABLE)))
        for i in range(3):
            sampler.steps[i] = Step(index=i, way=way)
        with torch.no_grad():
            whole = sampler(x, **rows, **fixed)
            for j in range(3):
                alone = Sampler(denoiser=denoiser, grid=GRID)
                for i in TABLE[:, j].nonzero()[:, 0].tolist():
                    alone.steps[i] = Step(index=i, way=Way(reuse=dict.fromkeys(chosen, HOLD)))
                mine = {k: v[j : j + 1] for k, v in rows.items()}
                one = alone(x[j : j + 1], **mine, **fixed)
                torch.testing.assert_close(
                    whole[j : j + 1], one, rtol=1e-4, atol=1e-4, msg=f"{group}: sample {j}"
                )
