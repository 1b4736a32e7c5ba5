"""The sources by name, and the catalog (artefact A1): a row per asset that they list."""

import hashlib
import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from typing import Any

from pipelines.sources import listing, procedural
from pipelines.sources.base import UNREAD, AssetRef, Source
from pipelines.sources.folder import FolderSource
from pipelines.sources.identity import Content, identify
from pipelines.sources.licences import normalise_licence
from pipelines.sources.listing import ListingSource
from pipelines.sources.locations import open_asset
from pipelines.sources.procedural import ProceduralSource
from unipart.errors import EnvironmentProblem, Reject, UserError
from unipart.geometry.load import LoadLimits
from unipart.storage import MAX_S3_CONNECTIONS

ASSET_ID_DIGITS = 20
_BATCH = 1024
"""Assets in work at once, so that a listing of millions is not queued as a whole."""

Row = dict[str, Any]


def find_source(spec: str) -> Source:
    """Returns the source that a specification names.

    Raises:
        UserError: it does not exist.
    """
    if spec.startswith(procedural.SCHEME):
        return ProceduralSource(spec)
    if spec.lower().endswith(listing.SUFFIXES):
        return ListingSource(spec)
    return FolderSource(spec)


def build_catalog(
    specs: Sequence[str], limit: int | None = None, max_bytes: int = LoadLimits().max_bytes, known: Iterable[Row] = ()
) -> list[Row]:
    """Lists the assets of all sources with their content hashes, read in parallel where the source does not know them.

    An asset that cannot be read has a row too: its `sha256` begins with `UNREAD`, its `bytes` are None.

    Args:
        specs: source specifications, in order.
        limit: take this many, spread over the sources by a hash of their names; a larger limit adds to the same ones.
        max_bytes: limit of a download, and of the side files of an asset together.
        known: rows of an earlier catalog; files without side files that are still of the same version are not read again.

    Returns:
        Rows with every column of the catalog except `split`, in the order of the sources.

    Raises:
        UserError: no source, or one that is missing or empty.
    """
    if not specs:
        raise UserError("no source given", "give a folder of mesh files, an s3:// prefix, a listing or procedural:count=N")
    refs: Iterable[AssetRef] = chain.from_iterable(find_source(spec).list_assets() for spec in specs)
    if limit is not None:
        chosen = heapq.nsmallest(limit, enumerate(refs), key=lambda item: hashlib.sha256(item[1].uri.encode()).digest())
        refs = [ref for _, ref in sorted(chosen, key=lambda item: item[0])]
    return list(_rows(iter(refs), max_bytes, {(row["location"], row["version"]): row for row in known if row.get("version")}))


def _rows(refs: Iterator[AssetRef], max_bytes: int, known: Mapping[tuple[str, str], Row]) -> Iterator[Row]:
    with ThreadPoolExecutor(MAX_S3_CONNECTIONS) as threads:
        while batch := list(islice(refs, _BATCH)):
            before = [known.get((ref.location, ref.version)) for ref in batch]
            unread = [ref for ref, row in zip(batch, before, strict=True) if not ref.sha256 and row is None]
            read = threads.map(lambda ref: _identify(ref, max_bytes), unread)
            for ref, row in zip(batch, before, strict=True):
                if row is not None:
                    content = Content(row["sha256"], row["sha256"], row["bytes"], stands_alone=True)
                else:
                    content = None if ref.sha256 else next(read)
                yield _row(ref, content)


def _row(ref: AssetRef, content: Content | None) -> Row:
    sha256 = ref.sha256 or (content.sha256 if content else UNREAD + hashlib.sha256(f"{ref.source}\n{ref.uri}".encode()).hexdigest())
    return {
        "asset_id": sha256.removeprefix(UNREAD)[:ASSET_ID_DIGITS],
        "source": ref.source,
        "uri": ref.uri,
        "location": ref.location,
        "sha256": sha256,
        "licence": normalise_licence(ref.licence),
        "bytes": content.num_bytes if content else None,
        "version": ref.version if content and content.stands_alone else "",
    }


def _identify(ref: AssetRef, max_bytes: int) -> Content | None:
    """Returns the identity of an asset; None when it cannot be read, which is for the fetch stage to explain."""
    try:
        with open_asset(ref.location, max_bytes) as asset:
            return identify(asset.file, asset.suffix, asset.folder)
    except (Reject, OSError, EnvironmentProblem):
        return None
