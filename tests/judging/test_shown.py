"""Laws of what is shown: pictures decode to the samples of their condition, and to nothing else.

Faults these must catch: rows and columns exchanged, a checksum over the wrong bytes, samples of
another condition, a difference of the wrong sign, one name for two conditions.
"""

from __future__ import annotations

import base64
import math
import struct
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from judges import images

from allot.errors import DataError
from allot.judging.png import encode
from allot.judging.resampled import Estimate
from allot.judging.shown import names_of, shown


def decode(data: bytes) -> np.ndarray:
    """Pixels of a PNG without filters, every checksum held."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, found = 8, {}
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        assert struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0] == zlib.crc32(
            kind + body
        )
        found[kind], at = body, at + 12 + length
    w, h, depth, colour, *rest = struct.unpack(">IIBBBBB", found[b"IHDR"])
    assert depth == 8 and rest == [0, 0, 0] and list(found)[-1] == b"IEND"
    channels = {0: 1, 2: 3}[colour]
    rows = np.frombuffer(zlib.decompress(found[b"IDAT"]), np.uint8).reshape(h, 1 + w * channels)
    assert (rows[:, 0] == 0).all()
    return rows[:, 1:].reshape(h, w, channels)


def pixels(text: str) -> np.ndarray:
    return decode(base64.b64decode(text))


@pytest.mark.parametrize("shape", [(3, 5), (4, 2, 1), (2, 7, 3), (1, 1)])
def test_a_picture_decodes_to_the_pixels_it_was_made_of(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    assert (decode(encode(x)) == x.reshape(*shape[:2], -1)).all()


def test_other_readers_see_the_same_picture(tmp_path: Any) -> None:
    image = pytest.importorskip("PIL.Image", reason="an independent reader of PNG files")
    x = np.random.default_rng(0).integers(0, 256, (6, 9, 3)).astype(np.uint8)
    (tmp_path / "x.png").write_bytes(encode(x))
    with image.open(tmp_path / "x.png") as picture:
        assert (np.asarray(picture.convert("RGB")) == x).all()


def test_what_is_no_picture_is_refused() -> None:
    for x in (np.zeros((2, 2)), np.zeros((2, 2, 2), np.uint8), np.zeros((0, 2), np.uint8)):
        with pytest.raises(DataError, match="a picture is uint8"):
            encode(x)  # type: ignore[arg-type]


@pytest.mark.parametrize("channels", [1, 3])
def test_every_row_holds_the_samples_of_its_condition_side_by_side(channels: int) -> None:
    x = images(12).repeat(1, channels, 1, 1)
    y = (x + 0.1).clamp(-1, 1)
    names = ["a", "b", "b"] * 4
    rows = shown(x, y, names)["rows"]
    assert [r["condition"] for r in rows] == ["a", "b"]
    for row in rows:
        mine = [i for i, n in enumerate(names) if n == row["condition"]]
        for key, given in (("original", x), ("compressed", y)):
            wide = torch.cat([given[i] for i in mine], 2).permute(1, 2, 0)
            assert np.abs(pixels(row[key]) / 127.5 - 1 - wide.numpy()).max() <= 1 / 255 + 1e-6


def test_the_difference_is_grey_where_there_is_none_and_brighter_where_there_is_more() -> None:
    x = torch.zeros(1, 1, 4, 4)
    y = x.clone()
    y[0, 0, 0, 0], y[0, 0, 0, 1], y[0, 0, 0, 2] = 0.1, -0.1, 2.0
    found = pixels(shown(x, y, [""])["rows"][0]["difference"])[:, :, 0]
    assert found[3, 3] in (127, 128)
    assert found[0, 1] < 127 < 128 < found[0, 0] < found[0, 2] == 255


def test_at_most_eight_samples_of_a_condition_are_shown() -> None:
    x = images(30)
    a, b = shown(x, x, ["a"] * 27 + ["b"] * 3)["rows"]
    assert (a["width"], a["height"]) == (8 * 12, 12) and (b["width"], b["height"]) == (3 * 12, 12)
    assert pixels(a["original"]).shape == (12, 96, 1)
    assert pixels(b["difference"]).shape == (12, 36, 1)


def test_latents_have_no_pictures_but_figures() -> None:
    x = images(3).repeat(1, 4, 1, 1)
    found = shown(x, x, [""] * 3, figures={"ssim": Estimate(value=1.0, low=0.9, high=1.0, n=3)})
    assert found["rows"] == [] and len(found["figures"]) == 1


def test_conditions_have_names_classes_their_own() -> None:
    noise = images(4)
    assert names_of({"noise": noise}) == [""] * 4
    assert names_of({"noise": noise, "label": torch.tensor([3, 0, 3, 7])}) == ["3", "0", "3", "7"]
    text = torch.tensor([[0.5, 1.0], [0.0, 1.0], [0.5, 1.0], [2.0, 1.0]])
    assert names_of({"text": text, "noise": noise}) == ["1", "2", "1", "3"]
    mask = torch.tensor([1, 1, 2, 2])
    assert names_of({"text": text, "mask": mask, "noise": noise}) == ["1", "2", "3", "4"]


def test_figures_are_carried_with_their_intervals_and_infinity_as_unknown() -> None:
    x = images(2)
    found = {"psnr": Estimate(value=math.inf, low=30.0, high=math.inf, n=2)}
    (row,) = shown(x, x, ["", ""], figures=found)["figures"]
    assert row == {"name": "psnr", "value": None, "low": 30.0, "high": None, "n": 2}


def test_what_cannot_be_shown_is_refused() -> None:
    x = images(4)
    for a, b, names in ((x, x[:3], [""] * 4), (x, x, [""])):
        with pytest.raises(DataError, match="samples are shown"):
            shown(a, b, names)
