"""Renders laid out for people: over a background, side by side."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont


def on_background(rgba: NDArray[np.uint8], color: tuple[int, int, int] = (255, 255, 255)) -> NDArray[np.uint8]:
    """Returns the image over a plain colour [H W 3]."""
    alpha = rgba[..., 3:].astype(np.float32) / 255
    return np.round(rgba[..., :3] * alpha + np.asarray(color, np.float32) * (1 - alpha)).astype(np.uint8)


def contact_sheet(
    rows: Sequence[tuple[str, Sequence[NDArray[np.uint8]]]], captions: Sequence[str] = (), gap: int = 8
) -> Image.Image:
    """Returns a labelled grid of images.

    Args:
        rows: (label, images [H W 3 or 4]) per row; rows may be of different length.
        captions: text over each column.
        gap: pixels between images.

    Raises:
        ValueError: no image at all.
    """
    images = [image for _, row in rows for image in row]
    if not images:
        raise ValueError("a contact sheet needs at least one image")
    height, width = max(image.shape[0] for image in images), max(image.shape[1] for image in images)
    columns, text = max(len(row) for _, row in rows), 18
    top = text + gap if captions else gap
    sheet = Image.new("RGB", (gap + columns * (width + gap), top + len(rows) * (height + text + gap)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for column, caption in enumerate(captions):
        draw.text((gap + column * (width + gap), gap // 2), caption, "#555", font)
    for index, (label, row) in enumerate(rows):
        y = top + index * (height + text + gap)
        draw.text((gap, y), label, "#222", font)
        for column, image in enumerate(row):
            picture = Image.fromarray(image).convert("RGBA")
            sheet.paste(picture, (gap + column * (width + gap), y + text), picture)
    return sheet
