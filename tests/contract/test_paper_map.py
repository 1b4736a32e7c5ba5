"""docs/paper_map.md names symbols and tests that exist."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROWS = re.findall(r"\| `([\w.]+)` \| `(tests/[\w/]+\.py)` \|", (ROOT / "docs" / "paper_map.md").read_text())


def test_the_map_is_not_empty():
    assert len(ROWS) > 15


@pytest.mark.parametrize(("symbol", "test_file"), ROWS)
def test_symbol_and_test_exist(symbol: str, test_file: str):
    module, name = symbol.rsplit(".", 1)
    assert hasattr(importlib.import_module(module), name)
    assert "def test_" in (ROOT / test_file).read_text()
