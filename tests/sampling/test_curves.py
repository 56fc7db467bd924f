"""Laws of curves: a polynomial that is there is found, and one that is not says so."""

from __future__ import annotations

import pytest
import torch

from allot.errors import InputError
from allot.sampling.curves import fitted_curve
from allot.sampling.features import Features
from allot.sampling.history import Entry
from allot.sampling.probes import Probe
from allot.sampling.triggers import polynomial
from tests.sampling import nets

PROBE = Probe(module="p")


def seen(curve: tuple[float, ...] | None, n: int = 40, steps: int = 5) -> Features:
    """Probes whose change is drawn, spans whose change is the curve of it (None: drawn, too)."""
    g = torch.Generator().manual_seed(0)
    probe, value = torch.ones(n, 1).double(), torch.ones(n, 1).double()
    probes, entries = [probe], [_entry(0, value)]
    for i in range(1, steps):
        x = 0.3 * torch.rand(n, generator=g).double()
        y = torch.rand(n, generator=g).double() if curve is None else polynomial(curve, x)
        probe, value = probe * (1 + x[:, None]), value * (1 + y[:, None])
        probes.append(probe)
        entries.append(_entry(i, value))
    return Features(
        spans={(nets.BLOCKS, ""): entries},
        probes={(PROBE, ""): probes},
        inputs=[],
        outputs={"": []},
        hollow={},
    )


def _entry(step: int, value: torch.Tensor) -> Entry:
    return Entry(step=step, log_snr=0.0, values=[value], has=torch.ones(len(value)).bool())


@pytest.mark.parametrize("curve", ((0.0, 1.0), (0.1, 0.5, 2.0), (0.02, 1.0, -1.0, 3.0, 5.0)))
def test_a_polynomial_is_found(curve: tuple[float, ...]) -> None:
    found = fitted_curve(seen(curve), nets.BLOCKS, PROBE)
    x = torch.linspace(0, 0.3, 20).double()
    torch.testing.assert_close(
        polynomial(found.coefficients, x), polynomial(curve, x), rtol=1e-6, atol=1e-8
    )
    assert found.r2 == pytest.approx(1) and found.count == 160


def test_where_there_is_none_the_share_explained_is_near_zero() -> None:
    assert abs(fitted_curve(seen(None), nets.BLOCKS, PROBE).r2) < 0.1


def test_too_few_changes_are_refused() -> None:
    with pytest.raises(InputError, match="needs more than 4 changes, there are 2"):
        fitted_curve(seen((0.0, 1.0), n=1, steps=3), nets.BLOCKS, PROBE)
