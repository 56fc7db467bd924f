"""Tiny tasks, good and bad, as the command line takes them: tests/tiny.py:NAME."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from allot import Data, Task
from tests import mixture, toys

HERE = __file__
CERTIFY = 200
# a whole job of a few seconds
COMPRESS = (
    "compress", f"{HERE}:task", "--target", "ideal", "--budget", "size=40%", "--max-drop", "20",
)  # fmt: skip


def samples(model: nn.Module, n: int, seed: int) -> Data:
    """Images labelled by the model itself, so that it is never wrong."""
    x = toys.images(n, seed=seed)
    with torch.no_grad():
        return Data(inputs=x, labels=model(x).argmax(1))


def balanced(model: nn.Module) -> nn.Module:
    """The model with the bias of its last layer set (in place) so that it says every class."""
    last = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]
    with torch.no_grad():
        last.bias -= model(toys.images(256, seed=0)).mean(0)
    return model


def of(model: nn.Module) -> Task:
    balanced(model)
    return Task(
        name="tiny",
        model=model,
        calibrate=samples(model, 48, 1),
        search=samples(model, 48, 2),
        certify=samples(model, CERTIFY, 3),
        classes=tuple("abcde"),
    )


def task() -> Task:
    return of(toys.chain())


def other_weights() -> Task:
    return of(toys.chain(seed=1))


def other_network() -> Task:
    return of(toys.separable())


def experts() -> Task:
    """Of tokens, through four experts."""
    model = mixture.planted(mixture.Mixture(hidden=64, dense=True))
    x = mixture.tokens(2 * 48 + CERTIFY)
    with torch.no_grad():
        model.head.bias -= model(x).mean(0)
        whole = Data(inputs=x, labels=model(x).argmax(1))
    parts = [whole.subset(i) for i in torch.arange(len(x)).split([48, 48, CERTIFY])]
    calibrate, search, certify = parts
    return Task(
        name="tiny", model=model, calibrate=calibrate, search=search, certify=certify,
        classes=tuple("abcde"),
    )  # fmt: skip


def normed() -> Task:
    """Linears behind layer norms, wide enough for branches."""
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(192, 16), nn.LayerNorm(16), nn.Linear(16, 24), nn.GELU(),
        nn.Linear(24, 16), nn.LayerNorm(16), nn.Linear(16, 5),
    )  # fmt: skip
    return of(toys.seeded(model))


def unlabelled() -> Task:
    good = task()
    sets = {k: Data(inputs=getattr(good, k).inputs) for k in ("calibrate", "search", "certify")}
    return replace(good, **sets)


def unknown_layer() -> Task:
    return of(toys.strange())


def empty() -> Task:
    return replace(task(), search=Data(inputs=toys.images(0)))


def not_finite() -> Task:
    x = toys.images(48, seed=2)
    x[3, 0, 0, 0] = torch.nan
    return replace(task(), search=Data(inputs=x))


def too_few_labels() -> Task:
    good = task()
    assert good.search.labels is not None
    return replace(good, search=replace(good.search, labels=good.search.labels[:40]))


def sets_of_two_shapes() -> Task:
    return replace(task(), search=Data(inputs=toys.images(48, size=16)))


def two_channels() -> Task:
    def cut(data: Data) -> Data:
        assert isinstance(data.inputs, torch.Tensor)
        return replace(data, inputs=data.inputs[:, :2])

    t = task()
    return replace(t, calibrate=cut(t.calibrate), search=cut(t.search), certify=cut(t.certify))


def shared_samples() -> Task:
    good = task()
    return replace(good, certify=good.search)


def nan_weights() -> Task:
    bad = task()
    with torch.no_grad():
        bad.model.get_parameter("conv1.weight")[0, 0, 0, 0] = torch.nan
    return bad


def noisy() -> Task:
    return of(toys.noisy())


def no_task() -> int:
    return 3


def with_argument(size: int) -> Task:
    assert size
    return task()


def broken() -> Task:
    raise ZeroDivisionError("a mistake in the user's own file")
