"""From any picture of an object to the square, white-backed image that the image encoder was trained on. Torch-free."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from scipy import ndimage

from unipart.errors import UserError

MAX_PIXELS = 64_000_000
ALPHA_VISIBLE = 16
"""Alpha from which a pixel counts as part of the object."""
PLAIN_TOLERANCE = 18
"""Largest difference per channel between two pixels of a plain background."""
PLAIN_SHARE = 0.95
"""Share of the border that must have one colour for a background to be plain."""
NEEDS_ALPHA = "give an image with alpha (a PNG with a transparent background), or one on a plain background"


@dataclass(frozen=True)
class PreparedImage:
    """A condition image.

    Attributes:
        pixels: [S S 3] uint8, the object centred on white.
        cutout: how the object was found: "alpha" or "plain background".
    """

    pixels: NDArray[np.uint8]
    cutout: str


def prepare_image(source: str | Path | NDArray[np.uint8], size: int, border: float = 0.15) -> PreparedImage:
    """Cuts the object out, centres it on a white square and resizes it.

    Args:
        source: a file, or pixels [H W 4] (straight alpha) or [H W 3].
        size: S, the side of the result in pixels.
        border: share of the side that stays white.

    Raises:
        UserError: no such image, unreadable, too large, or no object can be told from its background.
    """
    crop, cutout = find_object(source)
    return PreparedImage(_centre_on_white(crop, size, border), cutout)


def find_object(source: str | Path | NDArray[np.uint8]) -> tuple[NDArray[np.uint8], str]:
    """Returns the object's part of an image [H W 4], the rest transparent, and how it was found; else as `prepare_image`."""
    name = "the image" if isinstance(source, np.ndarray) else f"image {source}"
    rgba = _as_rgba(source) if isinstance(source, np.ndarray) else _read(Path(source))
    cutout = "alpha"
    if rgba[..., 3].min() >= 255 - ALPHA_VISIBLE:
        rgba, cutout = _cut_from_plain_background(rgba, name), "plain background"
    rows, columns = (np.flatnonzero((rgba[..., 3] >= ALPHA_VISIBLE).any(axis=axis)) for axis in (1, 0))
    if len(rows) < 2 or len(columns) < 2:
        raise UserError(f"{name} is empty: hardly a pixel is visible", NEEDS_ALPHA)
    return rgba[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], cutout


def _centre_on_white(rgba: NDArray[np.uint8], size: int, border: float) -> NDArray[np.uint8]:
    # Composited before it is resized, so that colours hidden under zero alpha cannot bleed into the edge.
    alpha = rgba[..., 3:].astype(np.float32) / 255
    white = np.rint(rgba[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
    inner = max(1, round(size * (1 - border)))
    height, width = rgba.shape[:2]
    scale = inner / max(height, width)
    target = (max(1, round(width * scale)), max(1, round(height * scale)))
    canvas = Image.new("RGB", (size, size), (255, 255, 255))
    resized = Image.fromarray(white).resize(target, Image.Resampling.BICUBIC)
    canvas.paste(resized, ((size - target[0]) // 2, (size - target[1]) // 2))
    return np.asarray(canvas).copy()


def _cut_from_plain_background(rgba: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
    """Makes the background transparent: what is connected to the border and has the border's colour."""
    colour = rgba[..., :3].astype(np.int16)
    edge = np.concatenate([colour[0], colour[-1], colour[:, 0], colour[:, -1]])
    plain = np.median(edge, axis=0)
    if (np.abs(edge - plain).max(axis=1) <= PLAIN_TOLERANCE).mean() < PLAIN_SHARE:
        raise UserError(f"{name} has no alpha and its background is not plain", NEEDS_ALPHA)
    regions, _ = ndimage.label(np.abs(colour - plain).max(axis=2) <= PLAIN_TOLERANCE)  # pyright: ignore[reportGeneralTypeIssues]
    outer = np.unique(np.concatenate([regions[0], regions[-1], regions[:, 0], regions[:, -1]]))
    background = np.isin(regions, outer[outer > 0])
    return np.concatenate([rgba[..., :3], np.where(background, 0, 255).astype(np.uint8)[..., None]], axis=2)


def _as_rgba(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (3, 4):
        raise ValueError(f"pixels must be uint8 [H W 3] or [H W 4], not {pixels.dtype} {pixels.shape}")
    if pixels.shape[2] == 4:
        return pixels
    return np.concatenate([pixels, np.full((*pixels.shape[:2], 1), 255, np.uint8)], axis=2)


def _read(path: Path) -> NDArray[np.uint8]:
    if path.is_dir():
        raise UserError(f"image {path} is a folder", f"give the images themselves, such as {path}/*.png")
    if not path.is_file():
        raise UserError(f"image {path} does not exist", "check the path")
    try:
        with warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning), Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            # 16-bit greyscale would be clipped, not scaled, by convert().
            if image.mode.startswith("I"):
                image = Image.fromarray((np.asarray(image).astype(np.float64) / 257).clip(0, 255).astype(np.uint8))
            return np.asarray(ImageOps.exif_transpose(image).convert("RGBA"))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):  # Pillow's limits, and ours below them
        raise UserError(f"image {path} is too large", f"make it smaller: at most {MAX_PIXELS:,} pixels are read") from None
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise UserError(f"image {path} cannot be read: {error}", "give a PNG, JPEG or WebP file") from None
