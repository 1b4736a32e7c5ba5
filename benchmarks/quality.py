"""Remeshes every given mesh and says how well the results stand for them.

python -m benchmarks.quality FOLDER --resolution 128

Watertight: closed, oriented, edge- and vertex-manifold, with positive volume. Distances in voxels; see `unipart.geometry.quality`.
The bars of closed objects: the remeshed surface lies on average within .03 voxel of the original (.015 from 256 on) and everywhere
within 1, and 99 % of the original's exterior within .3 voxel of the remeshed surface. Stricter: all of the exterior within 1.
"""

import argparse
from pathlib import Path

import numpy as np

from unipart.errors import Reject
from unipart.geometry import field, watertight
from unipart.geometry.components import PartsConfig, find_parts
from unipart.geometry.field import SignedDistance
from unipart.geometry.load import SUFFIXES, load_scene
from unipart.geometry.quality import measure_quality
from unipart.geometry.watertight import RemeshConfig, check_watertight, remesh
from unipart.rng import derive

FIGURES = (
    *("to_original_mean", "to_original_p99", "to_original_max"),
    *("from_original_mean", "from_original_p99", "from_original_max"),
    *("resolved_mean", "resolved_p99", "resolved_max", "narrow_share", "hidden_share"),
)


def measure(path: Path, resolution: int) -> dict[str, float]:
    """Returns the figures of one mesh."""
    scene = load_scene(path)
    config = PartsConfig(min_parts=1, max_parts=10_000)
    parted = find_parts(scene.vertices, scene.faces, scene.node_of_face, scene.node_names, config)
    result = remesh(parted.mesh, parted.component_of_face, parted.open_component, RemeshConfig(resolution=resolution))
    voxel, rng = float(result.stats["voxel"]), derive(0, path.name, "quality")
    is_closed = ~parted.open_component[parted.component_of_face]
    figures = measure_quality(parted.mesh, result.mesh, SignedDistance(result.mesh), voxel, rng, is_closed)
    sound = check_watertight(result.mesh.faces).watertight and result.mesh.volume() > 0
    return {"watertight": sound, "open": bool(parted.open_component.any()), **result.stats, **figures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--resolution", type=int, default=128)
    arguments = parser.parse_args()
    watertight.warm_up()
    field.warm_up()
    rows, names = [], []
    for path in sorted(path for path in arguments.folder.rglob("*") if path.suffix.lower() in SUFFIXES):
        try:
            rows.append(measure(path, arguments.resolution))
            names.append(path.name)
        except Reject as reject:
            print(f"rejected {path.name}: {reject}")
    print(f"{len(rows)} meshes at {arguments.resolution}, watertight {sum(row['watertight'] for row in rows)}")
    for kind, wanted in (("closed", False), ("open", True)):
        chosen = [number for number, row in enumerate(rows) if row["open"] == wanted]
        print(f"{kind}: {len(chosen)}; shell used in {sum(rows[number]['shell_used'] > 0 for number in chosen)}")
        mean_bar = 0.03 if arguments.resolution < 256 else 0.015
        for name, bar in (
            ("to_original_mean", mean_bar),
            ("to_original_max", 1),
            ("from_original_p99", 0.3),
            ("resolved_p99", 0.3),
        ):
            print(f"  {name} <= {bar}: {sum(rows[number][name] <= bar for number in chosen)}")
        for name in ("from_original", "resolved"):
            met = sum(rows[number][f"{name}_p99"] <= 0.3 and rows[number][f"{name}_max"] <= 1 for number in chosen)
            print(f"  {name}: 99th percentile within .3 and maximum within 1: {met}")
        for figure in FIGURES:
            values = np.array([rows[number][figure] for number in chosen])
            worst = [f"{names[chosen[i]]} {values[i]:.2f}" for i in np.argsort(-values)[:3]]
            print(f"  {figure:20s} median {np.median(values):.4f}  p90 {np.percentile(values, 90):.4f}  worst {', '.join(worst)}")


if __name__ == "__main__":
    main()
