"""Every random draw comes from here: a seed and the names of what is drawn, never global state."""

import hashlib

import numpy as np

Key = str | int


def derive_seed(seed: int, *keys: Key) -> int:
    """Returns a 63-bit seed that depends on the seed and every key, the same on all machines."""
    text = "\x1f".join([str(int(seed)), *(f"{type(key).__name__}:{key}" for key in keys)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def derive(seed: int, *keys: Key) -> np.random.Generator:
    """Returns an independent NumPy generator for ``(seed, *keys)``."""
    return np.random.Generator(np.random.Philox(derive_seed(seed, *keys)))
