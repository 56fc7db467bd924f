"""Laws of trained judges: they learn, repeat by seed, and differ by seed.

Faults these must catch: the global random state used or changed, accuracy measured on what was
trained on, the user's data changed.
"""

from __future__ import annotations

import pytest
import torch
from judges import images

from allot.errors import DataError, InputError
from allot.judging.judge import read
from allot.judging.trained import trained
from allot.task import Data


def halves(n: int = 300) -> Data:
    """Images of three kinds: bright above, bright below, neither."""
    labels = torch.arange(n) % 3
    x = 0.5 * images(n, size=8)
    x[labels == 0, :, :4] += 0.8
    x[labels == 1, :, 4:] += 0.8
    return Data(inputs=x, labels=labels)


def test_a_judge_learns_what_labels_say_and_is_right_about_unseen_images() -> None:
    judge, accuracy = trained(halves(), seed=0, steps=60)
    assert accuracy > 0.9
    fresh = halves(360).subset(slice(300, 360))
    assert isinstance(fresh.inputs, torch.Tensor)
    said = read(judge, fresh.inputs).logits.argmax(1)
    assert (said == fresh.labels).double().mean() > 0.9


def test_random_labels_cannot_be_guessed_on_the_samples_kept_apart() -> None:
    data = halves(100)
    g = torch.Generator().manual_seed(0)
    random = Data(inputs=data.inputs, labels=torch.randint(0, 3, (100,), generator=g))
    judge, accuracy = trained(random, seed=0, steps=120)
    assert isinstance(random.inputs, torch.Tensor) and random.labels is not None
    learned = read(judge, random.inputs).logits.argmax(1) == random.labels
    assert learned.double().mean() > 0.8 > accuracy


def test_seeds_repeat_and_make_different_judges_without_the_global_state() -> None:
    state = torch.get_rng_state()
    first, again, other = (trained(halves(60), seed=s, steps=3)[0] for s in (0, 0, 1))
    assert torch.equal(state, torch.get_rng_state())
    assert first.digest == again.digest != other.digest


def test_features_are_64_and_go_below_zero() -> None:
    judge, _ = trained(halves(60), seed=0, steps=3)
    features = read(judge, images(20, size=8)).features
    assert features.shape == (20, 64) and (features < 0).any()
    assert judge.layers == ("conv1", "conv2", "features")


def test_data_that_cannot_train_are_refused() -> None:
    with pytest.raises(DataError, match="labels"):
        trained(Data(inputs=images(30)), seed=0)
    with pytest.raises(InputError, match="20 images"):
        trained(halves(15), seed=0)
    with pytest.raises(InputError, match="one step"):
        trained(halves(30), seed=0, steps=0)
