"""Draws the small pictures of the pocket models' example blends: python -m training.pocket.blends [--sheets FOLDER]."""

from __future__ import annotations

import argparse
import io
import threading
import tomllib
from pathlib import Path
from typing import Any

from PIL import Image

from core.base_models import BASE_MODELS, POCKET
from core.engine import LocalEngine
from core.machine import Machine
from core.studio import Generated, Studio
from lora_catalog.catalog import Catalog
from lora_catalog.sources.bundled import BundledSource
from lora_catalog.visitor import ANYONE

FOLDER = Path(__file__).resolve().parents[2] / "ui" / "examples"
SEEDS = range(1, 9)  # of a sheet to choose from


def drawn(studio: Studio, model: str, asked: dict[str, Any]) -> Image.Image:
    """One picture, as a visitor who clicks the example and Generate gets it."""
    last = list(studio.generate({**asked, "model": model}, ANYONE, threading.Event()))[-1]
    assert isinstance(last, Generated)
    return Image.open(io.BytesIO(last.pictures[0])).convert("RGB")


def sheet(studio: Studio, model: str, asked: dict[str, Any]) -> Image.Image:
    """The same blend with eight seeds side by side."""
    pictures = [drawn(studio, model, {**asked, "seed": seed}) for seed in SEEDS]
    side = pictures[0].width
    page = Image.new("RGB", (side * len(pictures), side))
    for place, picture in enumerate(pictures):
        page.paste(picture, (side * place, 0))
    return page


def main() -> None:
    """All examples whose model is embedded; those of other models stay without a picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sheets", type=Path, help="draw sheets of eight seeds into this folder instead")
    sheets: Path | None = parser.parse_args().sheets
    studio = Studio(LocalEngine(Machine("cpu")), Catalog([BundledSource(POCKET / "loras")]), "pocket-sd3")
    for example in tomllib.loads((FOLDER / "examples.toml").read_text("utf-8"))["example"]:
        model = example["models"][0]
        if model not in BASE_MODELS or not BASE_MODELS[model].embedded:
            continue
        if sheets is None:
            path = FOLDER / f"{example['name']}.webp"
            drawn(studio, model, example["asked"]).save(path, "WEBP", quality=82, method=6)
        else:
            path = sheets / f"{example['name']}.png"
            sheet(studio, model, example["asked"]).save(path)
        print(path.name, path.stat().st_size)


if __name__ == "__main__":
    main()
