from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unipart.errors import UserError
from unipart.inference.preprocess import prepare_image


def red_box(background: tuple[int, int, int, int] = (0, 0, 0, 0)) -> np.ndarray:
    """A 40 x 20 red box off-centre in a 100 x 120 image."""
    rgba = np.zeros((100, 120, 4), np.uint8)
    rgba[:] = background
    rgba[10:50, 80:100] = (200, 0, 0, 255)
    return rgba


def box_of_object(pixels: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = (np.flatnonzero((pixels[..., 1] < 128).any(axis=axis)) for axis in (1, 0))
    return rows[0], rows[-1] + 1, columns[0], columns[-1] + 1


def test_object_is_centred_on_white_with_the_border():
    prepared = prepare_image(red_box(), 100)
    assert prepared.pixels.shape == (100, 100, 3)
    assert prepared.cutout == "alpha"
    top, bottom, left, right = box_of_object(prepared.pixels)
    assert abs((bottom - top) - 85) <= 1
    assert abs((right - left) - 42.5) <= 1.5
    assert abs((top + bottom) / 2 - 50) <= 1
    assert abs((left + right) / 2 - 50) <= 1
    assert (prepared.pixels[0, 0] == 255).all()


def test_colours_under_zero_alpha_do_not_show():
    a, b = red_box((0, 0, 0, 0)), red_box((0, 255, 0, 0))
    assert np.array_equal(prepare_image(a, 64).pixels, prepare_image(b, 64).pixels)


def test_half_transparent_pixels_blend_with_white():
    rgba = np.zeros((50, 50, 4), np.uint8)
    rgba[:, :] = (0, 0, 0, 128)
    assert abs(int(prepare_image(rgba, 64).pixels[32, 32, 0]) - 127) <= 1


@pytest.mark.parametrize("background", [(255, 255, 255, 255), (30, 60, 90, 255)])
def test_a_plain_background_is_cut_away(background: tuple[int, int, int, int]):
    prepared = prepare_image(red_box(background), 100)
    assert prepared.cutout == "plain background"
    with_alpha = prepare_image(red_box(), 100).pixels.astype(int)
    assert np.abs(prepared.pixels.astype(int) - with_alpha).mean() < 2


def test_background_colour_inside_the_object_stays():
    rgba = red_box((30, 60, 90, 255))
    rgba[20:40, 86:94] = (30, 60, 90, 255)
    centre = prepare_image(rgba, 100).pixels[50, 50]
    assert tuple(centre) == (30, 60, 90)


def test_a_busy_background_is_refused_with_the_fix():
    noise = np.random.Generator(np.random.Philox(0)).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    with pytest.raises(UserError, match="give an image with alpha"):
        prepare_image(noise, 64)


@pytest.mark.parametrize("value", [0, 255])
def test_an_empty_image_is_refused(value: int):
    with pytest.raises(UserError, match="empty"):
        prepare_image(np.full((20, 20, 4), value, np.uint8), 64)


def test_files_of_every_mode(tmp_path: Path):
    expected = prepare_image(red_box(), 64).pixels.astype(int)
    Image.fromarray(red_box()).save(tmp_path / "rgba.png")
    Image.fromarray(red_box()).quantize(16).save(tmp_path / "palette.png")
    Image.fromarray(red_box((255, 255, 255, 255))).convert("RGB").save(tmp_path / "plain.jpg", quality=95)
    for name in ("rgba.png", "palette.png", "plain.jpg"):
        assert np.abs(prepare_image(tmp_path / name, 64).pixels.astype(int) - expected).mean() < 10, name
    deep = np.full((40, 40), 60_000, np.uint16)
    deep[10:30, 10:30] = 20_000
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert abs(int(prepare_image(tmp_path / "deep.png", 64).pixels[32, 32, 0]) - 20_000 / 257) <= 2


def test_unreadable_files_are_named(tmp_path: Path):
    with pytest.raises(UserError, match="does not exist"):
        prepare_image(tmp_path / "absent.png", 64)
    with pytest.raises(UserError, match="is a folder"):
        prepare_image(tmp_path, 64)
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(UserError, match="cannot be read"):
        prepare_image(tmp_path / "text.png", 64)
    Image.fromarray(red_box()).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:120])
    with pytest.raises(UserError, match="cannot be read"):
        prepare_image(tmp_path / "cut.png", 64)


@pytest.mark.parametrize(
    ("pixels", "told"),
    [(np.zeros((20, 20, 4), np.uint8), "is empty"), (np.tile(np.arange(60, dtype=np.uint8) * 4, (60, 1)), "has no alpha")],
)
def test_a_file_without_an_object_is_named(pixels: np.ndarray, told: str, tmp_path: Path):
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    with pytest.raises(UserError, match=rf"photo\.png {told}"):
        prepare_image(tmp_path / "photo.png", 64)


@pytest.mark.parametrize("side", [8100, 10_000, 14_000])
def test_an_image_too_large_for_us_or_for_pillow_is_to_be_made_smaller(side: int, tmp_path: Path):
    """Beyond ours, where Pillow warns, and where Pillow refuses."""
    Image.new("1", (side, side)).save(tmp_path / "huge.png")
    with pytest.raises(UserError, match=r"huge\.png is too large\n  fix: make it smaller: at most 64,000,000 pixels"):
        prepare_image(tmp_path / "huge.png", 64)


def test_pixels_without_colour_are_our_mistake():
    with pytest.raises(ValueError, match="uint8"):
        prepare_image(np.zeros((4, 4), np.uint8), 64)
