"""The generated object on disk (artefact A4): a folder that people, other tools and our own metrics can read.

=================  =================================================================================================
file               content
=================  =================================================================================================
object.glb         a node per part, ``part_000`` ..., in GCS; opens in any viewer
segmentation.npz   anchors, labels and masks of the latents, and the exact meshes: parts, their GCS twins, the whole
image.png          the prepared condition image, when there is one
bundle.json        per-part facts and `Bundle.info`; written last, so a folder without it is unfinished
=================  =================================================================================================
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unipart.data.codec import pack_arrays, pack_meshes, unpack_arrays, unpack_meshes
from unipart.data.schema import Bundle, BundlePart
from unipart.errors import Reject, UserError
from unipart.geometry.mesh import Mesh, Similarity
from unipart.storage import write_bytes

BUNDLE_VERSION = 1
DOCUMENT = "bundle.json"


def write_bundle(folder: str | Path, bundle: Bundle, colors: Sequence[tuple[float, float, float, float]] | None = None) -> None:
    """Writes a bundle into a folder, replacing what is there.

    Args:
        folder: the bundle's own folder; created when missing.
        bundle: what to write.
        colors: an RGBA colour per part for ``object.glb``; None for the writer's default.
    """
    from PIL import Image

    from unipart.geometry.glb import GlbNode, write_glb

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / DOCUMENT).unlink(missing_ok=True)
    nodes = [
        GlbNode(
            name=part_name(part.part_id),
            mesh=part.mesh,
            color=None if colors is None else colors[number],
            extras={"part_id": part.part_id, "source": part.source, "num_latents": part.num_latents},
        )
        for number, part in enumerate(bundle.parts)
    ]
    write_bytes(folder / "object.glb", write_glb(nodes))
    twins = [part.gcs_mesh for part in bundle.parts if part.gcs_mesh is not None]
    arrays = {"anchors": bundle.anchors, "labels": bundle.labels, "masks": bundle.masks}
    arrays |= pack_meshes("parts", [part.mesh for part in bundle.parts]) | pack_meshes("twins", twins)
    arrays |= pack_meshes("whole", [] if bundle.whole is None else [bundle.whole])
    write_bytes(folder / "segmentation.npz", pack_arrays(arrays))
    if bundle.image is None:
        (folder / "image.png").unlink(missing_ok=True)
    else:
        Image.fromarray(bundle.image).save(folder / "image.png")
    document = {
        "bundle_version": BUNDLE_VERSION,
        "object_id": bundle.object_id,
        "parts": [_part_document(part) for part in bundle.parts],
        "info": bundle.info,
    }
    write_bytes(folder / DOCUMENT, (json.dumps(document, indent=1, sort_keys=True) + "\n").encode())


def read_bundle(folder: str | Path) -> Bundle:
    """Reads what `write_bundle` wrote; meshes come back as float32 and int32.

    Raises:
        UserError: the folder is no bundle, or one of another version.
    """
    from PIL import Image

    folder = Path(folder)
    document = _read_document(folder)
    arrays = unpack_arrays((folder / "segmentation.npz").read_bytes())
    twins = iter(unpack_meshes("twins", arrays))
    whole = unpack_meshes("whole", arrays)
    parts = tuple(
        BundlePart(
            part_id=item["part_id"],
            mesh=mesh,
            gcs_mesh=next(twins) if item["has_gcs_mesh"] else None,
            placement=Similarity.from_dict(item["placement"]),
            source=item["source"],
            num_latents=item["num_latents"],
            predicted_iou=item["predicted_iou"],
        )
        for item, mesh in zip(document["parts"], unpack_meshes("parts", arrays), strict=True)
    )
    picture = folder / "image.png"
    return Bundle(
        object_id=document["object_id"],
        parts=parts,
        whole=whole[0] if whole else None,
        anchors=arrays["anchors"],
        labels=arrays["labels"],
        masks=arrays["masks"],
        image=np.asarray(Image.open(picture).convert("RGB")).copy() if picture.is_file() else None,
        info=document["info"],
    )


def list_bundles(folder: str | Path) -> list[Path]:
    """Returns the bundle folders in a folder (or the folder itself when it is one), sorted by name.

    Raises:
        UserError: the folder is missing or holds no bundle.
    """
    folder = Path(folder)
    if (folder / DOCUMENT).is_file():
        return [folder]
    found = sorted(path.parent for path in folder.glob(f"*/{DOCUMENT}"))
    if not found:
        raise UserError(f"{folder} holds no bundle (a folder with {DOCUMENT})", "give the --out folder of `unipart generate`")
    return found


@dataclass(frozen=True)
class GlbObject:
    """An object made by another method: one GLB file with a node per part.

    Attributes:
        object_id: file name without its suffix.
        names: node names.
        parts: meshes in the file's own frame; bring them into GCS before comparing.
    """

    object_id: str
    names: tuple[str, ...]
    parts: tuple[Mesh, ...]


def read_glb_folder(folder: str | Path) -> list[GlbObject]:
    """Reads every ``*.glb`` of a folder, sorted by name.

    Raises:
        UserError: the folder holds none, or one that cannot be read.
    """
    from unipart.geometry.glb import read_glb_parts

    paths = sorted(Path(folder).glob("*.glb"))
    if not paths:
        raise UserError(f"{folder} holds no .glb file", "give a folder with one GLB per object, a node per part")
    objects = []
    for path in paths:
        try:
            parts = read_glb_parts(path)
        except Reject as rejected:
            fix = "write the file again, or move it out of the folder to score the others"
            raise UserError(f"{path} cannot be read: {rejected}", fix) from None
        objects.append(GlbObject(path.stem, tuple(name for name, _ in parts), tuple(mesh for _, mesh in parts)))
    return objects


def part_name(part_id: int) -> str:
    """Returns the GLB node name of a part."""
    return f"part_{part_id:03d}"


def _part_document(part: BundlePart) -> dict[str, Any]:
    return {
        "part_id": part.part_id,
        "name": part_name(part.part_id),
        "placement": part.placement.to_dict(),
        "source": part.source,
        "num_latents": part.num_latents,
        "predicted_iou": part.predicted_iou,
        "has_gcs_mesh": part.gcs_mesh is not None,
        "num_faces": len(part.mesh.faces),
    }


def _read_document(folder: Path) -> dict[str, Any]:
    path = folder / DOCUMENT
    if not path.is_file():
        raise UserError(f"{folder} is no bundle: it has no {DOCUMENT}", "give a folder that `unipart generate` wrote")
    document = json.loads(path.read_text())
    if document.get("bundle_version") != BUNDLE_VERSION:
        raise UserError(
            f"{path} has bundle version {document.get('bundle_version')}, this package reads version {BUNDLE_VERSION}",
            "generate the object again",
        )
    return document
