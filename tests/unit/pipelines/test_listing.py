import hashlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.sources.base import UNREAD
from pipelines.sources.catalog import build_catalog
from pipelines.sources.http import raw_address
from pipelines.sources.listing import ListingSource
from pipelines.stages.fetch import FetchStage
from unipart.errors import Reject, UserError
from unipart.geometry.load import LoadLimits

OBJ = b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"
SHA = hashlib.sha256(OBJ).hexdigest()


def write(path, **columns):
    if path.suffix == ".parquet":
        pq.write_table(pa.table(columns), path, row_group_size=2)
    else:
        lines = [",".join(columns), *(",".join(cells) for cells in zip(*columns.values(), strict=True))]
        path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.fixture(params=["list.parquet", "list.csv"])
def path(request, tmp_path):
    return tmp_path / request.param


def test_rows_become_assets_in_their_order_and_nothing_is_read(path):
    uris = ["https://host.invalid/a.glb", "s3://bucket/b.glb", "sub/c.obj"]
    spec = write(path, uri=uris, sha256=["A" * 64, "b" * 64, "c" * 64], license=["by", "cc0", "mine"], more=["1", "2", "3"])
    rows = build_catalog([spec])
    assert [row["uri"] for row in rows] == uris
    assert [row["location"] for row in rows] == [*uris[:2], str(path.parent / "sub" / "c.obj")]
    assert [row["sha256"] for row in rows] == ["a" * 64, "b" * 64, "c" * 64]
    assert [row["licence"] for row in rows] == ["CC-BY-4.0", "CC0-1.0", "mine"]
    assert {row["source"] for row in rows} == {"list"}
    assert [row["bytes"] for row in rows] == [None] * 3


def test_the_given_hash_is_checked_and_an_absent_one_is_found(path):
    (path.parent / "a.obj").write_bytes(OBJ)
    (path.parent / "b.obj").write_bytes(OBJ + b"#")
    rows = build_catalog([write(path, fileIdentifier=["a.obj", "b.obj", "none.obj"], sha256=[SHA, SHA, ""])])
    stage = FetchStage(LoadLimits())
    assert len(stage(rows[0])["scene"].faces) == 1
    with pytest.raises(Reject, match="content_changed"):
        stage(rows[1])
    assert rows[2]["sha256"].startswith(UNREAD)
    with pytest.raises(Reject, match="not_found"):
        stage(rows[2])
    (known,) = build_catalog([write(path, uri=["a.obj"], sha256=[""])])
    assert known["sha256"] == SHA
    assert known["bytes"] == len(OBJ)


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"urL": ["a.glb"], "sha256": [SHA]}, "no column uri.*it has urL, sha256.*Did you mean 'urL'"),
        ({"uri": ["a.glb"], "fileIdentifier": ["a.glb"]}, "columns uri and fileIdentifier"),
        ({"uri": ["a.glb", "b.glb", "a.glb"]}, "row 3: uri 'a.glb' came before"),
        ({"uri": ["a.glb", ""], "sha256": ["", ""]}, "row 2: column uri is empty"),
        ({"uri": ["../a.glb"]}, "row 1: .*leaves the listing's folder"),
        ({"uri": ["/etc/passwd"]}, "row 1: .*leaves the listing's folder"),
        ({"uri": ["a.glb"], "sha256": ["xyz"]}, "row 1: column sha256 holds 'xyz'"),
    ],
)
def test_bad_listings_name_file_row_and_column(path, columns, told):
    with pytest.raises(UserError, match=told) as error:
        list(ListingSource(write(path, **columns)).list_assets())
    assert path.name in str(error.value)
    assert "fix:" in str(error.value)


def test_empty_unreadable_and_missing_listings(path):
    with pytest.raises(UserError, match="does not exist"):
        ListingSource(str(path))
    pq.write_table(pa.table({"uri": pa.array([], pa.string())}), path) if path.suffix == ".parquet" else path.write_text("uri\n")
    with pytest.raises(UserError, match="no rows"):
        list(ListingSource(str(path)).list_assets())
    path.write_bytes(b"")
    with pytest.raises(UserError, match="does not read as"):
        list(ListingSource(str(path)).list_assets())
    path.write_bytes(b"\0\1\2" * 100)
    with pytest.raises(UserError, match=r"does not read as|no column uri"):
        list(ListingSource(str(path)).list_assets())


def test_limit_of_a_long_listing_keeps_the_order(tmp_path):
    uris = [f"https://host.invalid/{number}.glb" for number in range(500)]
    spec = write(tmp_path / "long.parquet", uri=uris, sha256=[hashlib.sha256(uri.encode()).hexdigest() for uri in uris])
    few = [row["uri"] for row in build_catalog([spec], limit=7)]
    assert few == [uri for uri in uris if uri in few]
    assert len(few) == 7


def test_metadata_with_line_breaks_and_quotes_is_skipped(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text(f'metadata,uri,sha256\n"{{""a"": 1,\n 2}}",a.glb,{SHA}\n"x, y",b.glb,{"0" * 64}\n')
    assert [ref.uri for ref in ListingSource(str(path)).list_assets()] == ["a.glb", "b.glb"]


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        (
            "https://github.com/org/repo/blob/0123abc/models/my chair.glb",
            "https://github.com/org/repo/raw/0123abc/models/my%20chair.glb",
        ),
        ("https://github.com/org/repo/blob/main/a%20b#1.obj", "https://github.com/org/repo/raw/main/a%20b%231.obj"),
        ("https://github.com/org/repo/raw/main/a.glb", "https://github.com/org/repo/raw/main/a.glb"),
        ("https://example.com/blob/a.glb", "https://example.com/blob/a.glb"),
    ],
)
def test_github_pages_of_files_become_the_files(uri, address):
    assert raw_address(uri) == address
