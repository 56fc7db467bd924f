"""Evolution: architecture and precision as one genotype, bred on what a light predictor says."""

from __future__ import annotations

from functools import partial

from allot.harm.fisher import fisher
from allot.recipes.recipe import Paper, Recipe
from allot.searchers.predictor import predicted, ridge

SIMQ_NAS = Recipe(
    name="simq-nas",
    row="A46",
    paper=Paper(
        authors="Sridhar et al.",
        year=2023,
        title="SimQ-NAS: Simultaneous Quantization Policy and Neural Architecture Search",
    ),
    axes=("precision", "width", "depth"),
    signals=(fisher,),
    searcher=partial(predicted, fit=ridge),
    library="pymoo",
    part="search after training: widths, depth and bits of one trained network as one genotype, "
    "NSGA-II with ridge predictors; the elastic super-network is not trained",
    differs="bills are exact, so that only the divergence is predicted; of small spaces every plan "
    "is predicted instead of bred; the search does not look at the signal, which the report shows",
    oracle="the front of a small joint space by measuring every plan",
)
