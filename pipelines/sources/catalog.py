"""The sources by name, and the catalog (artefact A1): a row per asset that they list."""

import hashlib
import heapq
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain, islice
from pathlib import PurePosixPath
from typing import Any

from pipelines.sources import listing, procedural
from pipelines.sources.base import REFUSED, UNREAD, AssetRef, Source
from pipelines.sources.folder import FolderSource
from pipelines.sources.http import is_http
from pipelines.sources.identity import Content, identify
from pipelines.sources.licences import normalise_licence
from pipelines.sources.listing import ListingSource
from pipelines.sources.locations import open_asset
from pipelines.sources.procedural import ProceduralSource
from unipart.errors import UserError
from unipart.geometry.load import SUFFIXES, LoadLimits
from unipart.storage import MAX_S3_CONNECTIONS

ASSET_ID_DIGITS = 20
_BATCH = 1024
"""Assets in work at once, so that a listing of millions is not queued as a whole."""
_MOST_TWINS = 3
"""Further addresses that are tried for a download."""

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
    specs: Sequence[str],
    limit: int | None = None,
    max_bytes: int = LoadLimits().max_bytes,
    known: Iterable[Row] = (),
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> list[Row]:
    """Lists the assets of all sources with their content hashes, read in parallel where the source does not know them.

    An asset that cannot be read has a row too: its `sha256` begins with `UNREAD`, its `bytes` are None.

    Args:
        specs: source specifications, in order.
        limit: take this many, spread over the sources by a hash of their names; a larger limit adds to the same ones.
        max_bytes: limit of a download, and of the side files of an asset together.
        known: rows of an earlier catalog; files without side files that are still of the same version are not read again.
        tell: is told after every asset how many are done, and of how many.

    Returns:
        Rows with every column of the catalog except `split`, in the order of the sources.

    Raises:
        UserError: no source, or one that is missing or empty.
    """
    if not specs:
        raise UserError("no source given", "give a folder of mesh files, an s3:// prefix, a listing or procedural:count=N")
    found = map(_nameable, chain.from_iterable(find_source(spec).list_assets() for spec in specs))
    if limit is None:
        refs = list(found)
    else:
        chosen = heapq.nsmallest(limit, enumerate(found), key=lambda item: hashlib.sha256(item[1].uri.encode()).digest())
        refs = [ref for _, ref in sorted(chosen, key=lambda item: item[0])]
    rows = []
    for row in _rows(iter(refs), max_bytes, {(row["location"], row["version"]): row for row in known if row.get("version")}):
        rows.append(row)
        tell(len(rows), len(refs))
    _tell_formats_apart(rows)
    _join_twins(rows)
    return rows


def _tell_formats_apart(rows: Sequence[Row]) -> None:
    """Gives content that lies under names of several formats an id for each: all but one are misnamed, and none stands for another.

    No file keeps the id that it has alone: that one would mean another file as soon as a further name turns up.
    """
    formats: dict[str, set[str]] = {}
    for row in rows:
        formats.setdefault(row["sha256"], set()).add(_format(row["location"]))
    for row in rows:
        name = _format(row["location"])
        if name and len(formats[row["sha256"]] - {""}) > 1:
            row["asset_id"] = hashlib.sha256((row["sha256"] + name).encode()).hexdigest()[:ASSET_ID_DIGITS]


def _format(location: str) -> str:
    """Returns the suffix by which a location is read, one for both names of glTF; empty where only the content tells."""
    suffix = PurePosixPath(re.split(r"[?#]", location)[0] if is_http(location) else location).suffix.lower()
    return {".gltf": ".glb"}.get(suffix, suffix) if suffix in SUFFIXES else ""


def _join_twins(rows: Sequence[Row]) -> None:
    """Gives the first of several addresses of one content the others to fall back on: links die, and listings know many copies.

    The later ones count as duplicates in any case. Copies under another licence stay out of it.
    """
    first: dict[tuple[str, str], Row] = {}
    for row in (row for row in rows if is_http(row["location"])):
        twin = first.setdefault((row["asset_id"], row["licence"]), row)
        if twin is not row and twin["location"].count("\n") < _MOST_TWINS:
            twin["location"] += "\n" + row["location"]


def _nameable(ref: AssetRef) -> AssetRef:
    """Returns the asset as it is, or refused where a file name is not UTF-8: no table could hold it."""
    source, uri, location = map(_escaped, (ref.source, ref.uri, ref.location))
    if location == ref.location and (source, uri) == (ref.source, ref.uri):
        return ref
    return replace(ref, source=source, uri=uri, location=f"{REFUSED}bad_file_name:{location}")


def _escaped(name: str) -> str:
    """Returns a file name with the bytes that are not UTF-8 as hexadecimal digits."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


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
    sha256 = ref.sha256 or (content.sha256 if content else _unread(ref))
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


def _unread(ref: AssetRef) -> str:
    """Returns what stands for the hash of a file that was not read; two roots may have the same source and uri."""
    return UNREAD + hashlib.sha256("\n".join((ref.source, ref.uri, ref.location)).encode()).hexdigest()


def _identify(ref: AssetRef, max_bytes: int) -> Content | None:
    """Returns the identity of an asset; None when it cannot be read, which is for the fetch stage to explain.

    The fetch stage meets the same error in its isolated process, so that one bad asset does not end the run.
    """
    try:
        with open_asset(ref.location, max_bytes) as asset:
            return identify(asset.file, asset.suffix, asset.folder)
    except (OSError, ValueError, OverflowError):  # `Reject` and `EnvironmentProblem` are ValueErrors
        return None
