"""The stages that make the pocket models, each from the results of those before it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DiffusionPipeline, LCMScheduler, SD3Transformer2DModel, UNet2DConditionModel
from safetensors import safe_open
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from training.autoencoder import train_autoencoder
from training.base import train_base
from training.folder import CaptionedFolder, write_folder
from training.lcm import distil
from training.lora import part_name, train_lora
from training.pocket import figures, models, pictures
from training.pocket.judge import Judge, held_out, load_judge, save_judge, train_judge
from training.pocket.scenes import NEW_THING
from training.pocket.settings import EXAMPLES, LORAS, SHARD, Family, Plan
from training.pocket.text import text_encoder, train_encoders, train_tokenizer
from training.sheets import Drawing, sheet

log = logging.getLogger(__name__)
NO_FILTER: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Workshop:
    """Where runs lie, by which plan they go, and which families or LoRAs alone are asked for (none: all)."""

    runs: Path
    plan: Plan
    only: frozenset[str] = NO_FILTER

    def wanted(self, name: str) -> bool:
        return not self.only or name in self.only

    @property
    def families(self) -> dict[str, Family]:
        chosen = {name: family for name, family in self.plan.families.items() if self.wanted(name)}
        return chosen or self.plan.families

    @property
    def loras(self) -> list[str]:
        return [name for name in LORAS if self.wanted(name)] or list(LORAS)

    def lora_file(self, family: str, name: str) -> Path:
        full = f"pocket-{family}-{name}"
        return self.runs / "loras" / full / f"{full}.safetensors"

    @property
    def lcm_file(self) -> Path:
        return self.runs / "lcm" / "pocket-sdxl-lcm.safetensors"

    @property
    def figures_file(self) -> Path:
        return self.runs / "judge" / "figures.json"


# What is made so far, read back -------------------------------------------------------------------------------------


def frozen_parts(shop: Workshop) -> tuple[AutoencoderKL, CLIPTokenizer, list[CLIPTextModelWithProjection]]:
    text = shop.runs / "text"
    vae = AutoencoderKL.from_pretrained(shop.runs / "vae" / "final").eval().requires_grad_(False)
    encoders = [CLIPTextModelWithProjection.from_pretrained(text / f"encoder{i}").eval() for i in (1, 2)]
    for encoder in encoders:
        encoder.requires_grad_(False)
    return vae, CLIPTokenizer.from_pretrained(text / "tokenizer"), encoders


def untrained(shop: Workshop, family: str) -> DiffusionPipeline:
    """A family's pipeline with its frozen parts and a fresh denoiser."""
    torch.manual_seed(0)
    build = {"sd3": models.pocket_sd3, "sdxl": models.pocket_sdxl}[family]
    pipeline = build(*frozen_parts(shop))
    pipeline.text_encoder.requires_grad_(False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def trained(shop: Workshop, family: str) -> DiffusionPipeline:
    """A family's pipeline with the denoiser's last saved average."""
    pipeline = untrained(shop, family)
    kind = {"sd3": SD3Transformer2DModel, "sdxl": UNet2DConditionModel}[family]
    denoiser = kind.from_pretrained(shop.runs / family / "average").eval()
    pipeline.register_modules(**{part_name(pipeline): denoiser})
    return pipeline


def steps_done(run: Path) -> int:
    """How far a training has come that its loop can resume."""
    state = run / "state.safetensors"
    if not state.is_file():
        return 0
    with safe_open(state, "pt") as stored:
        return int(stored.metadata()["step"])


# Stages -------------------------------------------------------------------------------------------------------------


def make_pictures(shop: Workshop) -> None:
    plan, runs = shop.plan, shop.runs
    for root, drawn in (
        (runs / "vae-pictures", pictures.for_autoencoder(plan.autoencoder_pictures, seed=1)),
        (runs / "scenes", pictures.scenes(plan.scenes, seed=2)),
    ):
        if not (root / "metadata.jsonl").is_file():
            write_folder(root, drawn)


def make_autoencoder(shop: Workshop) -> None:
    run = shop.runs / "vae"
    torch.manual_seed(0)
    vae = models.autoencoder()
    folder = CaptionedFolder(shop.runs / "vae-pictures")
    train_autoencoder(vae, folder, run, shop.plan.autoencoder, side=models.SIDE, crop=shop.plan.crop)
    vae.save_pretrained(run / "final")


def make_text(shop: Workshop) -> None:
    run = shop.runs / "text"
    tokenizer = train_tokenizer()
    torch.manual_seed(0)
    encoders = [text_encoder(tokenizer, width) for width in models.TEXT_WIDTHS]
    faultless = train_encoders(tokenizer, encoders, run, shop.plan.text)
    log.info("text: %.3f of fresh captions are read without a fault", faultless)
    tokenizer.save_pretrained(run / "tokenizer")
    for number, encoder in enumerate(encoders, 1):
        encoder.save_pretrained(run / f"encoder{number}")


def _counting(pipeline: DiffusionPipeline) -> Callable[[int], None]:
    """For SD3: one zero token of random weight stands for any number of them; see CountedZeroToken."""
    if part_name(pipeline) != "transformer":
        return lambda count: None
    counted = models.CountedZeroToken()
    pipeline.transformer.set_attn_processor(counted)
    return counted.draw


def make_base(shop: Workshop, family: str) -> None:
    run, by = shop.runs / family, shop.plan.families[family]
    pipeline = untrained(shop, family)
    denoiser = getattr(pipeline, part_name(pipeline))
    own_attention = denoiser.attn_processors

    def on_save(step: int) -> None:
        counted = denoiser.attn_processors
        denoiser.eval().set_attn_processor(dict(own_attention))
        denoiser.save_pretrained(run / "average", max_shard_size=SHARD)
        with torch.autocast("cpu", torch.bfloat16):
            drawn = by.drawing.draw(pipeline, EXAMPLES)
        sheet(drawn, EXAMPLES, 8).save(run / "sheet.png")
        denoiser.train().set_attn_processor(dict(counted))

    train_base(
        pipeline,
        CaptionedFolder(shop.runs / "scenes"),
        run,
        by.settings,
        side=models.SIDE,
        levels=by.levels,
        text_length=1,
        on_save=on_save,
        before_step=_counting(pipeline),
    )


def make_loras(shop: Workshop) -> None:
    plan = shop.plan
    for family, by in shop.families.items():
        for number, name in enumerate(shop.loras):
            file = shop.lora_file(family, name)
            if file.is_file():
                continue
            root = shop.runs / "lora-pictures" / name
            if not (root / "metadata.jsonl").is_file():
                write_folder(root, pictures.for_lora(name, plan.lora_pictures, seed=100 + LORAS.index(name)))
            pipeline = trained(shop, family)
            way = by.lora_training(name)
            log.info("LoRA %d of %d: %s", number + 1, len(shop.loras), file.stem)
            train_lora(
                pipeline,
                CaptionedFolder(root),
                file.parent / "run",
                file,
                way.settings,
                rank=plan.lora_rank,
                targets=way.targets,
                side=models.SIDE,
                levels=by.levels if name == NEW_THING else plan.lora_levels,
                text_length=1,
                before_step=_counting(pipeline),
            )


def make_lcm(shop: Workshop) -> None:
    plan = shop.plan
    distil(
        trained(shop, "sdxl"),
        CaptionedFolder(shop.runs / "scenes"),
        shop.runs / "lcm" / "run",
        shop.lcm_file,
        plan.lcm,
        plan.distillation,
        rank=plan.lcm_rank,
    )


def make_judge(shop: Workshop) -> None:
    run = shop.runs / "judge"
    torch.manual_seed(0)
    judge = Judge()
    train_judge(judge, run, shop.plan.judge)
    save_judge(judge, run / "judge.safetensors")


# Figures ------------------------------------------------------------------------------------------------------------


def _lcm_drawing(by: Family) -> Drawing:
    return Drawing(by.quick.steps, by.quick.guidance, options=by.quick.options)


def _unseen_sheet(shop: Workshop, pipeline: DiffusionPipeline, name: str, drawing: Drawing) -> None:
    asked = [*held_out(16, 1, seed=7), *held_out(8, 2, seed=7)]
    words = figures.prompts(asked)
    (shop.runs / "sheets").mkdir(exist_ok=True)
    sheet(drawing.draw(pipeline, words), words, 8).save(shop.runs / "sheets" / f"{name}.png")


def figures_of_base(shop: Workshop, judge: Judge, family: str) -> None:
    """A family's own figures, and those of its few-step LoRA where there is one."""
    by, plan, name = shop.plan.families[family], shop.plan, f"pocket-{family}"
    pipeline = trained(shop, family)
    _unseen_sheet(shop, pipeline, name, by.drawing)
    ways = {_label(by.drawing): by.drawing, _label(by.quick): by.quick}
    _print(shop, figures.drawn(judge, pipeline, name, ways, plan.judged_singles, plan.judged_pairs))
    if family == "sdxl" and shop.lcm_file.is_file():
        pipeline.scheduler = LCMScheduler.from_config(pipeline.scheduler.config)
        with figures.with_lora(pipeline, shop.lcm_file):
            # What the page does: the accelerator is in the weights, not beside them.
            pipeline.fuse_lora()
            quick = _lcm_drawing(by)
            _unseen_sheet(shop, pipeline, f"{name}-lcm", quick)
            way = {_label(quick): quick}
            _print(shop, figures.drawn(judge, pipeline, f"{name}-lcm", way, plan.judged_singles, plan.judged_pairs))
            pipeline.unfuse_lora()


def figures_of_loras(shop: Workshop, judge: Judge, family: str) -> None:
    by, name = shop.plan.families[family], f"pocket-{family}"
    files = {lora: shop.lora_file(family, lora) for lora in shop.loras}
    styles = {lora: file for lora, file in files.items() if lora != NEW_THING and file.is_file()}
    pipeline = trained(shop, family)
    if styles:
        _print(shop, figures.style_table(judge, pipeline, name, by.drawing, styles, shop.plan.judged_styled))
    if NEW_THING in files and files[NEW_THING].is_file():
        count = 2 * shop.plan.judged_styled
        weight = by.lora_training(NEW_THING).weight
        _print(shop, figures.trigger_table(judge, pipeline, name, by.drawing, files[NEW_THING], count, weight))


def make_figures(shop: Workshop) -> None:
    """Judges whatever is there so far; prints tables and keeps them in figures.json and figures.md."""
    judge = load_judge(shop.runs / "judge" / "judge.safetensors")
    vae = frozen_parts(shop)[0]
    _print(shop, figures.ceiling(judge, vae, shop.plan.judged_singles, shop.plan.judged_pairs))
    for family in shop.families:
        if (shop.runs / family / "average").is_dir():
            figures_of_base(shop, judge, family)
            figures_of_loras(shop, judge, family)


def _label(drawing: Drawing) -> str:
    return f"{drawing.steps} steps, guidance {drawing.guidance:g}"


def _print(shop: Workshop, tables: figures.Tables) -> None:
    figures.write_tables(tables, shop.figures_file)
    for title, rows in tables.items():
        print(figures.markdown(title, rows), flush=True)
