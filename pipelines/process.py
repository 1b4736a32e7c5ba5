"""One asset from its location to its artefact: what runs inside the isolated child."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import lru_cache
from typing import Any

import unipart
from pipelines.cache import CACHED_COLUMNS, plain, read_cache, write_cache
from pipelines.plan import CACHED_THROUGH, INPUT_COLUMNS, CurationConfig, Plan, build_plan
from pipelines.stages.base import Row
from unipart import storage
from unipart.data.codec import Writer, sample_members
from unipart.data.schema import SCHEMA_VERSION, Sample
from unipart.data.shards import write_tar
from unipart.geometry import field, watertight


def warm_up() -> None:
    """Loads (or compiles) the geometry kernels; the zygote calls it once before it forks."""
    watertight.warm_up()
    field.warm_up()
    storage.warm_up()


def process_asset(request: dict[str, Any], report: Callable[[str], None]) -> dict[str, Any]:
    """Curates one asset and writes its artefact.

    Args:
        request: ``row`` (asset_id, sha256, location), ``config`` (JSON of `CurationConfig`) and ``out`` (dataset address).
        report: is told the name of each stage as it begins.

    Returns:
        num_parts, stage_seconds (JSON text, CPU seconds per stage and of the encoding), quality (JSON text, the figures
        of the whole's surface), artefact_sha256, artefact_bytes.

    Raises:
        Reject: the data is bad.
    """
    plan = _plan(json.dumps(request["config"], sort_keys=True))
    out, asset_id, sha256 = request["out"], request["row"]["asset_id"], request["row"]["sha256"]
    row: Row = {name: request["row"][name] for name in INPUT_COLUMNS}
    cache = cache_address(out, plan, sha256)
    from_cache = storage.exists(cache)
    if from_cache:
        with storage.open_seekable(cache) as file:
            row |= read_cache(file)
    seconds: dict[str, float] = {}
    for stage in plan.stages:
        if from_cache and set(stage.writes) <= set(CACHED_COLUMNS):
            continue
        report(stage.name)
        started = time.process_time()
        written = stage({name: row[name] for name in stage.reads})
        assert set(written) == set(stage.writes), f"stage {stage.name} writes {sorted(written)}, not what it declares"
        row |= written
        if stage.name == CACHED_THROUGH:
            with storage.open_writer(cache) as file:
                write_cache(row, file)
        seconds[stage.name] = round(time.process_time() - started, 4)
    report("encode")
    started = time.process_time()
    sample = make_sample(row, plan)
    row.clear()  # here memory is at its peak
    artefact = write_artefact(out, plan.digest, asset_id, sample_members(sample))
    seconds["encode"] = round(time.process_time() - started, 4)
    return {
        "num_parts": sample.num_parts,
        "stage_seconds": json.dumps(seconds),
        "quality": json.dumps(sample.meta["remesh"]["whole"]),
        **artefact,
    }


def make_sample(row: Row, plan: Plan) -> Sample:
    """Puts the columns of a finished row together; source, uri and licence join when the sample is packed."""
    parted = row["parted"]
    meta = {
        "sha256": row["sha256"],
        "num_parts": len(parted.parts),
        "part_names": [part.name for part in parted.parts],
        "parts": [asdict(part) for part in parted.parts],
        "normalisation": parted.to_gcs.to_dict(),
        "cleaning": parted.stats,
        "remesh": {"whole": {**row["whole"].stats, **row["quality"]}, "parts": [surface.stats for surface in row["part_surfaces"]]},
        "warnings": list(row["scene"].warnings),
        "render_backend": row["render_backend"],
        "config_digest": plan.digest,
        "code_version": unipart.__version__,
        "schema_version": SCHEMA_VERSION,
    }
    return Sample(
        sample_id=row["asset_id"],
        meta=plain(meta),
        surface=row["surface"],
        sharp=row["sharp"],
        queries=row["queries"],
        field=row["field"],
        query_kind=row["query_kind"],
        parts=row["parts"],
        mesh=row["whole"].mesh,
        part_meshes=tuple(surface.mesh for surface in row["part_surfaces"]),
        views=row["views"],
    )


def artefact_address(out: str, digest: str, asset_id: str) -> str:
    """Returns where the sample of an asset lies before it is packed."""
    return storage.join(out, "artefacts", digest, asset_id[:2], f"{asset_id}.tar")


def write_artefact(out: str, digest: str, asset_id: str, members: Mapping[str, bytes | Writer]) -> dict[str, Any]:
    """Writes the sample of an asset and returns the columns artefact_sha256 and artefact_bytes of its ledger row."""
    with storage.open_writer(artefact_address(out, digest, asset_id)) as file:
        artefact = storage.Digesting(file)
        write_tar(asset_id, members, artefact)  # type: ignore[arg-type]
    return {"artefact_sha256": artefact.sha256, "artefact_bytes": artefact.size}


def cache_address(out: str, plan: Plan, sha256: str) -> str:
    """Returns where the expensive half of an asset lies."""
    return storage.join(out, "cache", plan.cache_digest, sha256[:2], f"{sha256}.npz")


@lru_cache(maxsize=1)
def _plan(config: str) -> Plan:
    return build_plan(CurationConfig.parse(json.loads(config)))
