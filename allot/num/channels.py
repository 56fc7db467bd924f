"""Channels: which can leave a layer's input at least harm, and how the rest makes up for them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# share of the mean diagonal added to a second moment before it is inverted
DAMP = 1e-4


def damped(gram: Tensor, damp: float = DAMP) -> Tensor:
    """gram [k, k] + damp * mean(diagonal) on the diagonal, in float64; never singular."""
    g = gram.double()
    ridge = damp * float(g.diagonal().mean())
    return g + torch.eye(len(g), dtype=g.dtype, device=g.device) * (ridge if ridge > 0 else 1.0)


def refit(w: Tensor, gram: Tensor, kept: Tensor, *, damp: float = DAMP) -> Tensor:
    """Least-squares weights of the kept columns: w [out, k], gram [k, k] -> [out, len(kept)].

    Minimises tr (W - W')G(W - W')^T + ridge |W'_K - W_K|^2 over W' that is zero off the kept
    columns: W_K + W_R G_RK (G_KK + ridge)^-1 (Kwon et al. 2022 without its mask; the ridge pulls
    to the original and not to zero, so the error is never above that of plain dropping).
    """
    gone = torch.ones(w.shape[1], dtype=torch.bool, device=w.device)
    gone[kept] = False
    g, wide = gram.double(), w.detach().double()
    if not bool(gone.any()):
        return wide.to(w.dtype)
    ridge = damped(g, damp) - g
    inner = (g + ridge)[kept][:, kept]
    missing = wide[:, gone] @ g[gone][:, kept]
    return (wide[:, kept] + torch.linalg.solve(inner, missing.T).T).to(w.dtype)


def output_error(w: Tensor, new: Tensor, gram: Tensor, kept: Tensor) -> float:
    """tr (W - W')G(W - W')^T: squared change of the outputs, w [out, k], new [out, len(kept)]."""
    change = w.detach().double().clone()
    change[:, kept] -= new.double()
    return float(torch.einsum("ok,kl,ol->", change, gram.double(), change))


class _Reader:
    """One layer's input while classes leave it: weights refitted, inverse moment downdated."""

    def __init__(self, w: Tensor, gram: Tensor, owner: Tensor, classes: int, damp: float) -> None:
        """w [out, k], gram [k, k], owner [k]: class of each column or -1."""
        self.w = w.detach().double()
        self.inverse = torch.linalg.inv(damped(gram, damp))
        self.columns = [(owner == c).nonzero()[:, 0] for c in range(classes)]
        # errors of readers are compared relative to what each puts out
        self.scale = max(float(torch.einsum("ok,kl,ol->", self.w, gram.double(), self.w)), 1e-30)

    def costs(self, left: Sequence[int]) -> Tensor:
        """Relative increase of the output error if a class left next: [len(left)]."""
        return torch.stack([self._cost(self.columns[c]) for c in left]) / self.scale

    def _cost(self, s: Tensor) -> Tensor:
        if not len(s):
            return self.w.new_zeros(())
        w = self.w[:, s]
        return (w.T * torch.linalg.solve(self.inverse[s][:, s], w.T)).sum()

    def remove(self, c: int) -> None:
        s = self.columns[c]
        if not len(s):
            return
        step = torch.linalg.solve(self.inverse[s][:, s], self.inverse[s])
        self.w = self.w - self.w[:, s] @ step
        self.inverse = self.inverse - self.inverse[:, s] @ step
        # gone columns stay in place; what rounding leaves of them must not come back
        self.w[:, s] = 0


def removal_order(
    readers: Sequence[tuple[Tensor, Tensor, Tensor]], *, classes: int, damp: float = DAMP
) -> Tensor:
    """Order in which classes leave, least harm first: [classes].

    readers: (w [out, k], gram [k, k], owner [k]) of every layer that reads the classes; owner is
    the class of a column or -1.  Each step takes the class whose removal, with all remaining
    columns refitted, raises the summed relative output error least (structured optimal brain
    surgeon; Frantar & Alistarh 2022).  The last class is never needed but is listed.
    """
    inputs = [_Reader(w, g, owner, classes, damp) for w, g, owner in readers]
    left, order = list(range(classes)), []
    while left:
        total = torch.stack([r.costs(left) for r in inputs]).sum(0)
        gone = left.pop(int(total.argmin()))
        order.append(gone)
        for r in inputs:
            r.remove(gone)
    return torch.tensor(order)
