"""Experts: several cheap signals at once, of which measured plans say how far each is trusted."""

from __future__ import annotations

from functools import partial

from allot.harm.fisher import fisher
from allot.harm.hawq import hawq
from allot.harm.higgs import higgs
from allot.recipes.recipe import Paper, Recipe
from allot.searchers.ensemble import dele

DELE = Recipe(
    name="dele",
    row="A59",
    paper=Paper(
        authors="Zhao et al.",
        year=2023,
        title="Dynamic Ensemble of Low-fidelity Experts: Mitigating NAS 'Cold-Start'",
    ),
    axes=("precision", "width", "depth"),
    signals=(fisher, partial(hawq, probes=8), higgs),  # a cheap expert need not be exact
    searcher=dele,
    differs="experts are signals of harm instead of scores of architectures; trained on log "
    "divergence instead of ranks; used in a loop that measures what it foretells",
    oracle="rank correlation with every plan of a small joint space, against labels measured; the "
    "front by measuring every plan",
)
