"""What the procedural kinds draw from: random measures, colours and a bench to put finished parts on."""

from collections.abc import Sequence
from typing import Literal, TypeVar

import numpy as np

from unipart.geometry._palette import srgb_to_linear
from unipart.geometry.glb import GlbNode
from unipart.geometry.mesh import Mesh

Finish = Literal["matte", "gloss", "metal"]
ChoiceT = TypeVar("ChoiceT")

_FINISHES = {"matte": (0.0, 0.85), "gloss": (0.0, 0.35), "metal": (0.6, 0.4)}

COLORS = {
    "wood": ("A9744F", "C08A5B", "8A5A3B", "D8B384", "6B4630", "B98E68", "E0C29A"),
    "fabric": ("3F6C8F", "C65B4E", "7B9E7A", "D9A441", "8C6BA6", "4C5C68", "D98A8A", "5DA0A2"),
    "linen": ("F2EDE4", "E6DFD3", "DCE6EC", "F4E3D7", "E3E8DC"),
    "metal": ("8D98A3", "B6BCC2", "6F7780", "A79B8B", "C9A66B"),
    "dark": ("2F343A", "3A3F47", "403A38", "26323B"),
    "paint": ("D1493F", "2F7FC1", "F2B134", "3E9B6E", "EFEFEA", "E57C3A", "6C5BB5", "29A3A3", "E88FA8"),
    "ceramic": ("F1ECE2", "7FB2C6", "D97B66", "8FB58A", "E4B95B", "51718C", "B99AC9"),
    "glass": ("9CC7DC", "7FB0CC", "B4D6DF"),
    "leaf": ("5E9E4A", "3F7F4C", "7FB356", "8FAF3C", "C98A3A", "4F9A78"),
    "stone": ("B9B2A6", "9C9A96", "C9BFAE", "8E8780"),
    "warm": ("FFD98A", "FFE7B0", "FFC873"),
}
"""Plausible sRGB colours by what a part is made of."""


class Workshop:
    """Draws measures and colours for one object and collects its parts.

    Args:
        rng: the object's generator.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self.parts: list[GlbNode] = []

    def size(self, low: float, high: float) -> float:
        """Returns a uniform measure."""
        return float(self._rng.uniform(low, high))

    def count(self, low: int, high: int) -> int:
        """Returns a whole number, both ends included."""
        return int(self._rng.integers(low, high + 1))

    def chance(self, share: float) -> bool:
        """Returns True for this share of the objects."""
        return bool(self._rng.random() < share)

    def pick(self, choices: Sequence[ChoiceT]) -> ChoiceT:
        """Returns one of the choices."""
        return choices[int(self._rng.integers(len(choices)))]

    def color(self, *materials: str) -> str:
        """Returns a colour (sRGB hex) of one of the materials, its lightness varied a little."""
        text = self.pick([color for material in materials for color in COLORS[material]])
        shade = self.size(0.93, 1.05)
        return "".join(f"{min(255, round(int(text[i : i + 2], 16) * shade)):02X}" for i in (0, 2, 4))

    def add(self, name: str, mesh: Mesh, color: str, finish: Finish = "matte") -> None:
        """Puts a finished part on the bench."""
        red, green, blue = srgb_to_linear(np.array([int(color[i : i + 2], 16) / 255 for i in (0, 2, 4)]))
        metallic, roughness = _FINISHES[finish]
        rgba = (float(red), float(green), float(blue), 1.0)
        self.parts.append(GlbNode(name, mesh, rgba, metallic=metallic, roughness=roughness, crease_degrees=40.0))
