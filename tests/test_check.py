"""Laws of checking: data that cannot work end in one sentence before anything runs.

Faults these laws must catch: a set that is not looked at; NaN in one sample of one input; a
sample shared by two sets; labels of another length; the network run before its data are checked.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from allot.check import check, check_forward
from allot.errors import AllotError, DataError, InputError
from allot.task import Data, Task
from tests import small, toys

SETS = ("calibrate", "search", "certify")


def changed(name: str, **changes: object) -> Task:
    t = small.task()
    return replace(t, **{name: Data(**{**vars(getattr(t, name)), **changes})})  # type: ignore


def inputs(name: str) -> Tensor:
    found = getattr(small.task(), name).inputs
    assert isinstance(found, Tensor)
    return found.clone()


def pairs() -> Task:
    """A task of two named inputs."""
    x = toys.pair_inputs(12)
    parts = {
        name: Data(inputs={k: v[4 * i : 4 * i + 4] for k, v in x.items()})
        for i, name in enumerate(SETS)
    }
    return Task(name="pair", model=toys.pair(), **parts)  # type: ignore[arg-type]


def test_a_good_task_passes() -> None:
    for t in (small.task(), small.task(labels=False), pairs()):
        assert check(t) is None
        assert check_forward(t) is None


@pytest.mark.parametrize("name", SETS)
def test_an_empty_set_is_named(name: str) -> None:
    with pytest.raises(DataError, match=f"the {name} set is empty"):
        check(changed(name, inputs=inputs(name)[:0], labels=None))


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("bad", (float("nan"), float("inf"), -float("inf")))
def test_samples_that_are_not_finite_are_counted(name: str, bad: float) -> None:
    x = inputs(name)
    x[3, 1, 2, 2] = x[5, 0, 0, 0] = x[5, 0, 0, 1] = bad
    with pytest.raises(DataError, match=f"2 samples of the {name} set"):
        check(changed(name, inputs=x))


@pytest.mark.parametrize("name", SETS)
def test_labels_of_another_length_are_refused(name: str) -> None:
    n = len(inputs(name))
    with pytest.raises(DataError, match=f"the {name} set has {n} samples and {n - 1} labels"):
        check(changed(name, labels=torch.zeros(n - 1, dtype=torch.long)))


@pytest.mark.parametrize("name", SETS)
def test_samples_of_another_shape_are_refused(name: str) -> None:
    with pytest.raises(DataError, match="differ in shape"):
        check(changed(name, inputs=inputs(name)[:, :, :-1]))


@pytest.mark.parametrize(("a", "b"), (("calibrate", "search"), ("calibrate", "certify"), SETS[1:]))
def test_a_sample_in_two_sets_is_refused(a: str, b: str) -> None:
    x = inputs(b)
    x[2], x[3] = inputs(a)[5], inputs(a)[6]
    with pytest.raises(DataError, match=f"2 samples are in the {a} set and in the {b} set"):
        check(changed(b, inputs=x))


def test_named_inputs_are_looked_at_each() -> None:
    t = pairs()
    assert isinstance(t.search.inputs, dict)
    facts = t.search.inputs["facts"].clone()
    facts[1] = float("nan")
    bad = replace(t, search=Data(inputs={**t.search.inputs, "facts": facts}))
    with pytest.raises(DataError, match="1 samples of the search set"):
        check(bad)
    short = replace(t, search=Data(inputs={**t.search.inputs, "facts": facts[:2]}))
    with pytest.raises(DataError, match="facts has 2 samples"):
        check(short)


def test_inputs_that_are_not_numbers_with_a_point_are_not_asked_to_be_finite() -> None:
    t = small.task()
    whole = {n: Data(inputs=torch.arange(9)[3 * i : 3 * i + 3]) for i, n in enumerate(SETS)}
    assert check(replace(t, **whole)) is None  # type: ignore[arg-type]


def test_checking_does_not_run_the_network() -> None:
    def forward(model: object, batch: object) -> Tensor:
        raise AssertionError("the network ran")

    check(small.task(forward=forward))
    with pytest.raises(AssertionError):
        check_forward(small.task(forward=forward))


@pytest.mark.parametrize(
    "change",
    (
        {"divergence": lambda a, b: (a - b).square()},
        {"divergence": lambda a, b: (a - b).square().mean()},
        {"divergence": lambda a, b: a @ b},
        {"score": lambda y, labels: y},
        {"score": lambda y, labels: y[:, 99]},
    ),
)
def test_a_divergence_or_score_that_is_not_one_number_a_sample_is_refused(
    change: dict[str, object],
) -> None:
    with pytest.raises(AllotError) as found:
        check_forward(small.task(**change))
    assert isinstance(found.value, InputError) and "task's" in str(found.value)
