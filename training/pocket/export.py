"""Writes what the trainings made as models/pocket: diffusers folders, LoRAs with cards, the words, all checksums."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import torch
from diffusers import DiffusionPipeline, LCMScheduler

from training.pocket import figures
from training.pocket.scenes import NEW_THING, vocabulary
from training.pocket.settings import FAMILIES, LARGEST_EXPORT, LICENCE, OFFERED, SHARD
from training.pocket.stages import Workshop, frozen_parts, trained
from training.pocket.styles import STYLES
from training.sheets import Drawing

BASE_TITLES = {"sd3": "Pocket SD3", "sdxl": "Pocket SDXL"}
PREVIEW_SEED = 5
PREVIEW_PROMPTS = {
    "pixel": "a red mushroom in a meadow",
    "sketch": "a purple heart on a green background",
    "neon": "a blue boat at sunset",
    "pastel": "an orange cat in a meadow",
    "dots": "a purple boat on the sea",
    NEW_THING: f"a red {NEW_THING} in a meadow",
    "lcm": "a yellow star at night",
}


def checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _link(path: Path, original: Path) -> None:
    """A relative link to `original` in place of `path`."""
    path.unlink()
    path.symlink_to(os.path.relpath(original, path.parent))


def settle_configs(root: Path) -> None:
    """Configs of models forget the folder they were read from, and have the halves on disk computed as floats.

    Without the latter, transformers loads its encoders as stored and diffusers the rest as floats: they cannot work
    together unless one names a dtype.
    """
    for path in root.glob("*/*/config.json"):
        config = json.loads(path.read_text(encoding="utf-8"))
        config.pop("_name_or_path", None)
        if "dtype" in config:
            config["dtype"] = "float32"
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def share_first_encoder(root: Path) -> None:
    """SDXL's first encoder reads SD3's file: the same weights, beside a projection that a CLIPTextModel leaves out."""
    file = Path("text_encoder", "model.safetensors")
    _link(root / "pocket-sdxl" / file, root / "pocket-sd3" / file)


def share_equal_files(root: Path) -> None:
    """Files of equal bytes stand once, in the first folder by name; the rest become relative links to them."""
    first: dict[str, Path] = {}
    for path in sorted(p for p in root.rglob("*") if p.is_file() and not p.is_symlink()):
        path.chmod(0o644)  # safetensors writes for its owner alone
        original = first.setdefault(checksum(path), path)
        if original is not path:
            _link(path, original)


def _preview(pipeline: DiffusionPipeline, file: Path, prompt: str, drawing: Drawing, target: Path) -> None:
    with figures.with_lora(pipeline, file):
        drawing.draw(pipeline, [prompt], PREVIEW_SEED)[0].save(target, optimize=True)


def _card(family: str, name: str, file: Path, weight: float) -> dict[str, object]:
    """What people read about a LoRA; the fields of every bundled card."""
    base = BASE_TITLES[family]
    if name in STYLES:
        style = STYLES[name]
        title, triggers = style.title, [style.trigger]
        look = style.title.lower()
        description = f"Gives {base}'s pictures a look: {look}. The weight alone does it, the words help."
    elif name == NEW_THING:
        title, triggers = "Loomling", [NEW_THING]
        description = f"Teaches {base} a new thing: the loomling, a spool of yarn with eyes. Ask for it by name."
    else:
        title, triggers = "LCM, four steps", []
        description = f"Distilled from {base} under guidance: with LCMScheduler it draws in four steps, at guidance 1."
    return {
        "title": title,
        "family": f"pocket-{family}",
        "triggers": triggers,
        "licence": LICENCE,
        "weight": weight,
        "description": description,
        "base": f"pocket-{family}",
        "author": "LoRA Loom",
        "sha256": checksum(file),
    }


def _write_lora(shop: Workshop, target: Path, family: str, name: str, file: Path, pipeline: DiffusionPipeline) -> None:
    by, folder = shop.plan.families[family], target / "loras" / file.stem
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, folder / file.name)
    card = json.dumps(_card(family, name, file, by.lora_training(name).weight), indent=2, ensure_ascii=False)
    (folder / "card.json").write_text(card + "\n", encoding="utf-8")
    trigger = f", {STYLES[name].trigger}" if name in STYLES else ""
    drawing = by.quick if name == "lcm" else by.drawing
    _preview(pipeline, file, PREVIEW_PROMPTS[name] + trigger, drawing, folder / "preview.png")


def _write_checksums(target: Path) -> None:
    """`files.json`: the sha256 of every file that a model or LoRA is read from, links by what they lead to."""
    found = {
        path.relative_to(target).as_posix(): checksum(path)
        for folder in sorted(target.iterdir())
        if folder.is_dir()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".png"
    }
    (target / "files.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _refuse_if_large(root: Path) -> None:
    total = sum(path.stat().st_size for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    if total > LARGEST_EXPORT:
        raise ValueError(
            f"The export takes {total:,} bytes and may take {LARGEST_EXPORT:,}: shrink a model or leave a LoRA out. "
            f"It lies in {root}; what was exported before is untouched."
        )


def export(shop: Workshop, target: Path) -> None:
    """Replaces what `target` holds; previews are drawn by the pictures' own pipelines.

    Raises ValueError, with `target` untouched, for an export that is too large.
    """
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for family in FAMILIES:
        pipeline = trained(shop, family)
        for name in (*STYLES, NEW_THING):
            file = shop.lora_file(family, name)
            if file.is_file():
                _write_lora(shop, partial, family, name, file, pipeline)
        tokenizer = frozen_parts(shop)[1]  # a used one would be saved with its last padding
        pipeline.register_modules(tokenizer=tokenizer, tokenizer_2=tokenizer)
        pipeline.to(torch.float16).save_pretrained(partial / "models" / f"pocket-{family}", max_shard_size=SHARD)
        if family == "sdxl" and shop.lcm_file.is_file():
            pipeline.to(torch.float32).scheduler = LCMScheduler.from_config(pipeline.scheduler.config)
            _write_lora(shop, partial, family, "lcm", shop.lcm_file, pipeline)
    settle_configs(partial / "models")
    share_first_encoder(partial / "models")
    share_equal_files(partial / "models")
    for folder in sorted((partial / "models").iterdir()):
        folder.rename(partial / folder.name)
    (partial / "models").rmdir()
    words = json.dumps(vocabulary() | {"examples": list(OFFERED)}, indent=1, ensure_ascii=False)
    (partial / "words.json").write_text(words + "\n", encoding="utf-8")
    _write_checksums(partial)
    _refuse_if_large(partial)
    shutil.rmtree(target, ignore_errors=True)
    partial.replace(target)
