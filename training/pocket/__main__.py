"""`python -m training.pocket`: makes the pocket models, stage by stage, from nothing; what is made already is kept."""

from __future__ import annotations

import argparse
import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from training.pocket import stages
from training.pocket.export import export
from training.pocket.settings import FAMILIES, FULL, LORAS
from training.pocket.stages import Workshop

MODELS = Path(__file__).resolve().parents[2] / "models" / "pocket"


@dataclass(frozen=True)
class Stage:
    """One step of the way: what it does, and whether its result is there."""

    run: Callable[[Workshop], None]
    done: Callable[[Workshop], bool]


def _are(*paths: str) -> Callable[[Workshop], bool]:
    return lambda shop: all((shop.runs / path).is_file() for path in paths)


def _base(family: str) -> Stage:
    def done(shop: Workshop) -> bool:
        return stages.steps_done(shop.runs / family) >= shop.plan.families[family].settings.steps

    return Stage(functools.partial(stages.make_base, family=family), done)


def the_stages(target: Path) -> dict[str, Stage]:
    return {
        "pictures": Stage(stages.make_pictures, _are("vae-pictures/metadata.jsonl", "scenes/metadata.jsonl")),
        "autoencoder": Stage(stages.make_autoencoder, _are("vae/final/diffusion_pytorch_model.safetensors")),
        "text": Stage(stages.make_text, _are("text/encoder1/model.safetensors", "text/encoder2/model.safetensors")),
        **{family: _base(family) for family in FAMILIES},
        "loras": Stage(
            stages.make_loras,
            lambda shop: all(shop.lora_file(f, name).is_file() for f in shop.families for name in shop.loras),
        ),
        "lcm": Stage(stages.make_lcm, lambda shop: shop.lcm_file.is_file()),
        "judge": Stage(stages.make_judge, _are("judge/judge.safetensors")),
        "figures": Stage(stages.make_figures, lambda shop: shop.figures_file.is_file()),
        "export": Stage(lambda shop: export(shop, target), lambda shop: (target / "files.json").is_file()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.pocket", description=__doc__)
    names = list(the_stages(MODELS))
    parser.add_argument("--stage", choices=names, action="append", help="run this stage alone, done or not; repeatable")
    parser.add_argument("--runs", type=Path, default=Path("runs/pocket"), help="where trainings lie (%(default)s)")
    parser.add_argument("--models", type=Path, default=MODELS, help="where the export goes (%(default)s)")
    parser.add_argument("--threads", type=int, help="of the processor (default: torch's own choice)")
    parser.add_argument(
        "--only", default="", help=f"families or LoRAs, with commas between: {', '.join((*FAMILIES, *LORAS))}"
    )
    asked = parser.parse_args()
    only = frozenset(name for name in asked.only.split(",") if name)
    if unknown := only - {*FAMILIES, *LORAS}:
        parser.error(f"--only knows no {', '.join(sorted(unknown))}.")
    asked.runs.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(message)s",
        handlers=[logging.StreamHandler(), logging.FileHandler(asked.runs / "log.txt", encoding="utf-8")],
    )
    if asked.threads:
        torch.set_num_threads(asked.threads)
    shop = Workshop(asked.runs, FULL, only)
    for name, stage in the_stages(asked.models).items():
        if name in (asked.stage or ()) or (not asked.stage and not stage.done(shop)):
            logging.info("stage %s", name)
            stage.run(shop)
        elif not asked.stage:
            logging.info("stage %s is done", name)


if __name__ == "__main__":
    main()
