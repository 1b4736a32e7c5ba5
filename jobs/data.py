"""``unipart data``: plan, run, status, inspect and clean the curation of meshes into a dataset."""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jobs.options import SuggestingParser, apply_fields, number, split_config_flags, whole_number
from unipart.errors import UserError

if TYPE_CHECKING:
    from pipelines.plan import CurationConfig
    from pipelines.runner import Progress

_DESCRIPTION = (
    "Curate meshes into shards that training reads. Sources are folders, mesh files, s3://BUCKET/PREFIX, listings (.parquet or "
    ".csv with the columns uri, sha256, licence, as Objaverse has them) or procedural:count=N,seed=S,kinds=a+b."
)
_FIELDS = "\n\nFields of the config are flags too: --render.size 256. They are listed below with their values of --size base."
_EXAMPLES = (
    "unipart data plan models/ --out dataset --sample 24             what would be done, and what it would cost",
    "unipart data run models/ --out dataset                          run it; the same command again resumes",
    "unipart data run procedural:count=64 --out dataset --size tiny  a small dataset without any file",
    "unipart data run s3://bucket/models --out s3://bucket/dataset   from object storage to object storage",
    "unipart data run objaverse.parquet --out dataset --allow-licence CC0-1.0 --allow-licence CC-BY-4.0",
    "unipart data run models/ --out dataset --limit 100 --render.size 256 --seed 1",
    "unipart data run models/ --out dataset --retry failed --limits.seconds 1800",
    "unipart data status dataset --json                              every asset (or sample of latents) with its state and reason",
    "unipart data inspect dataset --verify                           what the shards hold, and whether they are whole",
    "unipart data encode dataset --vae models/vae --out latents      latent shards: trainings read what the frozen VAE says",
    "unipart data clean dataset                                      remove the cache that only a further run would use",
)
SUBCOMMANDS = {
    "plan": "print the stages, what there is to do and what it costs",
    "run": "curate; resumes by default",
    "status": "kept, rejected, failed, and why",
    "inspect": "what the shards hold",
    "encode": "what the frozen encoders say of every sample; resumes by default",
    "clean": "remove what only a further run would use",
}
_TAKES_FIELDS = ("plan", "run")
_AT_LEAST_ONE = whole_number(1)
_TOO_MUCH_BAD_DATA = 1


def main(argv: Sequence[str] | None = None) -> int:
    """Runs ``unipart data ...``.

    Args:
        argv: arguments after ``unipart data``; None for those of the process.

    Returns:
        0, or 1 when less was kept than ``--min-kept``.

    Raises:
        UserError: wrong usage.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    curates = bool(words) and words[0] in _TAKES_FIELDS
    parser, commands = _parser(curates)
    fields: dict[str, str] = {}
    if curates:
        words[1:], fields = split_config_flags(words[1:], commands[words[0]])
    arguments = parser.parse_args(words)
    if arguments.command in _TAKES_FIELDS:
        config = _config(arguments, fields, commands[arguments.command].flags)
        return _plan(arguments, config) if arguments.command == "plan" else _run(arguments, config)
    return {"status": _status, "inspect": _inspect, "clean": _clean, "encode": _encode}[arguments.command](arguments)


def _parser(curates: bool) -> tuple[SuggestingParser, dict[str, SuggestingParser]]:
    """Returns the parser, and those of the sub-commands by name.

    Args:
        curates: with the arguments of plan and run, which take the presets' import.
    """
    shape: dict[str, Any] = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
    parser = SuggestingParser("unipart data", description=_DESCRIPTION, epilog=_examples(), **shape)
    adder = parser.add_subparsers(dest="command", required=True, metavar=" | ".join(SUBCOMMANDS))
    commands = {
        name: adder.add_parser(
            name,
            help=summary,
            description=_DESCRIPTION + _FIELDS if name in _TAKES_FIELDS else f"{summary[0].upper()}{summary[1:]}.",
            epilog=_examples(name),
            **shape,
        )
        for name, summary in SUBCOMMANDS.items()
    }
    plan, run, status, inspect, encode, clean = commands.values()
    _add_encoding(encode)
    for command in (plan, run) if curates else ():
        _add_curation(command)
        command.add_argument("--out", required=command is run, metavar="DIR", help="dataset folder or s3:// address")
    plan.add_argument("--sample", type=_AT_LEAST_ONE, metavar="N", help="curate N assets and tell the cost; with --out they count")
    plan.add_argument("--objects", type=_AT_LEAST_ONE, metavar="N", help="tell the cost of N assets like these")
    for command in (plan, run, encode):
        command.add_argument("--cpus", type=_AT_LEAST_ONE, metavar="N", help="CPUs to use here (default: all)")
        command.add_argument(
            "--address", default="local", help="Ray cluster to join: auto, HOST:PORT or ray://... (default: run here)"
        )
    for command in (run, status, encode):
        command.add_argument(
            "--min-kept", type=number(0, 1), default=0.0, metavar="F", help="exit with 1 below this kept fraction, or if none"
        )
    encode.add_argument("dataset", metavar="DIR", help="the --out of `unipart data run`")
    for command in (status, inspect, clean):
        command.add_argument("dataset", metavar="DIR", help="the --out of `unipart data run`, or of `unipart data encode`")
    inspect.add_argument("--verify", action="store_true", help="read every shard and compare it with the manifest")
    clean.add_argument("--artefacts", action="store_true", help="the objects too: a later run that adds one makes all again")
    inspect.add_argument("sample", nargs="?", metavar="ID", help="an asset id, to see its arrays")
    for command in commands.values():
        command.add_argument("--json", action="store_true", help="results as JSON on standard output")
    return parser, commands


def _examples(command: str = "") -> str:
    lines = [line for line in _EXAMPLES if line.startswith(f"unipart data {command}")]
    return "\n  ".join(["examples:", *lines])


def _listed_fields() -> "CurationConfig":
    from pipelines.presets import preset

    return preset("base")


def _add_curation(command: SuggestingParser) -> None:
    from pipelines.presets import PRESETS

    command.fields = _listed_fields
    command.add_argument("sources", nargs="+", metavar="SOURCE", help="folder, mesh file, s3:// address, listing or procedural:...")
    command.add_argument("--size", default="base", help=f"preset: {', '.join(PRESETS)} (default: base, the paper's scale)")
    command.add_argument("--config", metavar="FILE", help="JSON file with a whole config, in place of the preset")
    command.add_argument("--limit", type=_AT_LEAST_ONE, metavar="N", help="only N assets, spread over the sources")
    command.add_argument(
        "--allow-licence",
        action="append",
        metavar="ID",
        help="reject assets with another or unknown licence; repeat it for more (SPDX id, or a short name like by-nc)",
    )
    command.add_argument("--retry", choices=("failed", "rejected"), help="do these assets again")


def _add_encoding(encode: argparse.ArgumentParser) -> None:
    encode.add_argument("--vae", required=True, metavar="RUN", help="the VAE: its run or checkpoint folder")
    encode.add_argument(
        "--image-encoder", metavar="RUN", help="also store image tokens: a whole model's run, or the folder of an image encoder"
    )
    encode.add_argument("--out", required=True, metavar="DIR", help="folder or s3:// address of the latent shards")
    encode.add_argument(
        "--draws", type=_AT_LEAST_ONE, default=1, metavar="K", help="draws of surface points an object (default: 1)"
    )
    encode.add_argument("--seed", type=int, default=0, help="of the draws: that of the training (default: 0)")
    encode.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="compute type (default: fp32)")
    encode.add_argument("--dtype", choices=("float32", "float16"), default="float32", help="stored type (default: float32)")
    encode.add_argument("--limit", type=_AT_LEAST_ONE, metavar="N", help="only the first N samples")
    encode.add_argument("--retry", choices=("failed",), help="do these samples again")


def _plan(arguments: argparse.Namespace, config: "CurationConfig") -> int:
    import os
    from tempfile import TemporaryDirectory

    from pipelines.cost import estimate_cost
    from pipelines.ledger import read_ledger
    from pipelines.plan import build_plan
    from pipelines.runner import RunOptions, check_here, find_pending, list_assets, try_sample
    from unipart import storage

    plan, cpus = build_plan(config), arguments.cpus or len(os.sched_getaffinity(0))
    if arguments.address == "local":
        check_here(plan, cpus)
    known = arguments.out and storage.resolve(arguments.out)
    catalog = list_assets(arguments.sources, config, arguments.limit, known, _show_progress)
    with TemporaryDirectory() as scratch:
        out = storage.resolve(arguments.out or scratch)
        if arguments.sample:
            options = RunOptions(num_cpus=arguments.cpus, address=arguments.address)
            rows = try_sample(out, plan, catalog, arguments.sample, options)
        else:
            known = read_ledger(out, plan.digest)
            rows = [known[asset_id] for asset_id in {asset["asset_id"]: None for asset in catalog} if asset_id in known]
        pending = find_pending(out, plan, catalog, arguments.retry)
        cost = estimate_cost(out, plan, rows, arguments.objects or len(pending))
    result = {
        "config_digest": config.digest(),
        "plan_digest": plan.digest,
        "stages": plan.describe(),
        "assets": len(catalog),
        "bytes": sum(asset["bytes"] or 0 for asset in catalog),
        "to_do": len(pending),
        "limits": config.limits.model_dump(mode="json"),
        "cost": None if cost is None else {**cost.to_dict(), "hours_here": cost.core_hours.mean / cpus, "cpus_here": cpus},
    }
    if arguments.json:
        print(json.dumps(result, indent=1))
        return 0
    for stage in result["stages"]:
        kept = "  (kept between runs)" if stage["cached"] else ""
        print(f"{stage['stage']:<8} {stage['digest']}  {', '.join(stage['reads'])} -> {', '.join(stage['writes'])}{kept}")
    print(f"an asset takes {plan.resources.cpus:g} CPU, at most {config.limits.memory_mb} MB and {config.limits.seconds:g} s")
    print(f"{result['assets']} assets, {result['bytes'] / 2**20:.1f} MiB, {result['to_do']} to do")
    if cost is None:
        print("cost: unknown before the first asset is done; --sample 24 tries some")
        return 0
    print(f"cost of {cost.num_assets} assets, from {cost.num_observed} that were done (in brackets: 90 % of such samples)")
    print(f"  {cost.core_hours} core-hours: {cost.core_hours.mean / cpus:.3g} h on the {cpus} CPUs here")
    print(f"  shards {cost.shard_gb} GB, the artefacts they are packed from as much again, cache {cost.cache_gb} GB")
    print(f"  kept {cost.num_kept}; largest memory of a child {cost.peak_memory_mb:.0f} MB")
    print("  core-seconds " + ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in cost.core_seconds.items()))
    return 0


def _run(arguments: argparse.Namespace, config: "CurationConfig") -> int:
    from pipelines.runner import RunOptions, run

    options = RunOptions(arguments.limit, arguments.retry, arguments.cpus, arguments.address)
    result = run(arguments.sources, arguments.out, config, options, _show_progress)
    _say(f"{result.num_processed} assets processed, {len(result.rows) - result.num_processed} were settled before")
    return _report(result.rows, arguments)


def _status(arguments: argparse.Namespace) -> int:
    from pipelines.runner import read_status

    return _report(read_status(arguments.dataset), arguments)


def _inspect(arguments: argparse.Namespace) -> int:
    from unipart.data.shards import ShardIndex, read_manifest
    from unipart.data.splits import SPLITS

    manifest = read_manifest(arguments.dataset)
    if arguments.verify:
        from pipelines.upkeep import verify_shards

        _say(f"{verify_shards(arguments.dataset)} samples in {len(manifest.shards)} shards: all as the manifest says")
    if arguments.sample is None:
        shards = [{"name": shard.name, "samples": shard.num_samples, "bytes": shard.bytes} for shard in manifest.shards]
        result: dict[str, Any] = {"counts": manifest.counts, "config_digest": manifest.config_digest, "shards": shards}
    else:
        found = [
            (index, index.number_of(arguments.sample))
            for index in (ShardIndex.open(arguments.dataset, split) for split in SPLITS)
            if arguments.sample in index.sample_ids
        ]
        if not found:
            raise UserError(
                f"{arguments.dataset} has no sample '{arguments.sample}'", "see `unipart data status DIR --json` for the ids"
            )
        sample = found[0][0].read(found[0][1])
        result = {"meta": sample.meta, "arrays": _shapes(sample), "views": [list(view.rgba.shape) for view in sample.views]}
    print(json.dumps(result, indent=1))
    return 0


def _clean(arguments: argparse.Namespace) -> int:
    from pipelines.upkeep import clean
    from unipart import storage

    freed = clean(storage.resolve(arguments.dataset), arguments.artefacts)
    print(json.dumps({"freed_bytes": freed}) if arguments.json else f"{freed / 1e9:.3f} GB freed")
    return 0


def _encode(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from jobs.encode import make_encoding, run_encoding
    from jobs.training.state import find_checkpoint
    from pipelines.runner import RunOptions

    images = Path(arguments.image_encoder) if arguments.image_encoder else None
    if images is not None and not (images / "config.json").is_file():
        images = find_checkpoint(images)
    settings = {"seed": arguments.seed, "num_draws": arguments.draws, "precision": arguments.precision, "dtype": arguments.dtype}
    encoding = make_encoding(arguments.dataset, find_checkpoint(Path(arguments.vae)), images, **settings)
    options = RunOptions(arguments.limit, arguments.retry, arguments.cpus, arguments.address)
    rows, worked = run_encoding(encoding, arguments.out, options, _show_progress)
    _say(f"{worked} samples encoded, {len(rows) - worked} were settled before")
    return _report(rows, arguments)


def _config(arguments: argparse.Namespace, fields: dict[str, str], flags: Sequence[str]) -> "CurationConfig":
    """Returns preset < file < flags, and says what differs from the preset."""
    from pipelines.plan import CurationConfig
    from pipelines.presets import preset
    from pipelines.sources.licences import normalise_licence

    start = CurationConfig.load(arguments.config) if arguments.config else preset(arguments.size)
    config = apply_fields(start, fields, flags)
    config = config.replace(licences=tuple(normalise_licence(name) for name in arguments.allow_licence or config.licences))
    for name, (value, before) in config.diff(start).items():
        _say(f"{name} = {value} (was {before})")
    return config


def _report(rows: Sequence[dict[str, Any]], arguments: argparse.Namespace) -> int:
    from pipelines.ledger import count_states

    counts = count_states(rows)
    settled = counts["in"] - counts.get("pending", 0)
    kept_fraction = counts["kept"] / max(settled, 1)
    reasons = Counter(f"{row['state']}: {row['reason']}" for row in rows if row["reason"])
    if arguments.json:
        names = (
            "uri",
            "asset_id",
            "source",
            "licence",
            "split",
            "state",
            "stage",
            "reason",
            "message",
            "num_parts",
            "seconds",
            "peak_rss_mb",
        )
        assets = [{name: row[name] for name in names} for row in rows]
        print(json.dumps({**counts, "reasons": dict(reasons.most_common()), "assets": assets}, indent=1))
    else:
        pending = f" + {counts['pending']} pending" if "pending" in counts else ""
        print(f"in {counts['in']} = kept {counts['kept']} + rejected {counts['rejected']} + failed {counts['failed']}{pending}")
        for reason, count in reasons.most_common():
            example = next(row["uri"] or row["asset_id"] for row in rows if f"{row['state']}: {row['reason']}" == reason)
            print(f"  {count:6d}  {reason}  (as {example})")
    if settled and (counts["kept"] == 0 or kept_fraction < arguments.min_kept):
        wanted = f"at least {arguments.min_kept:.1%}" if arguments.min_kept > 0 else "at least one object"
        _say(f"too much bad data: {kept_fraction:.1%} kept, wanted {wanted}")
        return _TOO_MUCH_BAD_DATA
    return 0


def _shapes(sample: Any) -> dict[str, list[int]]:
    from unipart.data.codec import encode_sample, unpack_arrays

    members = encode_sample(sample)
    return {
        f"{member.removesuffix('.npz')}.{name}": list(array.shape)
        for member, data in members.items()
        if member.endswith(".npz")
        for name, array in unpack_arrays(data).items()
    }


def _show_progress(progress: "Progress") -> None:
    rate = progress.done / max(progress.seconds, 1e-9)
    left = round(progress.seconds_left)
    counts = "".join(f"  {state} {count}" for state, count in progress.counts.items())
    _say(f"{progress.done}/{progress.total} {progress.what}{counts}  {rate:.2f}/s  {left // 60}:{left % 60:02d} left")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        _say(f"error: {error}")
        sys.exit(error.exit_code)
