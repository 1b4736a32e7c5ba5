"""What a source of assets is: something that lists them. How one is read again depends on its location alone (`locations`)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

UNREAD = "unread:"
"""Begins the `sha256` of an asset that could not be read for the catalog; the fetch stage then says why."""

REFUSED = "refused:"
"""Begins the location of what a source found but does not read: ``refused:REASON:PATH``, with a reason of `REFUSALS`."""

REFUSALS = {
    "bad_file_name": "the name of the file, or of a folder above it, is not UTF-8: rename it",
    "not_a_file": "a pipe, a socket, a device or a folder: remove it",
    "linked_folder": "a link to a folder is not followed: give that folder as a source of its own, or remove the link",
}


@dataclass(frozen=True)
class AssetRef:
    """An asset before anything was read.

    Attributes:
        source: name of the source.
        uri: names the asset within its source, the same wherever the source lies.
        location: how a worker reads it in this run; the catalog may add lines with further http(s) addresses of the same content.
        licence: SPDX name or what the source says; empty when unknown.
        sha256: of the file where the source knows it, so that nothing is read to make the catalog; else empty.
        version: a text that changes when the file does, so that a later catalog need not read it again; empty where there is none.
    """

    source: str
    uri: str
    location: str
    licence: str = ""
    sha256: str = ""
    version: str = ""


class Source(Protocol):
    """A place where assets come from; a module in `pipelines.sources` and a line in its catalog."""

    def list_assets(self) -> Iterator[AssetRef]:
        """Yields the assets in an order that depends on the source alone.

        Raises:
            UserError: the source is missing or empty.
        """
        ...
