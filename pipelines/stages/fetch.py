"""Fetch: location -> scene."""

from pipelines.sources.catalog import source_class
from pipelines.stages.base import Row, Stage
from unipart.errors import Reject
from unipart.geometry.load import LoadLimits


class FetchStage(Stage):
    """Reads an asset and makes sure that it is the one in the catalog."""

    name = "fetch"
    reads = ("location", "sha256")
    writes = ("scene",)
    config: LoadLimits

    def __call__(self, row: Row) -> Row:
        """Returns the scene.

        Raises:
            Reject: ``content_changed`` since the catalog was made, or what the loader says of the data.
        """
        source = source_class(row["location"])
        if source.identify(row["location"]).sha256 != row["sha256"]:
            raise Reject("content_changed", "the bytes are not those of the catalog; run again")
        return {"scene": source.load(row["location"], self.config)}
