"""Every broken or awkward input of the corpus ends with its expected verdict."""

import csv
from pathlib import Path

import pytest

from unipart.errors import Reject
from unipart.geometry.components import PartsConfig, find_parts
from unipart.geometry.load import load_scene

pytestmark = pytest.mark.corpus

LATER = ("too_few_faces", "single_component", "degenerate_geometry", "too_many_parts", "extreme_part_scale")
"""Verdicts that `find_parts` gives; the loader accepts these files."""


def verdict(path: Path) -> tuple[str, int]:
    """Returns ("ok" or the reason code, number of parts)."""
    try:
        scene = load_scene(path)
        parted = find_parts(scene.vertices, scene.faces, scene.node_of_face, scene.node_names, PartsConfig())
    except Reject as error:
        return error.reason, 0
    return "ok", len(parted.parts)


def cases(corpus: Path) -> list[dict[str, str]]:
    with (corpus / "bad" / "cases.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_loader_names_the_reason(corpus):
    wrong = []
    for case in cases(corpus):
        try:
            load_scene(corpus / "bad" / case["file"])
            got = "ok"
        except Reject as error:
            got = error.reason
        is_left_to_parts = got == "ok" and any(reason in case["reason_code"] for reason in LATER)
        if got not in case["reason_code"] and not is_left_to_parts:
            wrong.append((case["file"], case["reason_code"], got))
    assert not wrong


def test_loader_and_parts_reach_the_verdict(corpus):
    wrong = []
    for case in cases(corpus):
        got, num_parts = verdict(corpus / "bad" / case["file"])
        is_right = {"accept": got == "ok", "reject": got != "ok", "either": True}[case["verdict"]]
        is_named = got in case["reason_code"] or (case["verdict"] == "reject" and got in LATER)
        count = next((word.strip("(") for word in case["expected"].split() if word.strip("(").isdigit()), None)
        is_counted = got != "ok" or case["verdict"] != "accept" or count is None or num_parts == int(count)
        if not (is_right and is_named and is_counted):
            wrong.append((case["file"], case["expected"], case["reason_code"], got, num_parts))
    assert not wrong


def test_every_good_asset_loads(corpus):
    with (corpus / "dev" / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    wrong = []
    for row in rows:
        scene = load_scene(corpus / "dev" / row["path"])
        has_texture = any(material.texture is not None for material in scene.materials)
        # One OBJ of the corpus names a material file that was never there.
        expects_texture = row["has_texture"] == "True" and not any("missing_material_file" in text for text in scene.warnings)
        if len(scene.faces) != int(row["n_faces"]) or has_texture != expects_texture:
            wrong.append((row["path"], len(scene.faces), row["n_faces"], has_texture))
    assert len(rows) == 334
    assert not wrong
