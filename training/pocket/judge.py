"""The judge of pocket pictures: a small network of its own that says what is drawn, and how often that was asked for.

How it decides. A convolutional network, trained on fresh scenes drawn on the fly, looks at a picture at 64 × 64, so
that it judges form and not sharpness; turned, shifted, blurred, tinted and noisy drawings teach it to forgive what a
decoder does. A twelfth of its training pictures show a lump that is no thing at all, so that blobs have a class of
their own and do not pass for whatever is roundest. A picture's answers are the likeliest class of each head, and count
as right when they are what the caption *stated* (a place or a size left open by the caption is not asked). A colour
must moreover be in the pixels: at least a third as many are nearest to it as the smallest such thing would have
(not asked where the bare setting is full of that colour, as a pale sky is of white: there the network alone decides).
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file
from torch import nn

from training.loop import Settings, train
from training.pocket.drawing import SUPERSAMPLE, draw_scene
from training.pocket.scenes import (
    BACKGROUNDS,
    COLOURS,
    NEW_THING,
    PLACES,
    SIZES,
    THINGS,
    Caption,
    Scene,
    Thing,
    describe,
    sample_scene,
)
from training.pocket.styles import STYLES

SIDE = 64  # what the judge looks at; pictures of any size are averaged down to it
LUMP = "something else"
NAMES = (*THINGS, NEW_THING, LUMP)
COLOUR_NAMES = tuple(COLOURS)
AXES = ("across", "down")
# Heads: one thing is asked for itself, two things in their order along the axis, from the left or from the top.
HEADS: dict[str, tuple[str, ...]] = {
    "count": ("one", "two"),
    "background": BACKGROUNDS,
    "thing": NAMES,
    "colour": COLOUR_NAMES,
    "place": tuple(PLACES),
    "size": tuple(SIZES),
    "axis": AXES,
    "thing 1": NAMES,
    "colour 1": COLOUR_NAMES,
    "thing 2": NAMES,
    "colour 2": COLOUR_NAMES,
}
UNASKED = -100  # cross_entropy's own mark for "no answer here"
ENOUGH_PAINT = 1 / 3
MOST_BARE = SIDE * SIDE // 20  # where a setting holds more of a colour itself, as sky does white, pixels cannot tell
NEW_SHARE, LUMP_SHARE, STYLED_SHARE = 0.08, 0.08, 0.2


@dataclass(frozen=True)
class Asked:
    """What a picture was asked to show: the scene, and the words that state some of it."""

    scene: Scene
    caption: Caption


def held_out(count: int, things: int, seed: int = 0, name: str | None = None) -> list[Asked]:
    """Captions of scenes that no training shows, each stating every colour and the background."""
    rng = random.Random(f"held out {seed} {things} {name}")
    scenes = [sample_scene(rng, held_out=True, count=things, name=name) for _ in range(count)]
    return [Asked(scene, describe(scene, rng, full=True)) for scene in scenes]


def drawings(asked: Sequence[Asked], seed: int = 0) -> list[Image.Image]:
    """The real pictures of what is asked: the judge's ceiling."""
    rng = random.Random(seed)
    return [draw_scene(one.scene, rng) for one in asked]


class Judge(nn.Module):
    """Pictures (n, 3, 64, 64) in -1…1 to logits of every head."""

    def __init__(self, widths: tuple[int, int, int, int] = (24, 48, 96, 128), hidden: int = 256) -> None:
        super().__init__()

        def convolution(into: int, out: int) -> list[nn.Module]:
            return [nn.Conv2d(into, out, 3, padding=1, bias=False), nn.GroupNorm(8, out), nn.SiLU()]

        a, b, c, d = widths
        self.trunk = nn.Sequential(
            *convolution(3, a), nn.MaxPool2d(2), *convolution(a, b), nn.MaxPool2d(2),
            *convolution(b, c), *convolution(c, c), nn.MaxPool2d(2), *convolution(c, d), nn.Conv2d(d, 32, 1),
            nn.Flatten(), nn.Linear(32 * (SIDE // 8) ** 2, hidden), nn.SiLU(),
        )  # fmt: skip
        self.heads = nn.Linear(hidden, sum(len(classes) for classes in HEADS.values()))

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.heads(self.trunk(pixels)).float()
        return dict(zip(HEADS, logits.split([len(classes) for classes in HEADS.values()], 1), strict=True))


def as_pixels(images: Sequence[Image.Image]) -> torch.Tensor:
    """Pictures of one size as (n, 3, height, width) floats in -1…1."""
    stack = np.stack([np.asarray(image.convert("RGB")) for image in images])
    return torch.from_numpy(stack).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def as_seen(images: Sequence[Image.Image]) -> torch.Tensor:
    """Pictures of any size as the judge takes them."""
    return as_pixels([image.resize((SIDE, SIDE), Image.Resampling.BOX) for image in images])


# Training ------------------------------------------------------------------------------------------------------------


def _ordered(scene: Scene) -> tuple[str, tuple[Thing, Thing]]:
    """The axis of two things, and the two from its start."""
    first, second = scene.things
    axis = "across" if abs(first.x - second.x) > abs(first.y - second.y) else "down"
    swap = first.x > second.x if axis == "across" else first.y > second.y
    return axis, (second, first) if swap else (first, second)


def labels(scene: Scene, *, styled: bool = False) -> list[int]:
    """The class of each head; a styled picture's colours are the style's own and not asked."""
    answers = {"count": ("one", "two")[len(scene.things) - 1]}
    colours: dict[str, str] = {"background": scene.background}
    if len(scene.things) == 1:
        thing = scene.things[0]
        answers |= {"thing": thing.name, "place": thing.place, "size": thing.size}
        colours["colour"] = thing.colour
    else:
        answers["axis"], ends = _ordered(scene)
        for number, thing in enumerate(ends, 1):
            answers[f"thing {number}"] = thing.name
            colours[f"colour {number}"] = thing.colour
    answers |= {} if styled else colours
    return [classes.index(answers[head]) if head in answers else UNASKED for head, classes in HEADS.items()]


def _lump(image: Image.Image, thing: Thing, rng: random.Random) -> Image.Image:
    """A wobbling outline in the thing's colour: what a model draws that has not understood the word."""
    side = image.width * SUPERSAMPLE
    mask = Image.new("L", (side, side))
    waves = [(k, rng.uniform(0.05, 0.3), rng.uniform(0, 2 * math.pi)) for k in rng.sample(range(1, 7), 3)]
    points = []
    for step in range(48):
        angle = 2 * math.pi * step / 48
        radius = 0.8 + sum(height * math.cos(k * angle + phase) for k, height, phase in waves)
        reach = max(0.15, radius) * thing.extent * side / 2
        points.append((thing.x * side + reach * math.cos(angle), thing.y * side + reach * math.sin(angle)))
    ImageDraw.Draw(mask).polygon(points, fill=255)
    return Image.composite(Image.new("RGB", image.size, COLOURS[thing.colour]), image, mask.reduce(SUPERSAMPLE))


def example(rng: random.Random) -> tuple[Image.Image, list[int]]:
    """A picture to learn from, with its answers."""
    scene = sample_scene(rng, name=NEW_THING if rng.random() < NEW_SHARE else None)
    if rng.random() < LUMP_SHARE:
        rest, lump = scene.things[1:], scene.things[0]
        image = _lump(draw_scene(Scene(rest, scene.background), rng), lump, rng)
        unknown = Thing(LUMP, lump.colour, lump.size, lump.place, lump.x, lump.y, lump.extent)
        return image, labels(Scene((unknown, *rest), scene.background, scene.relation))
    image = draw_scene(scene, rng)
    if rng.random() < STYLED_SHARE:
        return rng.choice(tuple(STYLES.values())).apply(image, rng), labels(scene, styled=True)
    return image, labels(scene)


def softened(pixels: torch.Tensor) -> torch.Tensor:
    """Slightly turned, scaled and shifted, blurred, tinted and noisy."""
    n = len(pixels)
    turn, scale = torch.empty(n).uniform_(-0.09, 0.09), torch.empty(n).uniform_(0.95, 1.05)
    grid = torch.zeros(n, 2, 3)
    grid[:, 0, 0] = grid[:, 1, 1] = turn.cos() * scale
    grid[:, 0, 1], grid[:, 1, 0] = -turn.sin() * scale, turn.sin() * scale
    grid[:, :, 2].uniform_(-0.05, 0.05)
    moved = F.grid_sample(
        pixels, F.affine_grid(grid, list(pixels.shape), align_corners=False), padding_mode="border", align_corners=False
    )
    blurred = F.avg_pool2d(F.pad(moved, (1, 1, 1, 1), mode="replicate"), 3, 1)
    moved = moved.lerp(blurred, torch.rand(n, 1, 1, 1))
    moved = moved * torch.empty(n, 1, 1, 1).uniform_(0.93, 1.05) + torch.empty(n, 3, 1, 1).uniform_(-0.04, 0.04)
    return (moved + 0.05 * torch.rand(n, 1, 1, 1) * torch.randn_like(moved)).clamp_(-1, 1)


def train_judge(judge: Judge, run: Path, settings: Settings) -> None:
    """Learns from scenes drawn on the fly; every held-out combination stays unseen here too."""

    def loss_of(step: int) -> torch.Tensor:
        rng = random.Random(settings.seed * 7919 + step)
        images, wanted = zip(*(example(rng) for _ in range(settings.batch)), strict=True)
        target = torch.tensor(wanted)
        with torch.autocast("cpu", torch.bfloat16):
            answers = judge(softened(as_seen(images)))
        # The sum over pictures, not the mean over those a head is asked for: rare answers would shout.
        parts = [
            F.cross_entropy(logits, target[:, head], ignore_index=UNASKED, reduction="sum")
            for head, logits in enumerate(answers.values())
        ]
        return torch.stack(parts).sum() / len(images)

    train(dict(judge.named_parameters()), loss_of, settings, run)


def save_judge(judge: Judge, path: Path) -> None:
    save_file({name: tensor.contiguous() for name, tensor in judge.state_dict().items()}, path)


def load_judge(path: Path) -> Judge:
    judge = Judge()
    judge.load_state_dict(load_file(path))
    return judge.eval()


# Judging -------------------------------------------------------------------------------------------------------------


def _nearest(image: Image.Image) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """How many pixels of a 64 × 64 version are nearest to each colour."""
    small = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)
    pixels = np.asarray(small, dtype=np.int64).reshape(-1, 1, 3)
    palette = np.array([COLOURS[name] for name in COLOUR_NAMES], dtype=np.int64)
    nearest = ((pixels - palette) ** 2).sum(2).argmin(1)
    return np.bincount(nearest, minlength=len(COLOUR_NAMES))


@functools.cache
def _paint_needed(name: str, colour: str, background: str) -> tuple[int, float]:
    """Pixels of that colour that the bare background has already, and how many more the thing must bring."""
    index, rng = COLOUR_NAMES.index(colour), random.Random(0)
    bare = int(_nearest(draw_scene(Scene((), background), rng))[index])
    smallest = Thing(name, colour, "small", "middle", 0.5, 0.5, SIZES["small"][0])
    full = int(_nearest(draw_scene(Scene((smallest,), background), random.Random(0)))[index])
    return bare, ENOUGH_PAINT * (full - bare)


def painted(image: Image.Image, scene: Scene) -> bool:
    """Whether every colour asked for is really in the pixels."""
    counts = _nearest(image)
    for thing in scene.things:
        bare, needed = _paint_needed(thing.name, thing.colour, scene.background)
        if bare > MOST_BARE:
            continue
        if counts[COLOUR_NAMES.index(thing.colour)] - bare < needed:
            return False
    return True


Answers = dict[str, bool]  # what was asked -> whether it is right


def _one(seen: dict[str, torch.Tensor], image: Image.Image, asked: Asked) -> Answers:
    best = {head: HEADS[head][int(logits.argmax())] for head, logits in seen.items()}
    thing, said = asked.scene.things[0], asked.caption
    answers = {
        "thing": best["thing"] == thing.name,
        "colour": best["colour"] == thing.colour and painted(image, asked.scene),
        "background": best["background"] == asked.scene.background,
    }
    if said.place is not None:
        answers["place"] = best["place"] == said.place
    if said.sizes[0] is not None:
        answers["size"] = best["size"] == said.sizes[0]
    answers["all"] = best["count"] == "one" and all(answers.values())
    return answers


def _two(seen: dict[str, torch.Tensor], image: Image.Image, asked: Asked) -> Answers:
    """The two things are matched to the two asked for in the likelier order, so that a swap is one fault, not three."""
    scene = asked.scene
    axis, ends = _ordered(scene)
    said = {head: logits.log_softmax(-1) for head, logits in seen.items()}

    def likely(order: tuple[Thing, Thing]) -> float:
        return sum(
            float(said[f"thing {i}"][NAMES.index(t.name)] + said[f"colour {i}"][COLOUR_NAMES.index(t.colour)])
            for i, t in enumerate(order, 1)
        )

    swapped = likely((ends[1], ends[0])) > likely(ends)
    matched = (ends[1], ends[0]) if swapped else ends
    best = {head: HEADS[head][int(logits.argmax())] for head, logits in seen.items()}
    answers = {
        "things": all(best[f"thing {i}"] == t.name for i, t in enumerate(matched, 1)),
        "colours": all(best[f"colour {i}"] == t.colour for i, t in enumerate(matched, 1)) and painted(image, scene),
        "relation": best["axis"] == axis and (not swapped or scene.relation == "beside"),
        "background": best["background"] == scene.background,
    }
    answers["all"] = best["count"] == "two" and all(answers.values())
    return answers


@torch.no_grad()
def answers_of(judge: Judge, images: Sequence[Image.Image], asked: Sequence[Asked]) -> list[Answers]:
    """What is right in each picture."""
    found = []
    for image, one in zip(images, asked, strict=True):
        seen = {head: logits[0] for head, logits in judge(as_seen([image])).items()}
        found.append((_one if len(one.scene.things) == 1 else _two)(seen, image, one))
    return found


@dataclass(frozen=True)
class Figures:
    """Rates of what is right, over how many pictures; a rate counts only the pictures whose caption stated it."""

    pictures: int
    rates: dict[str, float]


def judge_pictures(judge: Judge, images: Sequence[Image.Image], asked: Sequence[Asked]) -> Figures:
    """Rates over pictures that all show one thing, or all two."""
    found = answers_of(judge, images, asked)
    names = dict.fromkeys(name for answers in found for name in answers)
    order = [name for name in names if name != "all"] + ["all"]
    rates = {name: [answers[name] for answers in found if name in answers] for name in order}
    return Figures(len(images), {name: sum(right) / len(right) for name, right in rates.items()})
