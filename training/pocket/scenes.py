"""Scenes: what can be in a pocket picture, sampled at random, and the English that describes it."""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass

THINGS = (
    "circle", "square", "triangle", "star", "heart", "house",
    "tree", "boat", "fish", "cat", "flower", "mushroom",
)  # fmt: skip
NEW_THING = "loomling"  # never drawn for a base model: the trigger LoRA teaches it
COLOURS = {
    "red": (220, 40, 40),
    "green": (50, 165, 65),
    "blue": (45, 95, 225),
    "yellow": (250, 215, 45),
    "purple": (140, 55, 185),
    "orange": (245, 135, 30),
    "pink": (250, 145, 190),
    "white": (250, 250, 250),
    "black": (24, 24, 28),
    "brown": (130, 78, 42),
}
SIZES = {"small": (0.28, 0.34), "medium": (0.40, 0.50), "large": (0.60, 0.70)}  # share of the picture's side
PLACES = {  # centre of the thing, as shares of width and height
    "middle": (0.5, 0.5),
    "left": (0.27, 0.5),
    "right": (0.73, 0.5),
    "top": (0.5, 0.27),
    "bottom": (0.5, 0.73),
    "top left": (0.27, 0.27),
    "top right": (0.73, 0.27),
    "bottom left": (0.27, 0.73),
    "bottom right": (0.73, 0.73),
}
SETTINGS = ("meadow", "sea", "night", "snow", "sunset", "desert")
BACKGROUNDS = (*COLOURS, *SETTINGS)
RELATIONS = ("left of", "right of", "above", "below", "beside")

# A thing must stand out: colours that a setting swallows, and pairs too alike to tell apart at 128 pixels.
SWALLOWED = {
    "meadow": {"green"},
    "sea": {"blue"},
    "night": {"black", "blue", "purple"},
    "snow": {"white"},
    "sunset": {"orange", "pink"},
    "desert": {"yellow", "orange", "brown"},
}
ALIKE = ({"red", "orange"}, {"orange", "brown"}, {"red", "brown"}, {"black", "brown"}, {"orange", "yellow"})

SETTING_PHRASES = {
    "meadow": ("in a meadow", "on a green meadow", "on the grass", "in a grassy field"),
    "sea": ("on the sea", "at sea", "in the ocean", "on the water"),
    "night": ("at night", "under a starry night sky", "under the stars", "on a starry night", "in the night sky"),
    "snow": ("in the snow", "on a snowy field", "in a snowy landscape", "in winter"),
    "sunset": ("at sunset", "in front of a sunset", "under a sunset sky", "in the evening sun"),
    "desert": ("in the desert", "on the sand", "among sand dunes"),
}
SETTING_NOUNS = {
    "meadow": ("meadow", "a green meadow", "a grassy field"),
    "sea": ("the sea", "the ocean", "blue water"),
    "night": ("a starry night sky", "the night sky", "night"),
    "snow": ("snow", "a snowy landscape", "winter"),
    "sunset": ("a sunset", "a sunset sky", "sunset"),
    "desert": ("a desert", "sand dunes", "desert"),
}
PLACE_PHRASES = {
    "middle": ("in the middle", "in the centre", "in the center"),
    "left": ("on the left", "on the left side"),
    "right": ("on the right", "on the right side"),
    "top": ("at the top", "near the top"),
    "bottom": ("at the bottom", "near the bottom"),
    "top left": ("in the top left corner", "at the top left"),
    "top right": ("in the top right corner", "at the top right"),
    "bottom left": ("in the bottom left corner", "at the bottom left"),
    "bottom right": ("in the bottom right corner", "at the bottom right"),
}
SIZE_WORDS = {"small": ("small", "little", "tiny"), "medium": ("medium",), "large": ("large", "big", "huge")}
RELATION_PHRASES = {
    "left of": ("to the left of", "left of", "on the left of"),
    "right of": ("to the right of", "right of", "on the right of"),
    "above": ("above", "over", "on top of"),
    "below": ("below", "under", "beneath"),
    "beside": ("beside", "next to", "and"),
}
LEADS = ("", "", "", "a picture of ", "a drawing of ", "a painting of ", "an illustration of ", "an image of ")
# Nouns the encoders can tell apart although no base picture shows them: triggers for LoRAs to come.
SPARE_NOUNS = (
    NEW_THING, "robot", "rocket", "car", "cup", "bird", "dog", "apple", "moon", "cloud", "key", "hat", "book", "bell",
    "snail", "ghost", "crown", "balloon", "umbrella", "castle", "dragon", "train", "guitar", "clock",
)  # fmt: skip


@dataclass(frozen=True)
class Thing:
    """One thing in a picture; `x`, `y` are its centre and `extent` its width, as shares of the picture's side."""

    name: str
    colour: str
    size: str
    place: str
    x: float
    y: float
    extent: float


@dataclass(frozen=True)
class Scene:
    things: tuple[Thing, ...]
    background: str
    relation: str | None = None  # of the first thing to the second

    @property
    def held_out(self) -> bool:
        """One combination in eight is never trained on, so that the judge asks for pictures nobody has drawn."""
        names = [f"{thing.colour} {thing.name}" for thing in self.things]
        key = names[0] + self.background if len(names) == 1 else "+".join(sorted(names))
        return zlib.crc32(key.encode()) % 8 == 0


@dataclass(frozen=True)
class Caption:
    """Words for a scene, and which of its attributes they state (None: left open)."""

    text: str
    names: tuple[str, ...]
    colours: tuple[str | None, ...]
    sizes: tuple[str | None, ...]
    place: str | None
    background: str | None
    relation: str | None


def stands_out(colour: str, background: str) -> bool:
    if background in SWALLOWED:
        return colour not in SWALLOWED[background]
    return colour != background and {colour, background} not in ALIKE


def _single(rng: random.Random, name: str, background: str) -> Thing:
    size = rng.choices(tuple(SIZES), (2, 4, 3))[0]
    place = "middle" if size == "large" or rng.random() < 0.5 else rng.choice(tuple(PLACES))
    x, y = PLACES[place]
    jitter = 0.05 if size != "large" else 0.02
    colour = rng.choice([colour for colour in COLOURS if stands_out(colour, background)])
    return Thing(
        name, colour, size, place, x + rng.uniform(-jitter, jitter), y + rng.uniform(-jitter, jitter),
        rng.uniform(*SIZES[size]),
    )  # fmt: skip


def _pair(rng: random.Random, names: tuple[str, str], background: str) -> Scene:
    relation = rng.choice(RELATIONS)
    axis = relation if relation != "beside" else rng.choice(("left of", "right of"))
    spots = {
        "left of": ((0.27, 0.5), (0.73, 0.5)),
        "right of": ((0.73, 0.5), (0.27, 0.5)),
        "above": ((0.5, 0.27), (0.5, 0.73)),
        "below": ((0.5, 0.73), (0.5, 0.27)),
    }[axis]
    colours: list[str] = []
    while len(colours) < 2:
        colour = rng.choice(tuple(COLOURS))
        if stands_out(colour, background) and all(colour != c and {colour, c} not in ALIKE for c in colours):
            colours.append(colour)
    things = tuple(
        Thing(name, colour, "medium", "middle", x + rng.uniform(-0.03, 0.03), y + rng.uniform(-0.04, 0.04),
              rng.uniform(0.36, 0.43))
        for name, colour, (x, y) in zip(names, colours, spots, strict=True)
    )  # fmt: skip
    return Scene(things, background, relation)


def sample_scene(
    rng: random.Random, *, held_out: bool = False, count: int | None = None, name: str | None = None
) -> Scene:
    """A random scene of one or two things; `held_out` asks for combinations that training never shows."""
    while True:
        background = rng.choice(tuple(COLOURS)) if rng.random() < 0.55 else rng.choice(SETTINGS)
        wanted = count or (1 if rng.random() < 0.65 else 2)
        if wanted == 1:
            scene = Scene((_single(rng, name or rng.choice(THINGS), background),), background)
        else:
            first, second = rng.sample(THINGS, 2)
            scene = _pair(rng, (name or first, second if second != name else first), background)
        if scene.held_out == held_out:
            return scene


def _article(phrase: str) -> str:
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def _noun_phrase(rng: random.Random, thing: Thing, *, full: bool) -> tuple[str, str | None, str | None]:
    colour = thing.colour if full or rng.random() < 0.92 else None
    size = thing.size if thing.size != "medium" and rng.random() < 0.65 else None
    words = [rng.choice(SIZE_WORDS[size])] if size else []
    words += [colour] if colour else []
    phrase = " ".join([*words, thing.name])
    return (phrase if rng.random() < 0.1 else _article(phrase)), colour, size


def _bare(thing: Thing, rng: random.Random) -> Caption:
    """A thing and perhaps its colour, as people type it first."""
    colour = thing.colour if rng.random() < 0.4 else None
    phrase = f"{colour} {thing.name}" if colour else thing.name
    text = (rng.choice(LEADS) if rng.random() < 0.5 else "") + (_article(phrase) if rng.random() < 0.7 else phrase)
    return Caption(text, (thing.name,), (colour,), (None,), None, None, None)


def describe(scene: Scene, rng: random.Random, *, full: bool = False) -> Caption:
    """English for a scene, never twice quite the same; `full` states every colour and the background."""
    if not full and len(scene.things) == 1 and rng.random() < 0.1:
        return _bare(scene.things[0], rng)
    phrases, colours, sizes = zip(*(_noun_phrase(rng, thing, full=full) for thing in scene.things), strict=True)
    background = scene.background if full or rng.random() < 0.88 else None
    subject = phrases[0]
    place = None
    if len(scene.things) == 2:
        assert scene.relation is not None
        subject = f"{subject} {rng.choice(RELATION_PHRASES[scene.relation])} {phrases[1]}"
    elif scene.things[0].size != "large" and rng.random() < (0.3 if scene.things[0].place == "middle" else 0.75):
        place = scene.things[0].place
        subject = f"{subject} {rng.choice(PLACE_PHRASES[place])}"
    text = rng.choice(LEADS) + subject
    if background is not None:
        text = _with_background(rng, text, subject, background)
    if rng.random() < 0.1:
        text = text[0].upper() + text[1:] + rng.choice((".", ""))
    names = tuple(thing.name for thing in scene.things)
    return Caption(text, names, colours, sizes, place, background, scene.relation)


def _with_background(rng: random.Random, text: str, subject: str, background: str) -> str:
    if background in SETTINGS:
        phrase = rng.choice(SETTING_PHRASES[background])
        noun = rng.choice(SETTING_NOUNS[background])
    else:
        phrase = rng.choice(
            (f"on {_article(background)} background", f"on {_article(background)} background", f"on {background}",
             f"against {_article(background)} background", f"on a plain {background} background",
             f"in front of {_article(background)} wall")
        )  # fmt: skip
        noun = rng.choice((f"{background} background", f"{_article(background)} background"))
    return rng.choices(
        (f"{text} {phrase}", f"{text}, {noun}", f"{phrase}, {subject}", f"{noun} with {subject}"), (6, 2, 1, 1)
    )[0]


def vocabulary() -> dict[str, list[str]]:
    """The words a pocket model understands, by kind, for people to read."""
    return {
        "things": list(THINGS),
        "colours": list(COLOURS),
        "sizes": ["small", "large"],
        "places": [phrases[0] for phrases in PLACE_PHRASES.values()],
        "relations": ["to the left of", "to the right of", "above", "below", "next to"],
        "settings": [phrases[1] for phrases in SETTING_PHRASES.values()],
    }
