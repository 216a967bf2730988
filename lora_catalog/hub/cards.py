"""From what the Hub says of a repo to a LoraCard."""

from __future__ import annotations

from datetime import UTC
from typing import Any
from urllib.parse import unquote, urlsplit

from huggingface_hub import ModelInfo

from lora_catalog.bases import family_of
from lora_catalog.card import LoraCard
from lora_catalog.errors import BadRef
from lora_catalog.plain import plain
from lora_catalog.reference import LoraRef

NSFW_TAG = "not-for-all-audiences"
LONGEST_TEXT = 300  # letters of a text that stands on a card
MOST_TRIGGERS = 8
_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif")


def card_of(info: ModelInfo) -> LoraCard | None:
    """The card of a repo; None where its name cannot be written as a ref. Odd metadata are left out."""
    try:
        ref = LoraRef("hub", info.id)
    except BadRef:
        return None
    said: dict[str, Any] = vars(info.card_data) if info.card_data else {}
    bases = _texts(said.get("base_model"))
    return LoraCard(
        ref=str(ref),
        title=_line(info.id.partition("/")[2].replace("_", " ").replace("-", " ")),
        family=family_of(bases[0] if bases else None),
        licence=_licence(said),
        triggers=_texts(said.get("instance_prompt") or said.get("trigger_words"))[:MOST_TRIGGERS],
        weight=1.0,
        downloads=_count(info.downloads),
        likes=_count(info.likes),
        nsfw=NSFW_TAG in (info.tags or ()),
        gated=bool(info.gated),
        private=bool(info.private),
        source="hub",
        base=bases[0] if bases else None,
        preview=_preview(info.id, said.get("widget")),
        description=_line(said.get("description")),
        author=_line(info.author) or info.id.partition("/")[0],
        updated=info.last_modified.astimezone(UTC).isoformat(timespec="seconds") if info.last_modified else None,
    )


def with_facts(curated: LoraCard, seen: LoraCard, checked: bool | None = None) -> LoraCard:
    """A curated card with the Hub's own figures; its words stay ours, its licence too where we know it."""
    fresh = ("downloads", "likes", "nsfw", "gated", "private", "preview", "updated")
    return curated.model_copy(
        update={
            **{field: getattr(seen, field) for field in fresh},
            "licence": curated.licence or seen.licence,
            "checked": curated.checked if checked is None else checked,
        }
    )


def _licence(said: dict[str, Any]) -> str | None:
    licence = _line(said.get("license"))
    named = _line(said.get("license_name"))
    return (named if licence == "other" and named else licence) or None


def _preview(repo: str, widget: Any) -> str | None:
    """The first example picture's path in the repo: relative, or an address of this very repo."""
    for example in widget if isinstance(widget, list) else ():
        output = example.get("output") if isinstance(example, dict) else None
        address = output.get("url") if isinstance(output, dict) else None
        if not isinstance(address, str) or len(address) > LONGEST_TEXT:
            continue
        path = unquote(urlsplit(address).path) if "://" in address else address
        path = path.removeprefix(f"/{repo}/resolve/main/")
        parts = path.split("/")
        if path.casefold().endswith(_PICTURES) and path.isprintable() and not {"", ".", ".."} & set(parts):
            return path
    return None


def _texts(value: Any) -> tuple[str, ...]:
    """The texts in a value that may be one, a list of them, or anything."""
    values = value if isinstance(value, list) else [value]
    return tuple(dict.fromkeys(text for text in map(_line, values) if text))


def _line(value: Any) -> str:
    """A text made plain; empty for anything else."""
    return plain(value, LONGEST_TEXT) if isinstance(value, str) else ""


def _count(value: Any) -> int:
    return max(0, value) if isinstance(value, int) else 0
