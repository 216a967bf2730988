"""What the README says can be done can be done: its programmes run, and its table of settings is settings.py's."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import settings
from core.base_models import POCKET
from core.engine import LocalEngine
from core.machine import Machine
from core.records.journal import Journal
from tests.conftest import Serve, beside_the_browser
from ui.words import PocketWords

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.+?)^```", README, re.MULTILINE | re.DOTALL)
OF_ANOTHER = "USER/REPO"  # a block that names it asks the Hub for something of the reader's own


@pytest.mark.timeout(900)  # seconds; some thirty pictures on a busy machine
def test_the_readmes_programmes_run_from_the_first_to_the_last(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one namespace, as somebody who follows the page types them."""
    served = serve(
        LocalEngine(Machine("cpu")), POCKET / "loras", PocketWords(), "pocket-sd3",
        Journal(tmp_path / "journal.sqlite"), mcp=True,
    )  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").symlink_to(ROOT / "models")
    Image.new("RGB", (128, 128), "teal").save("start.png")
    Image.new("L", (128, 128), 255).save("mask.png")
    names: dict[str, Any] = {}
    ran = 0
    for block in BLOCKS:
        if OF_ANOTHER in block:
            continue
        programme = compile(block.replace("http://127.0.0.1:7860", served.url), "README.md", "exec")
        beside_the_browser(exec, programme, names)
        ran += 1
        if isinstance(names.get("gallery"), list) and not Path("picture.png").exists():
            shutil.copy(names["gallery"][0]["image"], "picture.png")
    assert ran >= 8
    assert names["differs"] == []
    assert names["drawn"]["pictures"]


def test_the_table_of_settings_is_that_of_the_app() -> None:
    table = README.split("<!-- settings -->")[1].split("<!-- /settings -->")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().splitlines()[2:]]
    told = {row[0].strip("`").split()[0]: (row[0].strip("`"), row[1]) for row in rows}
    for option in settings.OPTIONS:
        flag, variables = told.pop(option.flag)
        assert flag == f"{option.flag} {option.metavar or ''}".strip()
        assert variables == ", ".join(f"`{name}`" for name in option.variables)
    assert not told, "the README tells of flags that are gone"


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda path: path.name
)
def test_every_link_and_picture_leads_to_a_file(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)|src=\"([^\"]+)\"", text):
        address = "".join(link)
        if "://" not in address:
            assert (page.parent / address).exists(), address


def test_every_bench_that_is_told_of_is_there() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for name in re.findall(r"\bbench\.([a-z_]+)", page.read_text(encoding="utf-8")):
            assert (ROOT / "bench" / f"{name}.py").is_file(), name
