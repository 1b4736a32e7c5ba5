"""Which split an asset belongs to: a function of its content alone, so adding assets never moves one."""

import hashlib

SPLITS = ("train", "val", "test")


def split_of(asset_id: str, val_fraction: float, test_fraction: float) -> str:
    """Returns ``train``, ``val`` or ``test``.

    Args:
        asset_id: content id of the asset.
        val_fraction: share of the assets in ``val``, 0..1.
        test_fraction: share of the assets in ``test``, 0..1.
    """
    digest = hashlib.sha256(f"split:{asset_id}".encode()).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    if position < val_fraction:
        return "val"
    return "test" if position < val_fraction + test_fraction else "train"
