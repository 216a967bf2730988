"""The figures of the pocket models: what the judge and the styles' own measures say, as tables and as JSON."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from PIL import Image

from training.pocket.judge import Asked, Judge, as_pixels, drawings, held_out, judge_pictures
from training.pocket.scenes import NEW_THING
from training.pocket.styles import STYLES, Style
from training.sheets import Drawing

Row = dict[str, str | int | float]
Tables = dict[str, list[Row]]
WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)


def markdown(title: str, rows: Sequence[Row]) -> str:
    """A table as GitHub reads it; shares with two decimals."""
    columns = list(dict.fromkeys(name for row in rows for name in row))

    def cell(row: Row, name: str) -> str:
        value = row.get(name, "–")
        return f"{value:.2f}" if isinstance(value, float) else str(value)

    lines = [f"**{title}**", "", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(cell(row, name) for name in columns) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def write_tables(tables: Tables, path: Path) -> str:
    """Merges tables into the JSON file at `path`, by title, and gives all of them as markdown."""
    known: Tables = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    known |= tables
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    text = "\n".join(markdown(title, rows) for title, rows in known.items())
    path.with_suffix(".md").write_text(text, encoding="utf-8")
    return text


def prompts(asked: Sequence[Asked], words: str = "") -> list[str]:
    return [one.caption.text + (f", {words}" if words else "") for one in asked]


def _row(label: str, judge: Judge, images: Sequence[Image.Image], asked: Sequence[Asked]) -> Row:
    figures = judge_pictures(judge, images, asked)
    return {"": label, "pictures": figures.pictures, **figures.rates}


@torch.no_grad()
def through(vae: AutoencoderKL, images: Sequence[Image.Image], batch: int = 16) -> list[Image.Image]:
    """Pictures encoded and decoded: the best a denoiser on these latents can do."""
    restored: list[Image.Image] = []
    for start in range(0, len(images), batch):
        decoded = vae.decode(vae.encode(as_pixels(images[start : start + batch])).latent_dist.mean).sample
        levels = decoded.add(1).mul(127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1)
        restored += [Image.fromarray(picture.numpy()) for picture in levels]
    return restored


def ceiling(judge: Judge, vae: AutoencoderKL, singles: int, pairs: int) -> Tables:
    """What the judge says of real pictures, and of real pictures passed through the autoencoder."""
    tables: Tables = {}
    for title, asked in (("one thing", held_out(singles, 1)), ("two things", held_out(pairs, 2))):
        real = drawings(asked)
        tables[f"Judge's ceiling, {title}"] = [
            _row("real pictures", judge, real, asked),
            _row("through the autoencoder", judge, through(vae, real), asked),
        ]
    return tables


def drawn(
    judge: Judge, pipeline: DiffusionPipeline, name: str, ways: dict[str, Drawing], singles: int, pairs: int
) -> Tables:
    """What the judge says of pictures of held-out captions, drawn in several ways, and how long one takes."""
    tables: Tables = {}
    for title, asked in (("one thing", held_out(singles, 1)), ("two things", held_out(pairs, 2))):
        if asked:
            rows = []
            for label, drawing in ways.items():
                row = _row(label, judge, drawing.draw(pipeline, prompts(asked)), asked)
                rows.append(row | {"seconds": drawing.seconds(pipeline, asked[0].caption.text)})
            tables[f"{name}, {title}"] = rows
    return tables


@contextmanager
def with_lora(pipeline: DiffusionPipeline, file: Path) -> Iterator[None]:
    """The pipeline with a LoRA file on, as diffusers and PEFT put it on."""
    pipeline.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name="judged")
    try:
        yield
    finally:
        pipeline.unload_lora_weights()


def style_row(judge: Judge, pipeline: DiffusionPipeline, drawing: Drawing, style: Style, file: Path, count: int) -> Row:
    """A style's own measure as its LoRA's weight grows, and whether the thing is still known at full weight."""
    asked = held_out(count, 1)
    row: Row = {"": style.name}
    with with_lora(pipeline, file):
        for weight in WEIGHTS:
            pipeline.set_adapters("judged", weight)
            images = drawing.draw(pipeline, prompts(asked, style.trigger))
            row[f"at {weight:g}"] = sum(map(style.measure, images)) / len(images)
            if weight in (WEIGHTS[0], WEIGHTS[-1]):
                row[f"thing at {weight:g}"] = judge_pictures(judge, images, asked).rates["thing"]
    styled = [style.apply(image, random.Random(0)) for image in drawings(asked)]
    row["real styled"] = sum(map(style.measure, styled)) / len(styled)
    row["thing, real styled"] = judge_pictures(judge, styled, asked).rates["thing"]
    return row


def style_table(
    judge: Judge, pipeline: DiffusionPipeline, name: str, drawing: Drawing, files: dict[str, Path], count: int
) -> Tables:
    rows = [style_row(judge, pipeline, drawing, STYLES[style], file, count) for style, file in files.items()]
    return {f"{name}, style LoRAs: each style's own measure by weight": rows}


def trigger_table(
    judge: Judge, pipeline: DiffusionPipeline, name: str, drawing: Drawing, file: Path, count: int, weight: float
) -> Tables:
    """The new thing asked for by its name, with its LoRA and without; and ordinary things with it on."""
    new, usual = held_out(count, 1, name=NEW_THING), held_out(count, 1)
    rows = [_row("bare, asked for a " + NEW_THING, judge, drawing.draw(pipeline, prompts(new)), new)]
    with with_lora(pipeline, file):
        pipeline.set_adapters("judged", weight)
        rows.append(_row("with its LoRA, asked for a " + NEW_THING, judge, drawing.draw(pipeline, prompts(new)), new))
        rows.append(_row("with its LoRA, asked for usual things", judge, drawing.draw(pipeline, prompts(usual)), usual))
    return {f"{name}, the new thing": rows}
