"""The README's tree and links are true."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_path_in_the_readme_tree_exists():
    text = (ROOT / "README.md").read_text()
    tree = text.split("```tree\n", 1)[1].split("```", 1)[0]
    folders: list[str] = []
    for line in tree.splitlines():
        entry = re.match(r"^( *)([\w./-]+)", line)
        assert entry, f"not a tree line: {line!r}"
        depth = len(entry[1]) // 2
        folders = [*folders[:depth], entry[2]]
        path = ROOT / "".join(folders)
        assert path.exists(), f"the README tree names {path.relative_to(ROOT)}, which does not exist"


def test_local_links_in_the_documents_resolve():
    for document in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)\)", document.read_text()):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name} links to {target}"
