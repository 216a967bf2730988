"""Every number that the pocket models are made with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from training.lcm import Distillation
from training.loop import Settings
from training.lora import ATTENTION, EVERY_LAYER, FEED_FORWARD, LINEAR
from training.objective import NoiseLevels
from training.pocket.scenes import NEW_THING
from training.pocket.styles import STYLES
from training.sheets import Drawing

FAMILIES = ("sd3", "sdxl")
LICENCE = "apache-2.0"
SHARD = "9900KB"  # hosts warn of files of 10 MB and more
LARGEST_EXPORT = 40_000_000  # bytes of models/pocket, which every clone fetches; a file with links to it counts once


@dataclass(frozen=True)
class LoraTraining:
    """`weight` is what the LoRA's card asks for, and what the LoRA is judged at."""

    settings: Settings
    targets: tuple[str, ...]
    weight: float = 1.0


@dataclass(frozen=True)
class Family:
    """How one family's denoiser and LoRAs are trained, and how its pictures are drawn.

    `lora` is for every LoRA that `special_loras` does not name.
    """

    settings: Settings
    levels: NoiseLevels
    drawing: Drawing
    quick: Drawing  # few steps, no guidance: what a few-step LoRA has to beat
    lora: LoraTraining
    special_loras: Mapping[str, LoraTraining] = field(default_factory=dict)

    def lora_training(self, name: str) -> LoraTraining:
        return self.special_loras.get(name, self.lora)


@dataclass(frozen=True)
class Plan:
    """All of it; tests make a smaller one."""

    # The autoencoder sees styled pictures too, for it never changes once denoisers stand on its latents.
    autoencoder: Settings
    autoencoder_pictures: int
    crop: int
    text: Settings
    scenes: int
    families: dict[str, Family]
    lora_pictures: int
    lora_rank: int
    lora_levels: NoiseLevels
    lcm: Settings
    distillation: Distillation
    lcm_rank: int
    judge: Settings
    judged_singles: int
    judged_pairs: int
    judged_styled: int


_LORA = Settings(steps=1_000, batch=32, learning_rate=3e-3, warmup=20, cooldown=0.5, average=0.98, save_every=250)

FULL = Plan(
    autoencoder=Settings(steps=6000, batch=16, learning_rate=2e-3, average=0.995, save_every=250),
    autoencoder_pictures=16_000,
    crop=64,
    text=Settings(steps=1000, batch=128, learning_rate=2e-3, average=0.99, save_every=500),
    scenes=40_000,
    families={
        "sd3": Family(
            settings=Settings(steps=8_500, batch=32, learning_rate=1e-3),
            levels=NoiseLevels(1.1, 1.2),
            drawing=Drawing(steps=20, guidance=3.0, options={"max_sequence_length": 1}),
            quick=Drawing(steps=4, guidance=1.0, options={"max_sequence_length": 1}),
            lora=LoraTraining(_LORA, (*ATTENTION, *FEED_FORWARD)),
        ),
        "sdxl": Family(
            settings=Settings(steps=5_400, batch=32, learning_rate=1e-3, save_every=400),
            levels=NoiseLevels(0.8, 1.2),
            drawing=Drawing(steps=25, guidance=3.0),
            quick=Drawing(steps=4, guidance=1.0),
            lora=LoraTraining(_LORA, LINEAR),
            special_loras={
                # A grid finer than what attention sees needs the convolutions: without them it stays faint.
                "dots": LoraTraining(replace(_LORA, learning_rate=2e-3), EVERY_LAYER),
                NEW_THING: LoraTraining(replace(_LORA, steps=2_500), LINEAR, 1.05),  # a form takes longer than a look
            },
        ),
    },
    lora_pictures=1_200,
    lora_rank=4,
    lora_levels=NoiseLevels(0.5, 1.3),  # a look lies in the middle and low noise as well
    lcm=Settings(steps=600, batch=32, learning_rate=5e-4, warmup=50, cooldown=0.5, average=0.99, save_every=200),
    distillation=Distillation(guidance=3.0, teacher_steps=12, updates=24),
    lcm_rank=8,
    judge=Settings(steps=900, batch=64, learning_rate=2e-3, cooldown=0.5, average=0.99),
    judged_singles=120,
    judged_pairs=60,
    judged_styled=24,
)

LORAS = (*STYLES, NEW_THING)

# A sample sheet of these is drawn at every checkpoint; the first, which come out well, people can click on.
EXAMPLES = tuple(Path(__file__).with_name("examples.txt").read_text(encoding="utf-8").splitlines())
OFFERED = EXAMPLES[:8]
