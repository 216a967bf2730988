"""What a file's metadata say of it, in kohya's `ss_*` and Stability's `modelspec.*` keys: hints, never proof.

Sources: kohya-ss/sd-scripts train_network.py and library/sai_model_spec.py; diffusers' `lora_adapter_metadata`.
Whatever is malformed counts as not said: nothing here raises.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from lora_catalog.card import Family
from lora_catalog.plain import plain

LONGEST = 300  # letters of a text that is passed on
_LONGEST_JSON = 1_000_000
_NEARLY_ALL = 0.95  # of the pictures: a caption may be mistyped
_MOST_COMMON = 100  # tags in nearly all captions that are looked at
_FEWEST_PICTURES = 4  # with fewer, many a tag is in all

_ARCHITECTURE_KEYS = ("modelspec.architecture", "ss_base_model_version")
_BASE_KEYS = (*_ARCHITECTURE_KEYS, "ss_sd_model_name")  # those that are most to be believed first
_TITLE_KEYS = ("modelspec.title", "ss_output_name")
_SHOWN = (
    *(f"modelspec.{name}" for name in ("title", "author", "description", "date", "license", "usage_hint", "tags")),
    *("modelspec.trigger_phrase", "modelspec.resolution", "modelspec.architecture", "modelspec.prediction_type"),
    *("ss_output_name", "ss_base_model_version", "ss_sd_model_name", "ss_training_comment", "ss_network_module"),
    *("ss_network_dim", "ss_network_alpha", "ss_num_train_images", "ss_steps", "ss_epoch", "ss_resolution"),
)

_SD = r"(sd|stable-diffusion)-?v?"
# Looked for in a base's name, in small letters with - for all but letters and digits; the first that is found counts.
_FAMILY_WORDS: tuple[tuple[str, Family], ...] = (
    (r"segmind-vega|refiner", "other"),
    (rf"({_SD}3-?5-?|^5-)(large|l)\b", "sd3.5-large"),
    (rf"({_SD}3-?5-?|^5-)(medium|m)\b", "sd3.5-medium"),
    (rf"{_SD}3-?(medium|m)\b|^medium$|^sd3$", "sd3-medium"),
    (r"ssd-?1b", "ssd-1b"),
    (rf"{_SD}xl|\bxl\b", "sdxl"),
    (rf"{_SD}2\b|^v2\b", "sd2"),
    (rf"{_SD}1\b|^v1\b", "sd1"),
    (r"^flux", "flux"),
)
# Built as one of the families is, but trained from scratch: only what the trainer wrote tells them apart.
_TWINS: Mapping[str, Family] = {"chroma": "flux", "kolors": "sdxl"}

# Tags that stand in every caption of many collections for what the pictures show, not to call a LoRA.
_PLAIN_TAGS = frozenset(
    """1girl, 1boy, solo, solo focus, male focus, no humans, woman, man, girl, boy, person, a woman, a man, portrait,
    simple background, white background, looking at viewer, masterpiece, best quality, high quality, highres, absurdres,
    photo, photograph, realistic, photorealistic, monochrome, greyscale, comic, anime, score_9, score_8_up, score_7_up,
    source_anime, rating_safe""".replace("\n    ", " ").split(", ")
)


@dataclass(frozen=True, slots=True)
class Said:
    """`families`: what the base's names mean, most believed first. `twin_of`: of which family it is a look-alike only.

    `alpha`: one value for all layers. `shown`: what may interest people, cut to 300 letters each.
    """

    title: str | None
    base: str | None
    families: tuple[Family, ...]
    twin_of: Family | None
    alpha: float | None
    triggers: tuple[str, ...]
    shown: Mapping[str, str]


def read_said(metadata: Mapping[str, str]) -> Said:
    """What is said in a header's metadata."""
    shown = {name: text for name in _SHOWN if (text := plain(metadata.get(name, ""), LONGEST)) not in ("", "None")}
    named = [re.sub(r"[^a-z0-9]+", "-", shown.get(name, "").lower()).strip("-") for name in _BASE_KEYS]
    families = [family for name in named if (family := _family(name)) is not None]
    if metadata.get("ss_v2") == "True":
        families.append("sd2")
    twins = [
        twin for name in named[: len(_ARCHITECTURE_KEYS)] for word, twin in _TWINS.items() if name.startswith(word)
    ]
    return Said(
        title=next((shown[name] for name in _TITLE_KEYS if name in shown), None),
        base=next((shown[name] for name in reversed(_BASE_KEYS) if name in shown), None),
        families=tuple(families),
        twin_of=twins[0] if twins else None,
        alpha=_alpha(metadata),
        triggers=_triggers(metadata),
        shown=shown,
    )


def _family(name: str) -> Family | None:
    return next((family for words, family in _FAMILY_WORDS if re.search(words, name)), None)


def _json(text: str | None) -> dict[Any, Any]:
    if text is None or len(text) > _LONGEST_JSON:
        return {}
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if type(found) is dict else {}


def _alpha(metadata: Mapping[str, str]) -> float | None:
    adapters = _json(metadata.get("lora_adapter_metadata"))
    said = [metadata.get("ss_network_alpha"), *(adapters[key] for key in adapters if key.endswith("lora_alpha"))]
    for value in said:
        try:
            alpha = float(value)
        except (TypeError, ValueError, OverflowError):
            continue
        if math.isfinite(alpha):
            return alpha
    return None


def _triggers(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """The phrase that the author gives, else the first tag that stands in nearly all captions, else none.

    Trainers count tags in the order of the captions, where the word that calls the LoRA comes first by custom.
    """
    if phrase := plain(metadata.get("modelspec.trigger_phrase", ""), LONGEST):
        return (phrase,)
    folders = _json(metadata.get("ss_dataset_dirs"))
    pictures, counts = 0, dict[str, int]()
    for folder, tags in _json(metadata.get("ss_tag_frequency")).items():
        pictures += _count(folders.get(folder), "img_count")
        for tag, count in _counted(tags):
            counts[tag] = counts.get(tag, 0) + count
    if pictures < _FEWEST_PICTURES:
        return ()
    common = (tag for tag, count in counts.items() if count >= _NEARLY_ALL * pictures)
    words = (plain(tag, LONGEST) for tag in islice(common, _MOST_COMMON))
    return tuple(islice((word for word in words if word and word.lower() not in _PLAIN_TAGS), 1))


def _count(facts: object, name: str) -> int:
    value = facts.get(name) if type(facts) is dict else 0
    return value if type(value) is int and value > 0 else 0


def _counted(tags: object) -> Iterator[tuple[str, int]]:
    if type(tags) is dict:
        yield from ((tag, count) for tag, count in tags.items() if type(count) is int)
