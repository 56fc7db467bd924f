"""Laws of what happens to images: identities stay, every change is small, the same and on a grid.

Faults these must catch: images told from inputs that are none; a round trip that is not one; a
shifted block or chroma; a decoder that is no decoder of the same file; images changed in place.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from allot.noise import colour, jpeg, libjpeg, resize
from allot.noise.pictures import Pictures, pictures
from allot.noise.variants import of_images

MEAN, DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
Change = Callable[[np.ndarray], np.ndarray]


def smooth(n: int = 12, side: int = 20, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Images with waves, edges and every level among them."""
    g = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    waves = [
        np.sin(2 * np.pi * (g.uniform(0, 2) * x + g.uniform(0, 2) * y + g.uniform()))
        for _ in range(n * channels)
    ]
    found = 128 + 120 * np.stack(waves).reshape(n, channels, side, side).transpose(0, 2, 3, 1)
    found[0, :2, :2], found[0, -2:, -2:] = 0, 255
    return np.rint(found).clip(0, 255).astype(np.uint8)


def normalized(images: np.ndarray) -> torch.Tensor:
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    c = images.shape[3]
    mean, deviation = (torch.tensor(v[:c]).float().view(c, 1, 1) for v in (MEAN, DEVIATION))
    return (x - mean) / deviation


def every(channels: int = 3) -> list[tuple[str, Change]]:
    variants, _ = of_images("", colour=channels == 3)
    return [(v.label, v.images) for v in variants if v.images is not None]


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_told_from_normalized_inputs_and_give_them_back(channels: int) -> None:
    images = smooth(channels=channels)
    x = normalized(images)
    made, why = pictures(x)
    assert made is not None and not why
    assert np.array_equal(images, made.images)
    assert np.array_equal(x.numpy(), made.of(made.images))
    other = smooth(seed=1, channels=channels)
    assert np.allclose(normalized(other).numpy(), made.of(other), atol=1e-5)


def test_what_are_no_images_is_refused_with_a_reason() -> None:
    x = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    assert "256 levels" in pictures(x)[1]
    assert "256 levels" in pictures((x * 2).round() / 2)[1]
    assert "no images" in pictures(x[:, :2])[1]
    assert "no images" in pictures({"a": x})[1]
    assert "no normalized" in pictures(torch.zeros(4, 3, 6, 6, dtype=torch.int64))[1]
    assert "256 levels" in pictures(torch.zeros(4, 3, 6, 6))[1]


def test_whole_levels_change_nothing_where_they_were_whole() -> None:
    images = smooth()
    whole = Pictures(
        images=images,
        inputs=((images - 118.0) / 59).transpose(0, 3, 1, 2).astype(np.float32),
        step=np.full(3, 1 / 59),
        offset=np.full(3, -118 / 59),
    )
    assert np.allclose(whole.inputs, whole.in_whole_levels(images), atol=1e-6)
    made, _ = pictures(normalized(images))
    assert made is not None
    off = np.abs(made.in_whole_levels(images) - made.inputs)
    assert 0 < off.max() < 0.03


@pytest.mark.parametrize("channels", [1, 3])
def test_every_change_is_one_of_8_bit_images_small_and_the_same_again(channels: int) -> None:
    images = smooth(channels=channels)
    before = images.copy()
    for label, change in every(channels):
        found = change(images)
        assert found.dtype == np.uint8 and found.shape == images.shape, label
        assert np.array_equal(found, change(images)), label
        assert np.array_equal(before, images), label
        off = np.abs(found.astype(int) - images)
        assert 0 < off.mean() < 25, (label, off.mean())


@pytest.mark.parametrize("channels", [1, 3])
def test_a_plain_image_stays_as_it_is(channels: int) -> None:
    for level in (0, 100, 255):
        images = np.full((2, 18, 20, channels), level, np.uint8)
        for label, change in every(channels):
            assert np.abs(change(images).astype(int) - level).max() <= 1, label


def test_samples_do_not_touch_each_other() -> None:
    images = smooth()
    for label, change in every():
        assert np.array_equal(change(images)[3:5], change(images[3:5])), label


def test_full_quality_and_floats_give_gray_images_back() -> None:
    gray = smooth(channels=1)
    assert np.abs(jpeg.decoded(jpeg.coded(gray, quality=100)).astype(int) - gray).max() <= 1
    worse = jpeg.decoded(jpeg.coded(gray, quality=20))
    assert np.abs(worse.astype(int) - gray).mean() > 2


def test_many_bits_of_cosines_are_the_floats() -> None:
    given = jpeg.coded(smooth(channels=1))
    fine = jpeg.decoded(given, bits=20).astype(int) - jpeg.decoded(given)
    coarse = jpeg.decoded(given, bits=6).astype(int) - jpeg.decoded(given)
    assert np.abs(fine).max() <= 1 < np.abs(coarse).max()


@pytest.mark.skipif(bool(libjpeg.missing()), reason=libjpeg.MISSING)
@pytest.mark.parametrize("channels", [1, 3])
def test_our_decoder_is_that_of_libjpeg_to_a_level(channels: int) -> None:
    images = smooth(channels=channels, side=32)
    ours = jpeg.decoded(jpeg.coded(images))
    off = np.abs(libjpeg.through(images).astype(int) - ours)
    assert off.mean() < 1.0 and off.max() <= 12, (off.mean(), off.max())
    shifted = np.abs(libjpeg.through(images).astype(int)[:, 1:] - ours[:, :-1])
    assert shifted.mean() > 3 * off.mean()


def test_colours_go_there_and_back() -> None:
    images = smooth()
    assert np.array_equal(images, colour.from_ycc(colour.to_ycc(images)))
    assert np.abs(colour.rounded(images).astype(int) - images).max() <= 2
    gray = np.repeat(smooth(channels=1), 3, axis=3)
    assert np.array_equal(gray, colour.mistaken(gray))
    assert np.array_equal(colour.to_ycc(gray)[..., 0].round(), gray[..., 0])


def test_chroma_of_four_equal_pixels_is_kept() -> None:
    blocks = smooth(side=10).repeat(2, axis=1).repeat(2, axis=2)
    assert np.array_equal(colour.rounded(blocks), colour.halved(blocks))


def test_the_usual_kernel_changes_nothing() -> None:
    images = smooth()
    assert np.array_equal(images, resize.otherwise(images, resize.SMOOTH))
    assert np.array_equal(images, resize.otherwise(images, resize.BOX, usual=resize.BOX))


def test_kernels_that_mirror_each_other_mirror_the_image() -> None:
    images = smooth()
    for kernel in (resize.BILINEAR, resize.BICUBIC, resize.SHARP, resize.BOX):
        a = resize.otherwise(images[:, ::-1].copy(), kernel)[:, ::-1]
        assert np.abs(a.astype(int) - resize.otherwise(images, kernel)).max() <= 1, kernel
