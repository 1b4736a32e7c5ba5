"""The built-in source: objects made of closed solid parts, a new one for every seed."""

from collections.abc import Callable

from unipart.geometry import _kinds_indoors as indoors
from unipart.geometry import _kinds_outdoors as outdoors
from unipart.geometry._workshop import Workshop
from unipart.geometry.glb import GlbNode, write_glb
from unipart.rng import derive

_BUILDERS: dict[str, Callable[[Workshop], None]] = {
    "chair": indoors.chair,
    "table": indoors.table,
    "lamp": indoors.lamp,
    "bed": indoors.bed,
    "bookcase": indoors.bookcase,
    "sofa": indoors.sofa,
    "hammer": indoors.hammer,
    "mug": indoors.mug,
    "teapot": indoors.teapot,
    "cake": indoors.cake,
    "car": outdoors.car,
    "airplane": outdoors.airplane,
    "rocket": outdoors.rocket,
    "sailboat": outdoors.sailboat,
    "robot": outdoors.robot,
    "mushroom": outdoors.mushroom,
    "snowman": outdoors.snowman,
    "house": outdoors.house,
    "tree": outdoors.tree,
    "turtle": outdoors.turtle,
}

KINDS: tuple[str, ...] = tuple(_BUILDERS)
"""What can be built."""


def build(kind: str, seed: int) -> list[GlbNode]:
    """Returns the parts of an object: 3 to 8 closed solids, each connected, faces out; y up, front +z, one to two units large.

    Args:
        kind: one of `KINDS`.
        seed: chooses proportions, variants and colours; the same seed gives the same object on every machine.

    Raises:
        ValueError: no such kind.
    """
    if kind not in _BUILDERS:
        raise ValueError(f"no procedural kind {kind!r}; there are {', '.join(KINDS)}")
    shop = Workshop(derive(seed, "procedural", kind))
    _BUILDERS[kind](shop)
    return shop.parts


def build_glb(kind: str, seed: int) -> bytes:
    """Returns `build` as the bytes of a GLB file, a named node per part."""
    return write_glb(build(kind, seed))
