"""Every key of the table through the loader of real weights, at small size: loaded, blended, and drawn with."""

from __future__ import annotations

import dataclasses
import json
import threading
from pathlib import Path

import pytest

import core.fine_tunes
from core.base_models import BASE_MODELS, BaseModel
from core.drawing import Easel
from core.fine_tunes import FineTunes
from core.loading import load_pipeline
from core.memory import PLANS
from core.messages import Job, LoraFile
from core.request import request_from
from lora_catalog.families.table import MODEL_OF
from lora_catalog.hub.api import HubApi
from tests.core.conftest import write_lora
from tests.core.test_fetching import models, small  # noqa: F401 (fixtures)
from tests.core.test_loading import with_t5  # noqa: F401 (a fixture)
from tests.hub import EmulatedHub

# A layer that both the small UNet and the real ones of its family have, by the pipeline's class.
LAYER = {
    "StableDiffusionXLPipeline": ("unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q", (128, 128)),
    "StableDiffusionPipeline": ("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q", (32, 32)),
}


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("random_pocket")
@pytest.mark.parametrize("key", [entry.key for entry in BASE_MODELS.listed()])
def test_every_model_of_the_table_draws_with_its_own_defaults(
    key: str, models: EmulatedHub, small: dict[str, dict[str, bytes]], with_t5: BaseModel, tmp_path: Path  # noqa: F811
) -> None:  # fmt: skip
    entry = BASE_MODELS[key]
    if not entry.embedded:
        models.add_repo(entry.repo, files_of(Path(with_t5.repo)) if entry.t5 else small[entry.pipeline])
    easel = Easel(entry, "cpu")
    assert (getattr(easel.pipeline, "text_encoder_3", None) is not None) == entry.t5
    loras: tuple[LoraFile, ...] = ()
    if entry.accelerator is not None:
        layer, shape = LAYER[entry.pipeline]
        file = tmp_path / "accelerator.safetensors"
        loras = (LoraFile(entry.accelerator, write_lora(file, {layer: shape}), file, 1.0, 1.0, accelerator=True),)
    steps = entry.steps_range[0]
    request = request_from({"prompt": "a cat", "steps": steps, "seed": 1, "width": 64, "height": 64}, key)
    course = easel.blend(Job(request, loras))
    assert [receipt.applied for receipt in course.receipts] == [1] * len(loras)
    picture = easel.draw(request, course, threading.Event().is_set, lambda message: None)[0].raster
    assert (picture.width, picture.height, len(picture.data)) == (64, 64, 64 * 64 * 3)
    assert len(set(picture.data)) > 1


@pytest.mark.usefixtures("random_pocket")
def test_a_repo_published_in_nf4_is_allowed_and_loaded_as_it_is(
    models: EmulatedHub, with_t5: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:  # fmt: skip
    load_pipeline(with_t5, "cpu", PLANS["t5-nf4"]).save_pretrained(tmp_path / "nf4")
    files = files_of(tmp_path / "nf4")
    assert json.loads(files["text_encoder_3/config.json"])["quantization_config"]["quant_method"] == "bitsandbytes"
    index = json.loads(files["model_index.json"]) | {"tokenizer_3": ["transformers", "T5TokenizerFast"]}
    models.add_repo("painter/packed", files | {"model_index.json": json.dumps(index).encode()})
    monkeypatch.setattr(core.fine_tunes, "MODEL_OF", {**MODEL_OF, "sd3-medium": MODEL_OF["pocket-sd3"]})
    monkeypatch.setattr(BASE_MODELS, "_all", dict(BASE_MODELS))
    key = FineTunes(HubApi(models.endpoint), tmp_path / "models.json").key_of("painter/packed", None)
    # the small T5 reads with the tokenizer of the others, which no real one does
    entry = dataclasses.replace(BASE_MODELS[str(key)], revision=models.commit("painter/packed", files))
    assert Easel(entry, "cpu").plan()["quantisation"] == "text_encoder_3:nf4"
