"""The README's tree is true and whole, and links are true."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OPENED = ("unipart", "pipelines", "jobs", "infra", "docs")
"""Folders whose content the tree names."""


def _tree() -> list[str]:
    """Returns the paths that the README's tree names; a line may name several that belong together."""
    text = (ROOT / "README.md").read_text()
    tree = text.split("```tree\n", 1)[1].split("```", 1)[0]
    paths, folder = [], ""
    for line in tree.splitlines():
        entry = re.fullmatch(r"(  )?((?:[\w./-]+, )*[\w./-]+)  +\S.*", line)
        assert entry, f"not a tree line: {line!r}"
        names = entry[2].split(", ")
        if not entry[1]:
            folder = names[0]
        paths += [folder + name if entry[1] else name for name in names]
    return paths


def test_every_path_in_the_readme_tree_exists_and_is_named_once():
    paths = _tree()
    assert len(set(paths)) == len(paths)
    for path in paths:
        assert (ROOT / path).exists(), f"the README tree names {path}, which does not exist"
        assert (ROOT / path).is_dir() == path.endswith("/"), f"a folder ends in a slash: {path}"


def test_the_readme_tree_names_everything_at_the_top_and_in_the_folders_that_it_opens():
    if not (ROOT / ".git").exists():
        pytest.skip("what belongs to the project is known to git")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    tracked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    files = [path.split("/") for path in tracked if (ROOT / path).exists()]
    found = set()
    for first, *rest in files:
        found.add(f"{first}/" if rest else first)
        if first in OPENED and rest:
            found.add(f"{first}/{rest[0]}/" if len(rest) > 1 else f"{first}/{rest[0]}")
    found = {path for path in found if not path.startswith(".") and not path.endswith("__init__.py")}
    missing = sorted(found - set(_tree()))
    assert not missing, f"the README tree lacks {', '.join(missing)}"


def test_local_links_in_the_documents_resolve():
    for document in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)\)", document.read_text()):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name} links to {target}"
