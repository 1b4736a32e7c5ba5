"""All textures of a mesh in one flat array with their half-size copies, so that one gather samples every material at once."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unipart.geometry._palette import srgb_to_linear

_LEVELS = 11
_DECODE = srgb_to_linear(np.arange(256) / 255).astype(np.float32)
_DECODE_ALPHA = (np.arange(256) / 255).astype(np.float32)


class TextureStack:
    """Bilinear, repeating lookups in sRGB textures, from the copy whose texels are about as large as a sample.

    Args:
        textures: uint8 RGBA [H W 4] or None per material; None reads as white.
    """

    def __init__(self, textures: Sequence[NDArray[np.uint8] | None]) -> None:
        white = np.full((1, 1, 4), 255, np.uint8)
        levels = [_half_sizes(white if texture is None else texture) for texture in textures]
        sizes = np.array([[level.shape[:2] for level in chain] for chain in levels], np.int32).reshape(-1, _LEVELS, 2)
        self._height, self._width = sizes[..., 0], sizes[..., 1]
        lengths = (self._height.astype(np.int64) * self._width).ravel()
        self._offset = (np.cumsum(lengths) - lengths).reshape(-1, _LEVELS)
        self._texels = np.concatenate([level.reshape(-1, 4) for chain in levels for level in chain])
        self.has_texture = np.array([texture is not None for texture in textures])

    def texel_density(
        self, material: NDArray[np.integer], uv_area: NDArray[np.floating], area: NDArray[np.floating]
    ) -> NDArray[Any]:
        """Returns texels per unit of length on a face [F], from its areas in texture space and in space."""
        texels = uv_area * self._height[material, 0] * self._width[material, 0]
        return np.sqrt(texels / np.maximum(area, 1e-20)).astype(np.float32)

    def sample(
        self, material: NDArray[np.integer], uv: NDArray[np.float32], texels_per_sample: NDArray[np.float32]
    ) -> NDArray[Any]:
        """Returns linear RGB and alpha [R 4] at uv [R 2]; v runs down the image as in glTF."""
        level = np.clip(np.round(np.log2(np.maximum(texels_per_sample, 1))), 0, _LEVELS - 1).astype(np.int32)
        width, height = self._width[material, level], self._height[material, level]
        x, y = (uv[:, 0] % 1) * width - np.float32(0.5), (uv[:, 1] % 1) * height - np.float32(0.5)
        left, top = np.floor(x), np.floor(y)
        across, down = (x - left)[:, None], (y - top)[:, None]
        left, top = left.astype(np.int32), top.astype(np.int32)
        rows = (
            self._offset[material, level] + (top % height) * width,
            self._offset[material, level] + ((top + 1) % height) * width,
        )
        columns = (left % width, (left + 1) % width)
        upper = self._read(rows[0] + columns[0]) * (1 - across) + self._read(rows[0] + columns[1]) * across
        lower = self._read(rows[1] + columns[0]) * (1 - across) + self._read(rows[1] + columns[1]) * across
        return upper * (1 - down) + lower * down

    def _read(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        codes = self._texels[index]
        values = _DECODE[codes]
        values[:, 3] = _DECODE_ALPHA[codes[:, 3]]
        return values


def _half_sizes(texture: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """Returns the texture and its successive half-size copies; the last one repeats."""
    chain = [np.ascontiguousarray(texture)]
    while len(chain) < _LEVELS:
        height, width = chain[-1].shape[:2]
        if max(height, width) == 1:
            chain.append(chain[-1])
        else:
            size = (max(1, width // 2), max(1, height // 2))
            chain.append(np.asarray(Image.fromarray(chain[-1]).resize(size, Image.Resampling.BOX)))
    return chain
