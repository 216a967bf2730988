"""What the tiny plan's export holds: folders that plain diffusers loads, LoRAs that the catalogue lists, checksums."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusion3Pipeline, StableDiffusionXLPipeline
from PIL import Image
from transformers import CLIPTextModel

from lora_catalog.card import LoraCard
from lora_catalog.catalog import Catalog
from lora_catalog.reference import LoraRef
from lora_catalog.sources.bundled import BundledSource
from lora_catalog.visitor import ANYONE
from tests.lora_catalog.conftest import drained
from tests.training.conftest import latents
from training.pocket import export as export_module
from training.pocket.export import export
from training.pocket.scenes import NEW_THING, vocabulary
from training.pocket.settings import LARGEST_EXPORT, OFFERED
from training.pocket.stages import Workshop, frozen_parts

Made = tuple[Workshop, Path]
LORAS = {f"pocket-{family}-{name}" for family in ("sd3", "sdxl") for name in ("dots", NEW_THING)} | {"pocket-sdxl-lcm"}


def load(target: Path, family: str) -> Any:
    if family == "sd3":
        return StableDiffusion3Pipeline.from_pretrained(target / "pocket-sd3", text_encoder_3=None, tokenizer_3=None)
    return StableDiffusionXLPipeline.from_pretrained(target / "pocket-sdxl")


@pytest.mark.parametrize("family", ["sd3", "sdxl"])
def test_plain_diffusers_loads_a_model_and_draws(made: Made, family: str) -> None:
    pipeline = load(made[1], family)
    pipeline.set_progress_bar_config(disable=True)
    assert latents(pipeline).isfinite().all()
    assert pipeline.tokenizer("cat", padding="max_length").input_ids[-1] == pipeline.tokenizer.pad_token_id


@torch.no_grad()
def test_sdxls_first_encoder_reads_sd3s_file_and_says_the_same(made: Made) -> None:
    shop, target = made
    link = target / "pocket-sdxl" / "text_encoder" / "model.safetensors"
    assert link.readlink() == Path("../../pocket-sd3/text_encoder/model.safetensors")
    assert json.loads((link.parent / "config.json").read_text(encoding="utf-8"))["architectures"] == ["CLIPTextModel"]
    encoder, report = CLIPTextModel.from_pretrained(link.parent, output_loading_info=True, dtype=torch.float32)
    assert not report["missing_keys"]
    assert set(report["unexpected_keys"]) == {"text_projection.weight"}
    _, tokenizer, (whole, _) = frozen_parts(shop)
    ids = tokenizer(["a red cat in a meadow"], padding="max_length", return_tensors="pt").input_ids
    said = [model.eval()(ids, output_hidden_states=True).hidden_states for model in (encoder, whole.half().float())]
    assert len(said[0]) == 4
    assert all(torch.equal(a, b) for a, b in zip(*said, strict=True))


def test_every_file_is_small_and_all_are_within_the_limit(made: Made) -> None:
    sizes = [path.stat().st_size for path in made[1].rglob("*") if path.is_file() and not path.is_symlink()]
    assert max(sizes) < 10_000_000
    assert sum(sizes) <= LARGEST_EXPORT == 40_000_000


def test_links_are_relative_and_stay_inside(made: Made) -> None:
    links = [path for path in made[1].rglob("*") if path.is_symlink()]
    assert {path.relative_to(made[1]).as_posix() for path in links} >= {
        "pocket-sdxl/vae/diffusion_pytorch_model.safetensors",
        "pocket-sdxl/text_encoder_2/model.safetensors",
        "pocket-sd3/tokenizer_2/tokenizer.json",
    }
    for path in links:
        assert not path.readlink().is_absolute()
        assert path.resolve(strict=True).is_relative_to(made[1].resolve())


def test_files_json_holds_the_checksum_of_every_file_that_is_read(made: Made) -> None:
    target = made[1]
    listed = json.loads((target / "files.json").read_text(encoding="utf-8"))
    assert listed == {
        path.relative_to(target).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in target.rglob("*")
        if path.is_file() and path.parent != target and path.suffix != ".png"
    }


def test_every_lora_has_a_card_that_the_catalogue_accepts_and_a_preview(made: Made) -> None:
    source = BundledSource(made[1] / "loras")
    assert {path.name for path in (made[1] / "loras").iterdir()} == LORAS
    for name in LORAS:
        fetched = drained(source.fetch(LoraRef("bundled", name), ANYONE))
        assert isinstance(fetched.card, LoraCard)
        assert name.startswith(fetched.card.family)
        with Image.open(fetched.path.with_name("preview.png")) as preview:
            assert preview.mode == "RGB"


def test_the_catalogue_says_that_every_lora_fits_its_model(made: Made) -> None:
    catalog = Catalog([BundledSource(made[1] / "loras")])
    for name in LORAS:
        family = catalog.card(f"bundled:{name}").family
        assert catalog.inspect(f"bundled:{name}", family).fits == "yes"


def test_the_words_and_examples_are_there_for_the_page(made: Made) -> None:
    words = json.loads((made[1] / "words.json").read_text(encoding="utf-8"))
    assert words == vocabulary() | {"examples": list(OFFERED)}
    assert list(words) == ["things", "colours", "sizes", "places", "relations", "settings", "examples"]


def test_nothing_exported_names_the_folders_it_was_made_in(made: Made) -> None:
    shop, target = made
    texts = [path.read_text(encoding="utf-8") for path in target.rglob("*.json")]
    assert not [text for text in texts if str(shop.runs) in text or str(target.parent) in text]


def test_an_export_that_is_too_large_is_refused_and_leaves_the_last_one(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, kept = made[0], tmp_path / "pocket" / "kept"
    kept.mkdir(parents=True)
    bare = Workshop(tmp_path, shop.plan)  # without the LoRAs, which take their time
    for name in ("vae", "text", "sd3", "sdxl"):
        (bare.runs / name).symlink_to(shop.runs / name)
    monkeypatch.setattr(export_module, "LARGEST_EXPORT", 1_000_000)
    with pytest.raises(ValueError, match=r"The export takes [\d,]+ bytes and may take 1,000,000"):
        export(bare, kept.parent)
    assert kept.is_dir()
