"""Fetch: location -> scene."""

import io

from pipelines.sources.base import UNREAD
from pipelines.sources.identity import identify
from pipelines.sources.locations import open_asset
from pipelines.stages.base import Row, Stage
from unipart.errors import Reject
from unipart.geometry.load import LoadLimits, load_scene_bytes


class FetchStage(Stage):
    """Reads an asset and makes sure that it is the one in the catalog."""

    name = "fetch"
    reads = ("location", "sha256")
    writes = ("scene",)
    config: LoadLimits

    def __call__(self, row: Row) -> Row:
        """Returns the scene.

        Raises:
            Reject: ``content_changed`` since the catalog was made, or what the reader or the loader says of the asset.
            OSError: the asset cannot be read now, or could not when the catalog was made.
        """
        with open_asset(row["location"], self.config.max_bytes) as asset:
            data, suffix, folder = asset.read(), asset.suffix, asset.folder
        found = identify(io.BytesIO(data), suffix, folder)
        if row["sha256"].startswith(UNREAD):
            raise OSError("the asset could not be read when the catalog was made, and now it can: run again")
        if row["sha256"] not in (found.sha256, found.file_sha256):  # a listing gives the hash of the file without side files
            raise Reject(
                "content_changed",
                f"the content has sha256 {found.sha256}, the catalog says {row['sha256']}; run again if it is new",
            )
        return {"scene": load_scene_bytes(data, suffix, self.config, folder)}
