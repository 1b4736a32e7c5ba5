"""``unipart view``: an interactive page for one bundle, or for the ground truth of one sample."""

from collections.abc import Sequence
from pathlib import Path

from jobs.evaluate import Truth
from jobs.options import Parser
from unipart.data.bundle import read_bundle
from unipart.data.shards import MANIFEST, ShardIndex
from unipart.data.splits import SPLITS
from unipart.errors import UserError, did_you_mean
from unipart.geometry.render import palette
from unipart.report.viewer import ViewerPart, bundle_parts, write_viewer


def view_bundle(folder: Path, out: Path | None) -> Path:
    """Writes the viewer of a bundle, by default into its folder."""
    bundle = read_bundle(folder)
    return write_viewer(out or folder / "viewer.html", bundle_parts(bundle), bundle.object_id, bundle.image)


def view_sample(dataset: str, sample_id: str | None, out: Path | None) -> Path:
    """Writes the viewer of a sample's parts as curated.

    Raises:
        UserError: no such sample.
    """
    ids = [name for split in SPLITS for name in ShardIndex.open(dataset, split).sample_ids]
    if not ids:
        raise UserError(f"{dataset} holds no sample", "curate some assets: unipart data run")
    chosen = sample_id or ids[0]
    if chosen not in ids:
        fix = "see `unipart data status DIR --json` for the ids"
        raise UserError(f"{dataset} has no sample {chosen!r}.{did_you_mean(chosen, ids)}", fix)
    mesh = Truth(dataset).find(chosen).mesh
    if mesh is None:
        raise UserError(f"sample {chosen} holds no mesh", "curate it again")
    colors = palette(mesh.num_parts)
    parts = [
        ViewerPart(f"part {number:03d}", mesh.part(number), (float(r), float(g), float(b)))
        for number, (r, g, b) in enumerate(colors)
    ]
    return write_viewer(out or Path(f"{chosen}.html"), parts, chosen)


def main(arguments: Sequence[str]) -> int:
    """Entry point of ``unipart view``; prints the path of the page."""
    parser = Parser(
        "view",
        "Write an interactive page (orbit, hide parts, explode) for a bundle or a sample. It needs no network.",
        ["unipart view bundles/chair", "unipart view shards --sample 3f9c0a..."],
    )
    parser.add_argument("target", metavar="BUNDLE|SHARDS", help="a bundle's folder, or a dataset")
    parser.add_argument("--sample", metavar="ID", help="which sample of the dataset (default: the first)")
    parser.add_argument("--out", metavar="FILE", type=Path, help="the page (default: viewer.html in the bundle, or ID.html)")
    options = parser.parse_args(arguments)
    target = Path(options.target)
    if "://" in options.target or (target / MANIFEST).is_file():
        print(view_sample(options.target, options.sample, options.out))
    else:
        print(view_bundle(target, options.out))
    return 0
