"""A command's TASK: a sampler's directory with its settings; what is wrong with one is said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from allot.cli.tasks import find
from allot.errors import InputError
from allot.sampling.sampler import Sampler

diffusers = pytest.importorskip("diffusers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.families.networks import dit

    path = tmp_path_factory.mktemp("dit")
    dit().save_pretrained(path)
    diffusers.DDIMScheduler(num_train_timesteps=100).save_pretrained(path / "scheduler")
    return path


def test_a_directory_is_a_sampler_of_so_many_steps(folder: Path) -> None:
    task = find(f"{folder}@steps=3,search=6,certify=5,calibrate=4", seed=1)
    assert isinstance(task.model, Sampler) and len(task.model.grid) == 3
    assert [len(d) for d in (task.calibrate, task.search, task.certify)] == [4, 6, 5]
    # every class as often as the others, up to one
    counts = torch.bincount(task.search.inputs["class_labels"], minlength=5)  # type: ignore[index]
    assert int(counts.max() - counts.min()) <= 1
    assert task.family is not None


def test_seeds_draw_other_noises(folder: Path) -> None:
    a, b = (find(f"{folder}@steps=2,search=4,certify=4,calibrate=4", seed=s) for s in (0, 1))
    assert not torch.equal(a.search.inputs["noise"], b.search.inputs["noise"])  # type: ignore[index]


@pytest.mark.parametrize(
    ("settings", "said"),
    (("stepps=3", "no setting; there are steps"), ("steps=many", "is no int"),
     ("steps=3,certify=0", "at least one noise")),
)  # fmt: skip
def test_a_wrong_setting_is_named(folder: Path, settings: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        find(f"{folder}@{settings}")


def test_a_network_that_is_told_a_text_asks_for_conditions(tmp_path: Path) -> None:
    from tests.families.networks import text_unet

    text_unet().save_pretrained(tmp_path)
    diffusers.DDIMScheduler(num_train_timesteps=100).save_pretrained(tmp_path / "scheduler")
    with pytest.raises(InputError, match=r"--conditions|conditions"):
        find(f"{tmp_path}@steps=2")


def test_what_is_no_directory_of_diffusers_is_looked_up_as_before() -> None:
    with pytest.raises(InputError, match="there is no file"):
        find("nowhere.py:task")
