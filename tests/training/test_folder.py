"""A captioned folder: read as written, and what is wrong with one named by folder and line."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from PIL import Image

from training.folder import CaptionedFolder, write_folder

GOOD = '{"file_name": "cat.png", "text": "a cat"}'


def metadata(root: Path, *lines: str) -> Path:
    Image.new("RGB", (8, 8)).save(root / "cat.png")
    (root / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return root


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    write_folder(tmp_path, [(Image.new("RGB", (8, 8), (255, 0, 0)), ["a", "b"]), (Image.new("RGB", (8, 8)), ["c"])])
    folder = CaptionedFolder(tmp_path)
    assert [item.captions for item in folder.items] == [("a", "b"), ("c",)]
    assert folder.pixels(0, 8, 8)[:, 0, 0].tolist() == [1, -1, -1]
    assert {folder.caption(0, random.Random(seed)) for seed in range(20)} == {"a", "b"}


def test_a_picture_of_another_shape_is_cropped_from_its_middle(tmp_path: Path) -> None:
    wide = Image.new("RGB", (32, 8))
    wide.paste((255, 255, 255), (12, 0, 20, 8))
    write_folder(tmp_path, [(wide, ["a white square"])])
    assert CaptionedFolder(tmp_path).pixels(0, 8, 8).eq(1).all()


def test_a_folder_without_metadata_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"{tmp_path} has no metadata\.jsonl"):
        CaptionedFolder(tmp_path)


def test_a_folder_without_pictures_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"{tmp_path}/metadata\.jsonl names no picture"):
        CaptionedFolder(metadata(tmp_path, "", ""))


@pytest.mark.parametrize(
    "line",
    [
        '{"file_name": "cat.png"', "[]", "7", '{"text": "a cat"}', '{"file_name": "cat.png"}',
        '{"file_name": 7, "text": "a cat"}', '{"file_name": "cat.png", "text": 7}',
        '{"file_name": "cat.png", "text": []}', '{"file_name": "cat.png", "text": ["a cat", 7]}',
        '{"file_name": "gone.png", "text": "a cat"}',
    ],
)  # fmt: skip
def test_a_line_that_is_no_captioned_picture_is_named(tmp_path: Path, line: str) -> None:
    with pytest.raises(ValueError, match=rf"^Line 3 of {tmp_path}/metadata\.jsonl "):
        CaptionedFolder(metadata(tmp_path, GOOD, "", line))
