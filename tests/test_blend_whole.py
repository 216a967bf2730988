"""A blend of several formats, made on a fresh page, is drawn as PEFT's unfused forward draws it in fp32."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import LCMScheduler, StableDiffusion3Pipeline, StableDiffusionXLPipeline
from peft import LoHaConfig, LoraConfig, PeftConfig, inject_adapter_in_model
from peft.tuners.loha.layer import LoHaLayer
from peft.tuners.lora import LoraLayer
from PIL import Image
from playwright.sync_api import Browser, Page, expect
from safetensors.torch import load_file, save_file

from core.base_models import POCKET
from tests.conftest import UNFOLDED
from tests.core.test_same_pictures import sd3_copies, sdxl_copies
from tests.own_process import started

ROOT = Path(__file__).parent.parent
PATIENCE = 60_000  # ms
PROMPT, SEED = "a red circle on a blue background", 7
RANK = 3

Tensors = dict[str, torch.Tensor]
Pixels = np.ndarray[Any, Any]  # (height, width, 3), 0 to 255


def sd3() -> Any:
    return StableDiffusion3Pipeline.from_pretrained(
        POCKET / "pocket-sd3", text_encoder_3=None, tokenizer_3=None, dtype=torch.float32
    )


def sdxl_with_lcm() -> Any:
    pipeline = StableDiffusionXLPipeline.from_pretrained(POCKET / "pocket-sdxl", dtype=torch.float32)
    pipeline.scheduler = LCMScheduler.from_config(pipeline.scheduler.config)
    woven_lora(pipeline, "lcm", load_file(bundled_file("pocket-sdxl-lcm")), 1.0)
    return pipeline


@dataclass(frozen=True)
class Case:
    """A model of the page, the same in plain diffusers, and LoRAs for it: `loha` has its layers by diffusers' paths and
    LyCORIS' names."""

    title: str
    bundled: tuple[str, str]
    copies: Callable[[], Mapping[str, Tensors]]
    loha: Mapping[str, str]
    shapes: Mapping[str, tuple[int, int]]
    reference: Callable[[], Any]
    options: Mapping[str, Any]


CASES = {
    "pocket-sdxl-lcm": Case(
        "Pocket SDXL + LCM",
        ("pocket-sdxl-neon", "pocket-sdxl-dots"),
        sdxl_copies,
        {
            "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q":
                "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q",
            "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_v":
                "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_v",
        },
        {
            "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q": (64, 64),
            "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_v": (128, 320),
        },
        sdxl_with_lcm,
        {"num_inference_steps": 4, "guidance_scale": 1.0},
    ),
    "pocket-sd3": Case(
        "Pocket SD3",
        ("pocket-sd3-neon", "pocket-sd3-dots"),
        sd3_copies,
        {
            "transformer.transformer_blocks.1.attn.to_out.0": "lora_unet_joint_blocks_1_x_block_attn_proj",
            "transformer.transformer_blocks.4.ff.net.0.proj": "lora_unet_joint_blocks_4_x_block_mlp_fc1",
        },
        {
            "transformer.transformer_blocks.1.attn.to_out.0": (192, 192),
            "transformer.transformer_blocks.4.ff.net.0.proj": (768, 192),
        },
        sd3,
        {"num_inference_steps": 20, "guidance_scale": 3.0, "max_sequence_length": 1},
    ),
}  # fmt: skip
WEIGHTS = (0.6, 0.5, 0.15, 0.8)  # of two bundled ones, kohya's with half an alpha, and the LoHa


def part_of(pipeline: Any, layer: str) -> tuple[str, str]:
    """A component's name, and the layer's path in it: transformers 5 has no `text_model` in CLIPTextModel."""
    component, _, path = layer.partition(".")
    return component, path if hasattr(getattr(pipeline, component), path.split(".")[0]) else path.split(".", 1)[1]


def woven(pipeline: Any, name: str, values: Mapping[str, Tensors], config: Callable[[list[str]], PeftConfig]) -> None:
    """One more adapter of PEFT's: `values` are its tensors by layer and by PEFT's names."""
    parts: dict[str, dict[str, Tensors]] = {}
    for layer, tensors in values.items():
        component, path = part_of(pipeline, layer)
        parts.setdefault(component, {})[path] = tensors
    for component, layers in parts.items():
        root = getattr(pipeline, component)
        inject_adapter_in_model(config(list(layers)), root, adapter_name=name)
        for path, tensors in layers.items():
            for kind, value in tensors.items():
                held = getattr(root.get_submodule(path), kind)[name]
                getattr(held, "weight", held).data.copy_(value)


def woven_lora(pipeline: Any, name: str, plain: Tensors, weight: float) -> None:
    """A LoRA in diffusers' names, all of one rank."""
    layers = sorted({key.rsplit(".lora_", 1)[0] for key in plain})
    values = {
        layer: {kind: plain[f"{layer}.{kind}.weight"].float() for kind in ("lora_A", "lora_B")} for layer in layers
    }
    for tensors in values.values():
        tensors["lora_B"] *= weight
    rank = len(values[layers[0]]["lora_A"])
    woven(pipeline, name, values, lambda paths: LoraConfig(r=rank, lora_alpha=rank, target_modules=paths))


def woven_loha(pipeline: Any, values: Mapping[str, Tensors], weight: float) -> None:
    weighted = {layer: tensors | {"hada_w1_a": tensors["hada_w1_a"] * weight} for layer, tensors in values.items()}
    woven(pipeline, "loha", weighted, lambda paths: LoHaConfig(r=RANK, alpha=RANK, target_modules=paths))


def loha_values(shapes: Mapping[str, tuple[int, int]]) -> dict[str, Tensors]:
    """Random factors, which LyCORIS and PEFT name and shape alike."""
    generator = torch.Generator().manual_seed(11)
    return {
        layer: {
            f"hada_{kind}": torch.randn(shape, generator=generator) * 0.5
            for kind, shape in (
                ("w1_a", (rows, RANK)), ("w1_b", (RANK, columns)), ("w2_a", (rows, RANK)), ("w2_b", (RANK, columns)),
            )
        }
        for layer, (rows, columns) in shapes.items()
    }  # fmt: skip


def kohya_file(case: Case) -> Tensors:
    """With half its rank for an alpha."""
    tensors = case.copies()["kohya"]
    return {name: tensor * (0.5 if name.endswith(".alpha") else 1.0) for name, tensor in tensors.items()}


def loha_file(case: Case) -> Tensors:
    tensors: Tensors = {}
    for layer, factors in loha_values(case.shapes).items():
        tensors |= {f"{case.loha[layer]}.{kind}": factor for kind, factor in factors.items()}
        tensors[f"{case.loha[layer]}.alpha"] = torch.tensor(float(RANK))
    return tensors


def bundled_file(name: str) -> Path:
    return POCKET / "loras" / name / f"{name}.safetensors"


def layers_in(tensors: Mapping[str, Any]) -> int:
    """Of a file, counted by its own names."""
    return len({re.split(r"\.(?:lora_|hada_|alpha)", name)[0] for name in tensors})


def by_peft(case: Case, weights: Sequence[float]) -> tuple[Pixels, Pixels]:
    """The pictures of plain diffusers, without LoRAs and with every one an unfused adapter."""
    pipeline = case.reference()
    pipeline.set_progress_bar_config(disable=True)
    bare = drawn_by(pipeline, case.options)
    woven_loha(pipeline, loha_values(case.shapes), weights[3])
    for name, weight in zip(case.bundled, weights[:2], strict=True):
        woven_lora(pipeline, name, load_file(bundled_file(name)), weight)
    woven_lora(pipeline, "kohya", case.copies()["diffusers"], weights[2] / 2)
    return bare, drawn_by(pipeline, case.options)


def drawn_by(pipeline: Any, options: Mapping[str, Any]) -> Pixels:
    """With all its adapters."""
    for component in pipeline.components.values():
        for module in component.modules() if isinstance(component, torch.nn.Module) else ():
            if isinstance(module, LoraLayer):
                module.set_adapter(list(module.lora_A))
            elif isinstance(module, LoHaLayer):
                module.set_adapter(["loha"])
    generator = torch.Generator("cpu").manual_seed(SEED)
    with torch.no_grad():
        picture = pipeline(PROMPT, width=128, height=128, generator=generator, **options).images[0]
    return np.asarray(picture.convert("RGB"), dtype=np.int16)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`python app.py` with files of one's own in its data folder, and a Hub that nobody reaches."""
    data = tmp_path_factory.mktemp("fresh")
    (data / "loras").mkdir()
    for key, case in CASES.items():
        save_file({n: t.contiguous() for n, t in kohya_file(case).items()}, data / "loras" / f"kohya-{key}.safetensors")
        save_file(loha_file(case), data / "loras" / f"loha-{key}.safetensors")
    with started(data) as app:
        yield app.url


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.add_init_script(UNFOLDED)
    page.goto(address)
    expect(page.locator("#blend .card").first).to_be_visible(timeout=PATIENCE)
    yield page
    context.close()


def add_own(page: Page, name: str) -> None:
    page.get_by_role("button", name="Find more LoRAs").click()
    page.get_by_role("searchbox").fill(name)
    page.locator(f'.lora[aria-label="{name}"]').get_by_role("button", name="Details").click()
    page.get_by_role("button", name=f"Add {name} to the blend").click()
    page.get_by_role("button", name="Back to Create").click()


@pytest.mark.parametrize("key", CASES)
def test_four_formats_blend_to_the_picture_and_the_receipts_that_they_should(
    page: Page, key: str, tmp_path: Path
) -> None:
    case = CASES[key]
    page.locator("#model input").click()
    page.get_by_role("option", name=re.compile(rf"^{re.escape(case.title)} ·")).click()
    page.locator("#prompt textarea").fill(PROMPT)
    page.locator("#seed input").fill(str(SEED))
    for name in case.bundled:
        page.locator(f'#blend .card[data-ref="bundled:{name}"]').click()
    own = [f"kohya-{key}", f"loha-{key}"]
    for name in own:
        add_own(page, name)
    rows = page.locator("#blend .thread")
    expect(rows).to_have_count(4)
    for at, weight in enumerate(WEIGHTS):
        rows.nth(at).locator(".weight input[type=number]").fill(str(weight))
    page.locator("#generate").click()
    expect(page.locator("#stage .said")).to_contain_text("carries its recipe", timeout=PATIENCE)

    files = [load_file(bundled_file(name)) for name in case.bundled] + [kohya_file(case), loha_file(case)]
    receipts = page.locator("#recipe .receipt")
    expect(receipts).to_have_text([
        f"{layers_in(file)} of {layers_in(file)} layers" + (", 2 of them in text encoders" if at == 2 else "")
        for at, file in enumerate(files)
    ])  # fmt: skip

    with page.expect_download() as download:
        page.locator("#gallery button[aria-label=Download]").click()
    download.value.save_as(tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as picture:
        ours = np.asarray(picture.convert("RGB"), dtype=np.int16)
    bare, theirs = by_peft(case, WEIGHTS)
    assert np.abs(ours - theirs).max() <= 1  # of 255: what rounding to a pixel may do to nearly equal floats
    assert psnr(ours, theirs) > 60
    assert psnr(ours, bare) < 25  # the blend is no small thing


def psnr(one: Pixels, other: Pixels) -> float:
    """Decibels."""
    error = float(np.square(one - other).mean())
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)
