"""Part colours, the same in figures, the viewer and exported GLB files; and the sRGB transfer function."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

_FIRST = ("3A86C8", "E69F00", "2BA884", "CC79A7", "6FC1EE", "D55E00", "EBDD4B", "7D63B8", "9FA8B2", "A0522D")
"""Okabe and Ito's colours, which stay apart under the common colour-vision deficiencies, softened for shading, and three more."""

_GOLDEN_ANGLE = math.pi * (3 - math.sqrt(5))


def palette(count: int) -> NDArray[np.float64]:
    """Returns distinct colours as sRGB values 0..1 [count 3]; the first ones do not depend on the count.

    For a linear factor (glTF ``baseColorFactor``) apply `srgb_to_linear`.
    """
    known = [tuple(int(text[i : i + 2], 16) / 255 for i in (0, 2, 4)) for text in _FIRST]
    more = [_generated(index) for index in range(max(0, count - len(known)))]
    return np.array([*known, *more][:count], dtype=np.float64).reshape(-1, 3)


def srgb_to_linear(values: NDArray[Any]) -> NDArray[np.float64]:
    """Maps sRGB-encoded values 0..1 to linear light."""
    values = np.asarray(values, np.float64)
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(values: NDArray[Any]) -> NDArray[np.float64]:
    """Maps linear light 0..1 to sRGB-encoded values."""
    values = np.clip(np.asarray(values, np.float64), 0, 1)
    return np.where(values <= 0.0031308, values * 12.92, 1.055 * values ** (1 / 2.4) - 0.055)


def _generated(index: int) -> NDArray[np.float64]:
    """Walks the hue circle of OKLab by the golden angle, with the lightness in three steps."""
    lightness, chroma = (0.74, 0.58, 0.84)[index % 3], (0.13, 0.12, 0.09)[index % 3]
    hue = index * _GOLDEN_ANGLE + 0.6
    a, b = chroma * math.cos(hue), chroma * math.sin(hue)
    cone = np.array(
        [
            lightness + 0.3963377774 * a + 0.2158037573 * b,
            lightness - 0.1055613458 * a - 0.0638541728 * b,
            lightness - 0.0894841775 * a - 1.2914855480 * b,
        ]
    )
    to_linear = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    return linear_to_srgb(to_linear @ cone**3)
