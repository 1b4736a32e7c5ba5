"""The sources by name, and the catalog (artefact A1): a row per asset that they list."""

import hashlib
from collections.abc import Sequence
from typing import Any

from pipelines.sources.base import Source
from pipelines.sources.local import LocalSource
from pipelines.sources.procedural import ProceduralSource
from unipart.errors import UserError

SOURCES: dict[str, type[Source]] = {"procedural:": ProceduralSource, "": LocalSource}
"""Scheme -> source; a specification without a known scheme is a path."""

ASSET_ID_DIGITS = 20

Row = dict[str, Any]


def source_class(spec_or_location: str) -> type[Source]:
    """Returns the class that reads a specification or a location."""
    return next(source for scheme, source in SOURCES.items() if spec_or_location.startswith(scheme))


def build_catalog(specs: Sequence[str], limit: int | None = None) -> list[Row]:
    """Lists the assets of all sources with their content hashes.

    Args:
        specs: source specifications, in order.
        limit: take this many, spread over the sources by a hash of their names; a larger limit adds to the same ones.

    Returns:
        Rows with every column of the catalog except `split`, in the order of the sources.

    Raises:
        UserError: no source, or one that is missing or empty.
    """
    if not specs:
        raise UserError("no source given", "give a folder of mesh files or procedural:count=N")
    refs = [ref for spec in specs for ref in source_class(spec)(spec).list_assets()]  # type: ignore[call-arg]
    if limit is not None:
        chosen = sorted(range(len(refs)), key=lambda number: hashlib.sha256(refs[number].uri.encode()).digest())[:limit]
        refs = [refs[number] for number in sorted(chosen)]
    rows = []
    for ref in refs:
        content = source_class(ref.location).identify(ref.location)
        rows.append(
            {
                "asset_id": content.sha256[:ASSET_ID_DIGITS],
                "source": ref.source,
                "uri": ref.uri,
                "location": ref.location,
                "sha256": content.sha256,
                "licence": ref.licence,
                "bytes": content.num_bytes,
            }
        )
    return rows
