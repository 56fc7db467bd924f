"""Ensemble: cheap signals as experts, mixed by a gate and fine-tuned on few measured plans.

Every expert has a small network that first learns to say what its table says; a gate maps the
plan to the weights of a mixture; the whole is then trained on what was measured (DELE, Zhao et
al. 2023), so that where nothing is known yet the signals speak.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from allot.errors import InputError
from allot.searchers.evolve import random, uniform
from allot.searchers.predictor import Predict, promising
from allot.surrogate import indicators, word
from allot.table import Array, Table
from allot.trials import Trials


class Mixture(nn.Module):
    """Log divergence of plans by several experts and a gate: x [m, options] -> [m].

    The gate starts with equal weights.  scale, offset: from the mixture to log nats.
    """

    def __init__(self, options: int, experts: int, *, width: int, seed: int) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)

        def drawn(*shape: int, fan: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, generator=g, dtype=torch.float64) / fan**0.5)

        self.enter = drawn(experts, options, width, fan=options)
        self.leave = drawn(experts, width, 1, fan=width)
        self.shift = nn.Parameter(torch.zeros(experts, 1, width, dtype=torch.float64))
        self.sees = drawn(options, width, fan=options)
        self.weighs = nn.Parameter(torch.zeros(width, experts, dtype=torch.float64))
        self.scale, self.offset = 1.0, 0.0

    def experts(self, x: Tensor) -> Tensor:
        """What every expert says: x [m, options] -> [experts, m]."""
        return (torch.relu(x @ self.enter + self.shift) @ self.leave)[..., 0]

    def weights(self, x: Tensor) -> Tensor:
        """How much every expert counts for a plan: x [m, options] -> [m, experts]."""
        return torch.softmax(torch.tanh(x @ self.sees) @ self.weighs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * (self.weights(x) * self.experts(x).T).sum(1) + self.offset


def dele(
    trials: Trials,
    *,
    harm: Sequence[Table],
    seed: int,
    batch: int = 8,
    rounds: int = 100,
    width: int = 32,
    steps: int = 60,
) -> None:
    """Plans chosen by an ensemble of all tables, which learns from `batch` measured plans a round.

    Deviations from DELE: experts are the tables of signals instead of scores of architectures;
    trained on squares of log divergence instead of ranks, as levels have to be compared; it is
    used in a loop, every round fine-tuned from the pre-trained state.  steps: of fine-tuning, in
    each round.  Ends after `rounds` or when nothing new is foretold.  Raises InputError without
    a table.
    """
    if not harm:
        raise InputError("an ensemble of experts needs at least one signal; none was given")
    counts = trials.space.counts
    start = taught(counts, harm, width=width, seed=seed)
    trials.measure(uniform(counts))
    for k in range(rounds):
        predict = tuned(start, trials, steps=steps)
        chosen = promising(trials, predict, batch, seed=seed + 1 + k)
        if not chosen:
            return
        trials.measure(chosen)


def taught(
    counts: Sequence[int],
    harm: Sequence[Table],
    *,
    width: int,
    seed: int,
    samples: int = 768,
    steps: int = 200,
) -> Mixture:
    """A mixture whose experts say the logs of their tables, each to mean 0 and spread 1."""
    points = np.asarray(random(counts, samples, seed=seed))
    x = torch.from_numpy(indicators(points, counts))
    said = torch.from_numpy(np.log([word(t, points) for t in harm]))
    said = (said - said.mean(1, keepdim=True)) / said.std(1, keepdim=True).clamp_min(1e-9)
    model = Mixture(x.shape[1], len(harm), width=width, seed=seed)
    _trained(model, lambda: (model.experts(x) - said).square().mean(), steps=steps, rate=2e-2)
    return model


def tuned(start: Mixture, trials: Trials, *, steps: int) -> Predict:
    """The mixture, scaled to the measured plans and trained on them; `start` stays as it is."""
    counts, model = trials.space.counts, copy.deepcopy(start)
    points = np.asarray(list(trials.plans))
    known = np.log(np.maximum([m.divergence for m in trials.plans.values()], 1e-12))
    x = torch.from_numpy(indicators(points, counts))
    with torch.no_grad():
        model.scale, model.offset = _line(model(x).numpy(), known)
    y, spread = torch.from_numpy(known), max(float(known.std()), 1e-9)
    _trained(model, lambda: ((model(x) - y) / spread).square().mean(), steps=steps, rate=3e-3)

    def predict(asked: NDArray[np.intp]) -> Array:
        with torch.no_grad():
            return np.asarray(model(torch.from_numpy(indicators(asked, counts))))

    return predict


def _line(said: Array, known: Array) -> tuple[float, float]:
    """Slope and offset of least squares from said to known; the slope is kept above 0.1."""
    slope = max(0.1, float(np.cov(said, known)[0, 1] / max(said.var(ddof=1), 1e-12)))
    return slope, float(known.mean() - slope * said.mean())


def _trained(model: Mixture, loss: Callable[[], Tensor], *, steps: int, rate: float) -> None:
    """Trains the model in place by Adam on all data at once."""
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
