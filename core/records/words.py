"""How records are found: the words of prompts and LoRA names, and the full-text expression that asks for them."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata

LONGEST_WORD = 64  # letters; what comes after decides nothing

# Chinese and Japanese are written without spaces: each of their letters is a word.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u9fff]+")
_REVISION = re.compile(r"@[^:]*")
_BETWEEN = "\ue000"  # stands between two LoRAs, so that no phrase reaches over; no word holds it, nor is it punctuation
_STARRED = "starred"


def words_of(text: str) -> list[str]:
    """The words, without case and accents."""
    plain = "".join(
        letter for letter in unicodedata.normalize("NFKD", text.casefold()) if unicodedata.category(letter)[0] != "M"
    )
    return [word[:LONGEST_WORD] for word in _WORD.findall(plain.casefold())]


def lora_words(ref: str) -> list[str]:
    """The words of a ref, without what is the same for all or names nothing."""
    return words_of(_REVISION.sub("", ref).removesuffix(".safetensors"))


def indexed(visitor: str, starred: bool, prompt: str, loras: str) -> tuple[str, str, str]:
    """A row of the table `words`; `loras` is the recipe's, as JSON."""
    refs = [lora["ref"] for lora in json.loads(loras)]
    names = f" {_BETWEEN} ".join(" ".join(lora_words(ref)) for ref in refs)
    return marks(visitor, starred), " ".join(words_of(prompt)), names


def marks(visitor: str, starred: bool) -> str:
    """Whose record it is, as one word that nobody can write in a query, and whether it is starred."""
    return f"{_owner(visitor)} {_STARRED}" if starred else _owner(visitor)


def expression(visitor: str, query: str, lora: str, starred: bool | None) -> str:
    """FTS5 for the visitor's records in which every word of `query` begins a word of the prompt or of a LoRA's name,
    and in one of whose LoRAs' names the words of `lora` follow each other, the last one begun."""
    wanted = [f"marks : {_owner(visitor)}"]
    wanted += [f'{{prompt loras}} : "{word}" *' for word in dict.fromkeys(words_of(query))]
    if names := lora_words(lora):
        wanted.append(f'loras : "{" ".join(names)}" *')
    if starred:
        wanted.append(f"marks : {_STARRED}")
    found = " AND ".join(wanted)
    return f"({found}) NOT marks : {_STARRED}" if starred is False else found


def _owner(visitor: str) -> str:
    return "of" + hashlib.sha256(visitor.encode()).hexdigest()[:32]
