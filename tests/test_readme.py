"""The README's file tree is the tree, with the duty that each file's first line states."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("lora_catalog", "core", "ui", "training", "bench")


def duty(path: Path) -> str:
    """The first sentence or clause of a module's docstring."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring is not None, f"{path.relative_to(ROOT)} does not say its duty in its first line"
    return docstring.splitlines()[0]


def modules() -> list[Path]:
    found = [ROOT / "app.py", ROOT / "settings.py"]
    for package in PACKAGES:
        found += sorted((ROOT / package).rglob("*.py"))
    return [path for path in found if path.name != "__init__.py"]


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_readme_names_every_file_with_its_duty(path: Path) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    name = path.relative_to(ROOT).as_posix()
    line = re.search(rf"^{re.escape(name)} +(.+)$", readme, re.MULTILINE)
    assert line is not None, f"README.md's tree lacks {name}"
    assert line[1] == duty(path)


def test_the_readme_names_no_file_that_is_gone() -> None:
    tree = (ROOT / "README.md").read_text(encoding="utf-8").split("## The house", 1)[1]
    for name in re.findall(r"^(\S+/\S+\.py|(?:app|settings)\.py) ", tree, re.MULTILINE):
        assert (ROOT / name).is_file(), name
