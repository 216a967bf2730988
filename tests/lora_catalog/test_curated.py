"""The hand-picked list: what ships is sound, and what is wrong in such a file is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.base_models import BASE_MODELS
from lora_catalog.bases import family_of
from lora_catalog.card import LoraCard
from lora_catalog.curated import curated_cards
from lora_catalog.reference import LoraRef

CARDS = curated_cards()
LCM = {"latent-consistency/lcm-lora-sdxl", "latent-consistency/lcm-lora-ssd-1b", "latent-consistency/lcm-lora-sdv1-5"}

ENTRY = {
    "repo": '"nerijs/pixel-art-xl"',
    "file": '"pixel-art-xl.safetensors"',
    "title": '"Pixel Art XL"',
    "family": '"sdxl"',
    "base": '"stabilityai/stable-diffusion-xl-base-1.0"',
    "triggers": '["pixel art"]',
    "licence": '"creativeml-openrail-m"',
    "weight": "1.2",
    "description": '"Pixel art."',
    "verified": "true",
    "source": '"card"',
}


def written(tmp_path: Path, **changed: str | None) -> Path:
    """A list with one entry: ENTRY, with the given TOML values instead, or without those that are None."""
    fields = {name: value for name, value in (ENTRY | changed).items() if value is not None}
    file = tmp_path / "list.toml"
    file.write_text("\n".join(["[[lora]]", *(f"{name} = {value}" for name, value in fields.items())]), encoding="utf-8")
    return file


def test_the_list_holds_at_least_25_loras_and_the_lcm_loras() -> None:
    repos = [LoraRef.parse(card.ref).name for card in CARDS]
    assert set(repos) >= LCM
    assert len([repo for repo in repos if repo not in LCM]) >= 25


def test_the_list_covers_every_family_that_people_come_for() -> None:
    assert {card.family for card in CARDS} >= {"sdxl", "sd3.5-large", "sd3.5-medium", "sd1", "ssd-1b"}


def test_the_list_holds_the_accelerator_of_every_speed_mode() -> None:
    accelerators = {model.accelerator for model in BASE_MODELS.values() if model.accelerator and not model.embedded}
    assert accelerators <= {LoraRef.parse(card.ref).name for card in CARDS if "(accelerator)" in card.title}


def test_refs_and_titles_are_distinct_whatever_their_case() -> None:
    assert len({card.ref.casefold() for card in CARDS}) == len(CARDS)
    assert len({card.title.casefold() for card in CARDS}) == len(CARDS)


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.ref)
def test_an_entry_is_sound(card: LoraCard) -> None:
    assert str(LoraRef.parse(card.ref)) == card.ref
    assert (card.source, card.nsfw, card.downloads, card.likes, card.preview) == ("curated", False, 0, 0, None)
    assert family_of(card.base) == card.family
    assert -5 <= card.weight <= 5
    assert card.description.endswith(".")


@pytest.mark.parametrize("card", [card for card in CARDS if card.checked], ids=lambda card: card.ref)
def test_a_verified_entry_names_its_file(card: LoraCard) -> None:
    assert LoraRef.parse(card.ref).file is not None


def test_an_entry_becomes_a_card(tmp_path: Path) -> None:
    assert curated_cards(written(tmp_path)) == (
        LoraCard(
            ref="nerijs/pixel-art-xl:pixel-art-xl.safetensors",
            title="Pixel Art XL",
            family="sdxl",
            licence="creativeml-openrail-m",
            triggers=("pixel art",),
            weight=1.2,
            downloads=0,
            likes=0,
            nsfw=False,
            gated=False,
            source="curated",
            base="stabilityai/stable-diffusion-xl-base-1.0",
            preview=None,
            description="Pixel art.",
            author="nerijs",
            checked=True,
        ),
    )


def test_what_an_entry_leaves_out_is_unknown_or_usual(tmp_path: Path) -> None:
    (card,) = curated_cards(written(tmp_path, file=None, licence=None, triggers=None, weight=None, verified="false"))
    assert (card.ref, card.licence, card.triggers, card.weight) == ("nerijs/pixel-art-xl", None, (), 1.0)
    assert not card.checked


def test_an_entry_may_name_another_author_than_the_repos_user(tmp_path: Path) -> None:
    (card,) = curated_cards(written(tmp_path, author='"Neri"'))
    assert card.author == "Neri"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("file", '"../pixel-art-xl.safetensors"'),
        ("file", '"pixel-art-xl.bin"'),
        ("title", '""'),
        ("title", '"two\\nlines"'),
        ("family", '"sd4"'),
        ("base", None),
        ("triggers", '"pixel art"'),
        ("licence", "1"),
        ("weight", "5.1"),
        ("weight", "nan"),
        ("description", None),
        ("verified", '"yes"'),
        ("source", None),
        ("nsfw", "false"),
    ],
)
def test_a_wrong_entry_is_refused_naming_it_and_the_field(tmp_path: Path, field: str, value: str | None) -> None:
    file = written(tmp_path, **{field: value})
    with pytest.raises(ValueError, match=rf"^list.toml: entry 1 \(nerijs/pixel-art-xl\), field {field}: "):
        curated_cards(file)


def test_a_repo_that_is_no_repo_of_the_hub_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"entry 1 \(https://example.org/a\), field repo: .*USER/REPO"):
        curated_cards(written(tmp_path, repo='"https://example.org/a"'))


def test_the_wrong_one_of_several_entries_is_named(tmp_path: Path) -> None:
    good, bad = written(tmp_path).read_text(), written(tmp_path, repo='"a/b"', weight="9").read_text()
    file = tmp_path / "list.toml"
    file.write_text(f"{good}\n{bad}\n{good}", encoding="utf-8")
    with pytest.raises(ValueError, match=r"entry 2 \(a/b\), field weight: "):
        curated_cards(file)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "list.toml: lora: "),
        ("lora = 1", "list.toml: lora: "),
        ("lora = [1]", "list.toml: lora.0: "),
        ("lora = []\nloras = []", "list.toml: loras: "),
        ("[[lora]", "line 1"),
    ],
)
def test_a_file_that_is_no_list_is_refused(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "list.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=said):
        curated_cards(file)
