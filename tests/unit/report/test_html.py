"""The report: one file, no request, everything escaped, what is given is shown."""

import base64
import dataclasses
import io
import re
from html.parser import HTMLParser

import numpy as np
from PIL import Image

from unipart.report.html import CurationEntry, ObjectEntry, ReportData, RunEntry, render_report, write_report

PICTURE = np.dstack([np.arange(64, dtype=np.uint8).reshape(8, 8)] * 3 + [np.full((8, 8), 200, np.uint8)])
VOID = {"meta", "img", "input", "br", "link"}


class Checker(HTMLParser):
    """Collects addresses and text, and checks that elements nest."""

    def __init__(self, text):
        super().__init__()
        self.open, self.addresses, self.words, self.ids = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in ("src", "href", "srcset", "action")]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def full():
    return ReportData(
        title="Demo <1>",
        subtitle="a & b",
        summary={"parts": 3},
        warnings=["the image encoder is <random>"],
        objects=[
            ObjectEntry(
                "chair",
                PICTURE,
                {"exploded": PICTURE[..., :3]},
                {"parts": 3, "generation time": 61.0},
                {"iou": 0.5},
                ["part 1 fell back"],
                "viewers/chair.html",
            )
        ],
        scores=[{"method": "ours", "iou": 0.5}, {"method": "other", "iou": 0.25}],
        runs=[
            RunEntry(
                "vae",
                "geom_seg_vae",
                "r1",
                1000,
                12.0,
                {"width": (64, 32), "seed": 3},
                {"train/loss": [(0, 1.0), (1, 0.01)], "lr": [(0, 0.0)]},
            )
        ],
        curation=CurationEntry(5, 3, {"too_few_faces": 1}, 1, {"remesh": 2.0, "render": 6.0}),
        environment={"python": "3.11"},
        commands=["unipart demo", "unipart view <x>"],
    )


def test_the_page_is_well_formed_and_asks_for_nothing():
    text = render_report(full())
    page = Checker(text)
    assert all(address.startswith(("data:image/png;base64,", "#", "viewers/")) for address in page.addresses)
    assert "default-src 'none'" in text
    assert not re.search(r"@import|url\(|https?://", text)
    assert {address[1:] for address in page.addresses if address.startswith("#")} <= set(page.ids)


def test_it_shows_what_it_was_given_escaped():
    text = render_report(full())
    words = " ".join("".join(Checker(text).words).split())
    for expected in ("Demo <1>", "a & b", "the image encoder is <random>", "part 1 fell back", "1 min 01 s", "unipart view <x>"):
        assert expected in words
    assert "5 in = 3 kept + 1 rejected + 1 failed" in words
    assert "do not add up" not in words
    assert "75 %" in words
    assert "<random>" not in text


def test_counts_that_do_not_add_up_are_named():
    data = dataclasses.replace(full(), curation=CurationEntry(6, 3, {}, 1))
    assert "do not add up" in render_report(data)


def test_images_survive():
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', render_report(full()))
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(found[0]))))
    np.testing.assert_array_equal(image, PICTURE)


def test_loss_starts_on_a_log_scale_when_it_spans_decades():
    assert re.search(r'class="log-switch"[^>]* checked', render_report(full()))
    flat = RunEntry("a", "b", history={"loss": [(0, 1.0), (1, 0.9)]})
    assert not re.search(r'class="log-switch"[^>]* checked', render_report(ReportData("t", runs=[flat])))


def test_empty_sections_are_left_out(tmp_path):
    path = write_report(tmp_path / "deep" / "report.html", ReportData("Nothing yet"))
    page = Checker(path.read_text(encoding="utf-8"))
    assert page.addresses == []
    assert not {"objects", "scores", "training", "curation"} & set(page.ids)


def test_same_data_same_text():
    assert render_report(full()) == render_report(full())
