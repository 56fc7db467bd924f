"""Judge: a frozen network whose inner tensors tell how alike two samples look."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from allot.errors import DataError, InputError
from allot.plan import weights_digest

BATCH = 256


@dataclass(frozen=True, kw_only=True, eq=False)
class Judge:
    """A network that looks at samples [n, ...] and which of its tensors count.

    network: frozen, in eval mode; what it returns are logits [n, classes].  features: module whose
    output [n, d] is the feature of a sample; the one before the last activation function, since
    units that are zero for all samples make covariances singular.  layers: modules whose outputs
    are compared channel by channel.  far: per layer, the squared distance of normalized channels
    that counts as nothing in common; 4 is the greatest there is (see `feature_error.fitted`).
    """

    network: nn.Module
    features: str
    layers: tuple[str, ...]
    far: tuple[float, ...]

    @property
    def digest(self) -> str:
        """Hash of the weights: figures of two judges are not comparable."""
        return weights_digest(self.network)


@dataclass(frozen=True, kw_only=True, eq=False)
class Reading:
    """What a judge saw. features: [n, d] in float64.  logits: [n, classes].  layers: of one batch,
    normalized per place, [n, channels, places] each."""

    features: Tensor
    logits: Tensor
    layers: tuple[Tensor, ...] = ()


def judge(network: nn.Module, *, features: str, layers: Sequence[str] = ()) -> Judge:
    """A judge from a copy of any network; without layers, the features are the only one.

    Raises InputError for a name that is no module of it.
    """
    names = {name for name, _ in network.named_modules()}
    for name in (features, *layers):
        if name not in names:
            raise InputError(
                f"the judge has no module {name!r}; it has {', '.join(sorted(names - {''}))}"
            )
    frozen = copy.deepcopy(network).eval().requires_grad_(False)
    used = tuple(layers) or (features,)
    return Judge(network=frozen, features=features, layers=used, far=(4.0,) * len(used))


def read(judge: Judge, samples: Tensor) -> Reading:
    """Features and logits of samples [n, ...], in batches; gradients reach the samples.

    Raises DataError for features that are not finite or not [n, d].
    """
    parts = [_read(judge, part, (judge.features,)) for part in samples.split(BATCH)]
    features = torch.cat([found[judge.features] for _, found in parts]).double()
    if features.dim() != 2 or not bool(features.isfinite().all()):
        raise DataError(
            f"the judge's features at {judge.features} must be finite and [n, d]; they are "
            f"{list(features.shape)}, {int((~features.isfinite()).sum())} of them not finite"
        )
    return Reading(features=features, logits=torch.cat([logits for logits, _ in parts]))


def readings(judge: Judge, samples: Tensor) -> Iterator[Reading]:
    """One reading per batch of samples [n, ...], with the layers; these are large."""
    for part in samples.split(BATCH):
        with torch.no_grad():
            logits, found = _read(judge, part, (judge.features, *judge.layers))
        layers = tuple(_normalized(found[name]) for name in judge.layers)
        yield Reading(features=found[judge.features].double(), logits=logits, layers=layers)


def _read(judge: Judge, x: Tensor, names: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
    with _watched(judge.network, names) as found:
        logits: Tensor = judge.network(x)
    return logits, found


@contextmanager
def _watched(network: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Outputs of modules of the network, by name, while it runs."""
    found: dict[str, Tensor] = {}
    with ExitStack() as stack:
        for name in dict.fromkeys(names):

            def keep(m: nn.Module, args: object, out: Tensor, name: str = name) -> None:
                # an activation function that works in place would overwrite it
                found[name] = out.clone()

            stack.callback(network.get_submodule(name).register_forward_hook(keep).remove)
        yield found


def _normalized(x: Tensor) -> Tensor:
    """Channels of length 1 at every place: [n, c, ...] or tokens [n, t, c] -> [n, c, places]."""
    x = x.double()
    x = x.mT if x.dim() == 3 else x.flatten(2) if x.dim() > 3 else x[:, :, None]
    return x / x.norm(dim=1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
