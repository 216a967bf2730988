"""A1111's `parameters` text, the lingua franca of recipes: written from ours, and taken apart.

Its form: the prompt with `<lora:NAME:WEIGHT>` tags, a line that begins with `Negative prompt:`, and last one line of
`Name: value` pairs, a value in JSON's quotes where it holds a comma. What it has no word for (exact files, schedules,
blocks) stands in a pair of our own, `Lora details`, which others pass over.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core.errors import BadRequest
from core.lora.strength import factor_for
from core.prompt import without_lora_tags
from core.recipe import Recipe, RecipeLora
from core.request import LONGEST_PROMPT, MOST_LORAS

# Ours by the names that A1111 and its heirs show, in small letters; the first that a model has is taken.
SAMPLERS = {
    "euler": ("euler", "flow-euler"),
    "euler a": ("euler-ancestral",),
    "euler ancestral": ("euler-ancestral",),
    "heun": ("flow-heun",),
    "dpm++ 2m": ("dpm++-2m",),
    "dpm++ 2m karras": ("dpm++-2m-karras",),
    "unipc": ("unipc",),
    "lcm": ("lcm",),
    "flow-euler": ("flow-euler",),
    "euler-ancestral": ("euler-ancestral",),
}
_THEIRS = {
    "flow-euler": "Euler", "flow-heun": "Heun", "euler": "Euler", "euler-ancestral": "Euler a", "dpm++-2m": "DPM++ 2M",
    "dpm++-2m-karras": "DPM++ 2M Karras", "unipc": "UniPC", "lcm": "LCM",
}  # fmt: skip
UPSCALER = "Lanczos"
_OF_OURS = ("automatic", "uniform")  # schedule types that are a sampler's own
_NEGATIVE = "Negative prompt:"
_DETAILS = "Lora details"
_MOST_LETTERS = LONGEST_PROMPT + MOST_LORAS * 600  # of a prompt with its tags
_TAG = re.compile(r"<(?:lora|lyco):[^<>]*>", re.IGNORECASE)  # older programs name LoCon, LoHa and LoKr by the second
_HYPERNET = re.compile(r"<hypernet:([^<>:]*)[^<>]*>", re.IGNORECASE)
_KEY = re.compile(r"(?:^|[\s:]+)(\w+)=([^\s:=]*)")
_TAGS_KEYS = ("te", "unet", "in", "mid", "out")  # that core.prompt reads
_NUMBER = re.compile(r"[+-]?(\d{1,15}\.?\d{0,15}|\.\d{1,15})")
_WORD_BEHIND = re.compile(r"(.*:[+-]?[\d.]+)\s*:([^:=]*[A-Za-z,][^:=]*)")  # blocks by a preset's name: 0.5:OUTD
_DIM_BEHIND = re.compile(r"([^:]*:[+-]?[\d.]+:[+-]?[\d.]+)((?::[+-]?[\d.]+)+)")  # how many columns count: 0.5:0.5:16
_PAIR = re.compile(r"\s*([^:,\"]{1,60}):\s*")
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_POSITIONAL = re.compile(r"(.*):([+-]?\d+\.?\d*)")
_CIVITAI = "Civitai resources"
_CIVITAIS_LORAS = ("lora", "locon", "lycoris", "dora")


@dataclass(frozen=True)
class NamedLora:
    """A LoRA as a text names it: the tag's own name, a hash's beginning ("" for none), what its tags ask, for our own
    texts the rest (`ref`, `sha256`, `start`, `end`, `blocks`), and what no LoRA here takes, as it stands in the tag."""

    name: str
    hash: str
    asked: Mapping[str, Any]
    details: Mapping[str, Any]
    unread: tuple[str, ...] = ()

    @property
    def tag(self) -> str:
        """What asks the same of core.prompt."""
        weight = self.asked["weight"]
        words = {"te": self.asked["text_encoder"]} if "text_encoder" in self.asked else {}
        named = words | dict(self.asked.get("blocks", {}))
        return f"<lora:{self.name}:{_plain(weight)}{''.join(f' {key}={_plain(n)}' for key, n in named.items())}>"


@dataclass(frozen=True)
class Said:
    """A text taken apart; `settings` are as written, by their names in the text. `model` is "" where none is named;
    `unheld` names LoRAs without a file's name or hash, and hypernetworks."""

    prompt: str
    negative_prompt: str
    loras: tuple[NamedLora, ...]
    settings: Mapping[str, str]
    model: str = ""
    unheld: tuple[str, ...] = ()


def a1111_text(recipe: Recipe) -> str:
    """The `parameters` text that A1111 and its heirs read, LoRA hashes included, with the weights that counted."""
    heard = [lora for lora in recipe.loras if not lora.muted]
    factor = factor_for((lora.weight for lora in heard), recipe.total_strength)
    lines = [recipe.prompt + "".join(f" {_tag(lora, factor)}" for lora in heard)]
    if recipe.negative_prompt:
        lines.append(f"{_NEGATIVE} {recipe.negative_prompt}")
    fields = {
        "Steps": recipe.steps,
        "Sampler": _THEIRS.get(recipe.sampler, recipe.sampler),
        "CFG scale": f"{recipe.guidance:g}",
        "Seed": recipe.seed,
        "Size": f"{recipe.width}x{recipe.height}",
        "Model": recipe.model.key,
    }
    if recipe.upscale is not None:
        fields |= {
            "Denoising strength": f"{recipe.upscale.strength:g}", "Hires upscale": f"{recipe.upscale.factor:g}",
            "Hires steps": recipe.steps, "Hires upscaler": UPSCALER,
        }  # fmt: skip
    if heard:
        hashes = ", ".join(f"{_name(lora.ref)}: {lora.sha256[:12]}" for lora in heard)
        fields["Lora hashes"] = json.dumps(hashes, ensure_ascii=False)
        fields[_DETAILS] = json.dumps(json.dumps([_details(lora) for lora in heard], separators=(",", ":")))
    if recipe.allow_partial:
        fields["Partial LoRAs"] = "allowed"
    fields["Version"] = recipe.app
    lines.append(", ".join(f"{name}: {value}" for name, value in fields.items()))
    return "\n".join(lines)


def _tag(lora: RecipeLora, factor: float) -> str:
    weight = _plain(factor * lora.weight)
    # A1111 takes `te` for both parts unless `unet` says otherwise.
    parts = "" if lora.text_encoder is None else f":te={_plain(factor * lora.text_encoder)}:unet={weight}"
    return f"<lora:{_name(lora.ref)}:{weight}{parts}>"


def _plain(number: float) -> str:
    """To six digits and without an exponent, which no reader of tags knows."""
    return f"{float(f'{number:.6g}'):.12f}".rstrip("0").rstrip(".")


def _details(lora: RecipeLora) -> dict[str, Any]:
    said = lora.model_dump(include={"ref", "sha256", "start", "end", "blocks"}, exclude_defaults=True)
    return {"ref": lora.ref, "sha256": lora.sha256} | said


def _name(ref: str) -> str:
    return ref.rsplit("/", 1)[-1].rsplit(":", 1)[-1].removesuffix(".safetensors")


def read_a1111(text: str) -> Said | None:
    """The text taken apart; None where it is none: its last line must hold `Steps:` among its pairs.

    Raises BadRequest for a prompt that is too long.
    """
    lines = text.replace("\r\n", "\n").rstrip().split("\n")
    settings = _pairs(lines[-1])
    if "Steps" not in settings:
        return None
    first = next((number for number, line in enumerate(lines[:-1]) if line.startswith(_NEGATIVE)), len(lines) - 1)
    prompt = "\n".join(lines[:first])
    negative = "\n".join(lines[first:-1]).removeprefix(_NEGATIVE).removeprefix(" ")
    if len(prompt) > _MOST_LETTERS:
        raise BadRequest("text", f"The prompt in this text is too long: at most {LONGEST_PROMPT} characters are taken.")
    prompt, behind = _without_last_tags(prompt)
    tags = [*_TAG.findall(prompt), *behind]
    loras = _loras(tags, settings)
    models, unheld = _resources(settings)
    unheld += [name.strip() for name in _HYPERNET.findall(prompt)]
    bare = without_lora_tags(_HYPERNET.sub("<lora:x>", _TAG.sub("<lora:x>", prompt)))[0]
    model = settings.get("Model", "") or next(iter(models), "")
    return Said(bare, negative, tuple(loras), settings, model, tuple(dict.fromkeys(unheld)))


def sampler_in(settings: Mapping[str, str], samplers: Sequence[str]) -> tuple[str, str]:
    """Of `samplers` the one that a text means, else its own name for it; and a schedule type that it does not have.

    From 1.9 on A1111 writes “DPM++ 2M” and “Karras” apart; what it picks by itself for this sampler is Karras.
    """
    name, schedule = settings["Sampler"], settings.get("Schedule type", "")
    picked = "Karras" if (name.lower(), schedule.lower()) == ("dpm++ 2m", "automatic") else schedule
    for said, untold in ((f"{name} {picked}", ""), (name, "" if schedule.lower() in ("", *_OF_OURS) else schedule)):
        if known := SAMPLERS.get(said.lower()):
            return next((one for one in known if one in samplers), said), untold
    return name, ""


def _without_last_tags(prompt: str) -> tuple[str, list[str]]:
    """The prompt as it was before tags were put behind it, and those."""
    tags: list[str] = []
    while prompt.endswith(">") and (start := prompt.lower().rfind(" <lora:")) >= 0:
        if not _TAG.fullmatch(prompt, start + 1):
            break
        tags.insert(0, prompt[start + 1 :])
        prompt = prompt[:start]
    return prompt, tags


def _loras(tags: list[str], settings: Mapping[str, str]) -> list[NamedLora]:
    hashes, details = _hashes(settings), _listed_details(settings.get(_DETAILS, ""))
    found: dict[str, NamedLora] = {}
    for tag in tags:
        body, unread = _readable(tag)
        asked = without_lora_tags(body)[1][0]
        name = asked.pop("ref")
        if positional := _POSITIONAL.fullmatch(name):  # Forge's <lora:NAME:TEXT_ENCODER:DENOISER>
            name, asked["text_encoder"] = positional[1], float(positional[2])
        own = next((one for one in details if _name(one["ref"]) == name), {})
        if own:
            details.remove(own)
        if name in found and not own:  # A1111 applies it once for each tag
            before = found[name]
            asked, own, unread = added(before.asked, asked), dict(before.details), (*before.unread, *unread)
            found[name] = NamedLora(name, before.hash, asked, own, unread)
        else:
            found[f"{name}<{len(found)}" if name in found else name] = NamedLora(
                name, hashes.get(name, ""), asked, own, unread
            )
    return list(found.values())


def _readable(tag: str) -> tuple[str, tuple[str, ...]]:
    """The tag as core.prompt reads it, and what it holds beyond that."""
    body = tag[1:-1].partition(":")[2]
    unread: list[str] = []
    kept: dict[str, str] = {}
    at = 0
    while (found := _KEY.search(body, at)) is not None:
        key, value = found[1].lower(), found[2]
        if value.endswith(".safetensors"):  # of a file's name
            at = found.end()
            continue
        body = body[: found.start()] + body[found.end() :]
        if key in _TAGS_KEYS and key not in kept and _NUMBER.fullmatch(value):
            kept[key] = value
        else:
            unread.append(f"{found[1]}={value}")
    for pattern in (_WORD_BEHIND, _DIM_BEHIND):
        if (behind := pattern.fullmatch(body)) and not behind[2].endswith(".safetensors"):
            body = behind[1]
            unread.insert(0, behind[2].strip(" :"))
    named = "".join(f" {key}={value}" for key, value in kept.items())
    return f"<lora:{body}{named}>", tuple(unread)


def added(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """What two tags of a LoRA ask together; all but strengths is the first's."""
    weight, words = (
        round(sum(tag.get(name, tag["weight"]) for tag in (one, other)), 9) for name in ("weight", "text_encoder")
    )
    rest = {name: value for name, value in (*other.items(), *one.items()) if name not in ("weight", "text_encoder")}
    return rest | {"weight": weight} | ({"text_encoder": words} if words != weight else {})


def _resources(settings: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Models and LoRAs that Civitai's own generator lists, by the names they have there."""
    try:
        listed = json.loads(settings.get(_CIVITAI, "[]"))
    except (ValueError, RecursionError):
        listed = []
    models: list[str] = []
    loras: list[str] = []
    for one in listed if isinstance(listed, list) else []:
        kind, name = (one.get("type"), one.get("modelName")) if isinstance(one, dict) else (None, None)
        if kind == "checkpoint" and isinstance(name, str):
            models.append(name)
        if str(kind).lower() in _CIVITAIS_LORAS:
            loras.append(name if isinstance(name, str) else f"version {one.get('modelVersionId')} of Civitai")
    return models, loras


def _hashes(settings: Mapping[str, str]) -> dict[str, str]:
    """A1111's `Lora hashes`, and `Hashes` as Civitai writes it, in small letters by LoRA."""
    pairs = _pairs(settings.get("Lora hashes", ""))
    try:
        civitai = json.loads(settings.get("Hashes", "{}"))
    except (ValueError, RecursionError):
        civitai = {}
    for name, digest in civitai.items() if isinstance(civitai, dict) else ():
        if name.lower().startswith("lora:") and isinstance(digest, str):
            pairs.setdefault(name[5:], digest)
    return {name: digest.lower() for name, digest in pairs.items()}


def _listed_details(text: str) -> list[dict[str, Any]]:
    """Ours, as far as they have the right shape; what they hold is judged with the request."""
    try:
        listed = json.loads(text) if text else []
    except (ValueError, RecursionError):
        return []
    known = {"ref": str, "sha256": str, "start": float, "end": float, "blocks": dict}
    return [
        one for one in (listed if isinstance(listed, list) else [])
        if isinstance(one, dict) and {"ref", "sha256"} <= set(one) <= set(known)
        and all(isinstance(value, known[name]) for name, value in one.items())
    ]  # fmt: skip


def _pairs(line: str) -> dict[str, str]:
    """`Name: value, Name: "value, with a comma"`, from left to right in one pass; what is no pair is passed over."""
    pairs: dict[str, str] = {}
    at = 0
    while at < len(line):
        pair = _PAIR.match(line, at)
        if pair is None:
            comma = line.find(",", at)
            at = len(line) if comma < 0 else comma + 1
            continue
        value, at = _value(line, pair.end())
        pairs[pair[1].strip()] = value
    return pairs


def _value(line: str, at: int) -> tuple[str, int]:
    """The value that begins there, and where the next pair does."""
    quoted = _QUOTED.match(line, at)
    if quoted is not None:
        try:
            return str(json.loads(quoted[0])), _behind_comma(line, quoted.end())
        except ValueError:
            return quoted[0][1:-1], _behind_comma(line, quoted.end())
    if line.startswith(("{", "["), at):  # Civitai's Hashes and resources: JSON without quotes around it
        try:
            value, end = json.JSONDecoder().raw_decode(line, at)
            return json.dumps(value), _behind_comma(line, end)
        except (ValueError, RecursionError):
            pass
    end = _behind_comma(line, at)
    return line[at:end].rstrip(", "), end


def _behind_comma(line: str, at: int) -> int:
    comma = line.find(",", at)
    return len(line) if comma < 0 else comma + 1
