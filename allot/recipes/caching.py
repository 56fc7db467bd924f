"""Caching: published ways to take parts of a denoising network again instead of computing them."""

from __future__ import annotations

from allot.recipes.recipe import Paper
from allot.recipes.sampled import SamplerRecipe
from allot.samplers.layer_correction import layers_corrected
from allot.samplers.policies import changed, every, gated, segmented
from allot.sampling.affine import Affine, corrected
from allot.sampling.curves import fitted_curve
from allot.sampling.features import features
from allot.sampling.gate_training import Training, at_share, trained
from allot.sampling.gates import Gate
from allot.sampling.segments import reuse_costs, segments
from allot.sampling.spans import Hold
from allot.sampling.thresholds import for_share
from allot.sampling.triggers import Changed

CACHEQUANT = SamplerRecipe(
    name="cachequant",
    row="A30",
    paper=Paper(
        authors="Liu et al.",
        year=2025,
        title="CacheQuant: Comprehensively Accelerated Diffusion Models",
    ),
    plan=segmented,
    parts=(features, reuse_costs, segments, corrected, Affine, layers_corrected),
    differs="costs count the quantizer's error, too, as the abstract says and the code does not; "
    "corrections are fitted on the original's run",
    oracle="the cut against all cuts of up to 12 steps; corrections against least squares",
)
LAZYDIT = SamplerRecipe(
    name="lazydit",
    row="A79",
    paper=Paper(
        authors="Shen et al.",
        year=2025,
        title="LazyDiT: Lazy Learning for the Acceleration of Diffusion Transformers",
    ),
    plan=gated,
    parts=(trained, Training, Gate, at_share, Hold),
    differs="pairs of steps come from the sampler's own run instead of noised data; the error is "
    "relative; one threshold may be found for a share of results instead of 0.5",
    oracle="gates that never close are the original, that always close a fixed plan; a sample "
    "decides as it would alone",
)
LEARNING_TO_CACHE = SamplerRecipe(
    name="learning-to-cache",
    row="",
    paper=Paper(
        authors="Ma et al.",
        year=2024,
        title="Learning-to-Cache: Accelerating Diffusion Transformer via Layer Caching",
    ),
    plan=gated,
    parts=(trained, Training, Gate, at_share, Hold),
    differs="a router for every step instead of every second one; ask for it with "
    "Training(looks=False)",
    oracle="a fixed plan: the same for every sample and batch",
)
DEEPCACHE = SamplerRecipe(
    name="deepcache",
    row="",
    paper=Paper(
        authors="Ma et al.",
        year=2024,
        title="DeepCache: Accelerating Diffusion Models for Free",
    ),
    plan=every,
    parts=(Hold,),
    differs="intervals are uniform; the branch is that of a whole level",
    oracle="interval 1 is the original; at age 0 the same output",
)
FORA = SamplerRecipe(
    name="fora",
    row="",
    paper=Paper(
        authors="Selvaraju et al.",
        year=2024,
        title="FORA: Fast-Forward Caching in Diffusion Transformer Acceleration",
    ),
    plan=every,
    parts=(Hold,),
    oracle="interval 1 is the original; modulation and gates of a step stay its own",
)
TEACACHE = SamplerRecipe(
    name="teacache",
    row="",
    paper=Paper(
        authors="Liu et al.",
        year=2024,
        title="Timestep Embedding Tells: It's Time to Cache for Video Diffusion Model",
    ),
    plan=changed,
    parts=(fitted_curve, Changed, for_share, Hold),
    differs="every sample decides for itself; the curve is fitted on the network at hand and on "
    "what is taken again, and its share of explained variance is told",
    oracle="threshold 0 is the original; a batch of 1 is its row in a batch of 8",
)
FIRST_BLOCK = SamplerRecipe(
    name="first-block-cache",
    row="",
    paper=Paper(
        authors="chengzeyi",
        year=2024,
        title="ParaAttention: First Block Cache (software)",
    ),
    plan=changed,
    parts=(Changed, for_share, Hold),
    differs="every sample decides for itself",
    oracle="threshold 0 is the original; a batch of 1 is its row in a batch of 8",
)
ALL: tuple[SamplerRecipe, ...] = (
    CACHEQUANT, LAZYDIT, DEEPCACHE, FORA, LEARNING_TO_CACHE, TEACACHE, FIRST_BLOCK,
)  # fmt: skip
