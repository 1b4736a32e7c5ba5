"""Images to RGBA arrays, with the pixel count checked before anything is decoded."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unipart.geometry._palette import srgb_to_linear
from unipart.geometry.formats.scene import LoadLimits, SceneBuilder

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TGA", "GIF")


def decode_texture(data: bytes | None, name: str, builder: SceneBuilder) -> NDArray[np.uint8] | None:
    """Returns the image as [H W 4] uint8, reduced to `LoadLimits.max_texture_size`; None with a warning when it cannot be had."""
    if data is None:
        builder.warn(f"missing_texture: {name} does not exist; the texture was dropped")
        return None
    limits: LoadLimits = builder.limits
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            width, height = image.size
            if width * height > limits.max_image_pixels:
                builder.warn(f"image_too_large: {name} has {width} x {height} pixels; the texture was dropped")
                return None
            if image.mode.startswith("I;16"):  # Pillow would clip 16-bit grey at 255 instead of scaling it
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            rgba = image.convert("RGBA")
            rgba.thumbnail((limits.max_texture_size, limits.max_texture_size))
            return np.array(rgba, dtype=np.uint8)
    except Image.DecompressionBombError:
        builder.warn(f"image_too_large: {name} exceeds the decoder's pixel limit; the texture was dropped")
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        builder.warn(f"bad_texture: {name} does not decode ({type(error).__name__}); the texture was dropped")
    return None


def mean_linear(texture: NDArray[np.uint8], is_srgb: bool) -> NDArray[np.float64]:
    """Returns the mean (r, g, b) of a texture, linear."""
    values = texture[..., :3].reshape(-1, 3) / 255.0
    return (srgb_to_linear(values) if is_srgb else values).mean(axis=0)
