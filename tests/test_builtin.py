"""Tasks that come with allot, the page for newcomers, and the benchmarks' tasks."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from allot import builtin
from allot.builtin import digits_resnet
from allot.errors import InputError, MissingError
from allot.plan import weights_digest
from allot.task import Data, Task, top1

ROOT = Path(__file__).resolve().parents[1]


def page(name: str) -> ModuleType:
    """A file of the checkout as a module, as the command line loads FILE.py:FUNCTION."""
    spec = importlib.util.spec_from_file_location(Path(name).stem, ROOT / name)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def samples(data: Data) -> list[bytes]:
    assert isinstance(data.inputs, Tensor)
    return [x.numpy().tobytes() for x in data.inputs]


def shared(*sets: Data) -> int:
    """How many samples occur more than once, by their bytes, within and across sets."""
    every = [s for data in sets for s in samples(data)]
    return len(every) - len(set(every))


def hits(task: Task, *sets: Data) -> Tensor:
    with torch.no_grad():
        outputs = [task.forward(task.model, b) for data in sets for b in data.batches(500)]
    labels = [data.labels for data in sets if data.labels is not None]
    return task.score(torch.cat(outputs), torch.cat(labels))


@pytest.fixture(scope="module", autouse=True)
def _two_cores() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def digits() -> Task:
    return builtin.load("digits-resnet", seed=0)


@pytest.fixture(scope="module")
def own() -> Task:
    return page("examples/own_network.py").task()


@pytest.fixture(scope="module")
def tasks() -> ModuleType:
    module = page("benchmarks/tasks.py")
    try:
        module.zoo()
    except MissingError as e:
        pytest.skip(str(e))
    return module


def test_the_digits_network_knows_digits_it_was_not_trained_on(digits: Task) -> None:
    right = hits(digits, digits.search, digits.certify)
    assert len(right) == 900
    assert right.mean() >= 0.97


def test_a_digits_network_without_its_weights_knows_nothing(digits: Task) -> None:
    torch.manual_seed(0)
    blank = digits_resnet.DigitsResNet().eval()
    assert isinstance(digits.search.inputs, Tensor) and digits.search.labels is not None
    with torch.no_grad():
        assert top1(blank(digits.search.inputs), digits.search.labels).mean() < 0.5


def test_no_sample_of_digits_is_in_two_sets(digits: Task) -> None:
    assert [len(d) for d in (digits.calibrate, digits.search, digits.certify)] == [400, 300, 600]
    assert shared(digits.calibrate, digits.search, digits.certify) == 0
    assert shared(digits.calibrate, digits.calibrate) == 400  # the count sees what is shared


@pytest.mark.parametrize("seed", [1, 2])
def test_no_seed_certifies_on_images_that_trained_the_network(seed: int) -> None:
    train, held_out = digits_resnet.halves()
    task = builtin.load("digits-resnet", seed=seed)
    assert set(samples(task.calibrate)) <= set(samples(train))
    assert set(samples(task.search) + samples(task.certify)) == set(samples(held_out))
    assert shared(train, held_out) == 0


def test_the_weights_have_seen_exactly_the_training_half() -> None:
    # another order of the images would certify on some that trained the network
    train, held_out = digits_resnet.halves()
    digest = page("scripts/train_digits_resnet.py").digest
    with safe_open(digits_resnet.WEIGHTS, framework="pt") as file:
        seen = file.metadata()["trained_on"]
    assert (len(train), len(held_out)) == (897, 900)
    assert digest(train.subset(torch.arange(896, -1, -1))) == seen
    assert digest(held_out) != seen


def test_a_seed_draws_one_task_and_another_seed_another(digits: Task) -> None:
    again, other = (builtin.load("digits-resnet", seed=s) for s in (0, 1))
    assert weights_digest(again.model) == weights_digest(digits.model)
    for part in ("calibrate", "search", "certify"):
        mine = samples(getattr(digits, part))
        assert samples(getattr(again, part)) == mine
        assert samples(getattr(other, part)) != mine


def test_building_a_task_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    builtin.load("digits-resnet")
    assert torch.equal(torch.get_rng_state(), before)


def test_digits_arrive_in_the_range_that_the_preprocessing_states(digits: Task) -> None:
    x = digits.certify.inputs
    assert isinstance(x, Tensor)
    assert (x.dtype, x.shape[1:]) == (torch.float32, (1, 16, 16))
    assert 0 <= x.min() and 0.9 < x.max() <= 1
    assert "divided by 16" in digits.preprocess


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="'digit-resnet'; there are: digits-resnet"):
        builtin.load("digit-resnet")


def test_digits_without_scikit_learn_say_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingError, match="pip install"):
        builtin.load("digits-resnet")


def test_the_newcomers_page_gives_a_task_whose_network_has_learnt(own: Task) -> None:
    assert hits(own, own.search, own.certify).mean() >= 0.9
    assert shared(own.calibrate, own.search, own.certify) == 0


def test_the_newcomers_page_gives_the_same_network_every_time(own: Task) -> None:
    # a plan is bound to the weights: a page that trains anew must arrive at the same ones
    torch.set_num_threads(2)
    try:
        again = page("examples/own_network.py").task()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert weights_digest(again.model) == weights_digest(own.model)
    assert samples(again.certify) == samples(own.certify)


@pytest.mark.parametrize(("weights", "published"), [("resnet20_jpeg", 0.8806), ("resnet20", 0.81)])
def test_zoo_networks_reach_the_accuracy_the_zoo_states(
    tasks: ModuleType, weights: str, published: float
) -> None:
    task = tasks.resnet20(weights)
    n = 600
    right = hits(task, task.certify.subset(slice(0, n)))
    # four standard errors of n images, drawn without replacement from the stated 5 000
    assert abs(right.mean() - published) <= 4 * (published * (1 - published) / n * 0.8) ** 0.5
    assert [len(d) for d in (task.calibrate, task.search, task.certify)] == [1024, 1000, 4000]


def test_no_image_of_the_zoo_is_in_two_sets(tasks: ModuleType) -> None:
    task = tasks.resnet20_published()
    assert task.name == "resnet20"
    assert shared(task.calibrate, task.search, task.certify) == 0


def test_unknown_weights_of_the_zoo_are_answered_with_the_known_ones(tasks: ModuleType) -> None:
    with pytest.raises(InputError, match="resnet20_jpeg"):
        tasks.resnet20("resnet21")


def test_a_missing_zoo_says_where_it_was_sought(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ALLOT_ZOO", str(tmp_path))
    with pytest.raises(MissingError, match="ALLOT_ZOO"):
        page("benchmarks/tasks.py").resnet20()
