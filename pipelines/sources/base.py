"""What a source of assets is: something that lists them, and a way to read one again by its location alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from unipart.geometry.load import LoadLimits, Scene


@dataclass(frozen=True)
class AssetRef:
    """An asset before anything was read.

    Attributes:
        source: name of the source.
        uri: names the asset within its source, the same wherever the source lies.
        location: how a worker reads it in this run.
        licence: SPDX name or what the source says; empty when unknown.
    """

    source: str
    uri: str
    location: str
    licence: str = ""


@dataclass(frozen=True)
class Content:
    """Identity of an asset's bytes.

    Attributes:
        sha256: of the file, and of its side files where it has some.
        num_bytes: size of all of them.
    """

    sha256: str
    num_bytes: int


class Source(Protocol):
    """A place where assets come from; a module in `pipelines.sources` and a line in its catalog."""

    def list_assets(self) -> Iterator[AssetRef]:
        """Yields the assets in an order that depends on the source alone.

        Raises:
            UserError: the source is missing or empty.
        """
        ...

    @staticmethod
    def identify(location: str) -> Content:
        """Reads an asset's bytes and returns their identity."""
        ...

    @staticmethod
    def load(location: str, limits: LoadLimits) -> Scene:
        """Reads an asset as a scene.

        Raises:
            Reject: bad data, with its reason code.
        """
        ...
