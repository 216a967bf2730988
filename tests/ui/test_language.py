"""The page in other languages: a whole table for each, Chinese on the screen, and a language chosen by the address."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from core.records.journal import Journal
from tests.conftest import Serve, Served
from tests.ui.conftest import WORDS, Visit
from tests.ui.fakes import FakeEngine
from ui import texts
from ui.language import languages

ROOT = Path(__file__).resolve().parent.parent.parent
GRADIOS = (  # what Gradio has no Chinese for
    "number input for {}", "range slider for {}", "Reset to default value", "Download", "Fullscreen",
    "Exit fullscreen mode", "Thumbnail {n} of {n}", "detailed view of selected image", "More tabs",
    "Gradio footer navigation", "Error", "Connection Lost",
    "Connection to the server was lost. Attempting reconnection...", "Connection errored out.",
    "This application is currently busy. Please try again.", "Error uploading file", "An error occurred",
    "File size exceeded maximum allowed size of {n} bytes.",
)  # fmt: skip
CHINESE = {
    "#create-tab-button": "创作", "#compare-tab-button": "对比", "#history-tab-button": "历史", "#generate": "生成",
    "#details .fold": "尺寸、步数、种子、张数", "#over .fold": "图生图", "#blend h2": "混合", "#dice": "⚄ 随机",
    "#open-recipe button": "选择图片", "#stage .said": "写下想画的内容，然后点击“生成”。",
}  # fmt: skip
# What stands on the page beside names, which have no other language.
NAMES = re.compile(
    r"\b(LoRA Loom|LoRAs?|SDXL|SD\d?(\.\d)?|SSD-1B|Stable Diffusion|FLUX|Pocket|Medium|Large|Turbo|LCM|NSFW|Hub|UNet|"
    r"JSON|A1111|CFG|PAB|GPU|MB|API|PNG|JPEG|WebP|Euler|flow-euler|cpu|float32|Ctrl|Enter|Esc|USER|REPO|file|safetensors|"
    r"Python|diffusers|Hugging Face|Neon|Pixel|Sketch|Snail|neon|pixel|pixel art|pab|red|blue|green|apache|mit|cc|by|"
    r"sa|openrail|creativeml|openrail-m|cc0|hf_)\b",
)
ENGLISH_LEFT = """() => {
  const others = "script, style, textarea, code, pre, footer, #recipe-json, [translate=no], [data-say], "
    + "[data-prompt], .title, .words .chip";
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT | NodeFilter.SHOW_ELEMENT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.nodeType === Node.TEXT_NODE ? node.parentElement : node;
    if (!element.checkVisibility() || element.closest(others) && node !== element) continue;
    if (element !== node) found.push(node.data);
    else for (const name of ["placeholder", "title", "aria-label"]) found.push(element.getAttribute(name) ?? "");
    if (element === node && node.matches("input[readonly]")) found.push(node.value);
  }
  return found;
}"""


@cache
def code() -> str:
    """What the page's words are written in, with strings whole that lines break."""
    packages = (("ui", "*.py"), ("ui", "*.js"), ("core", "*.py"), ("lora_catalog", "*.py"))
    files = [path for package, ending in packages for path in (ROOT / package).rglob(ending)]
    text = "\n".join(path.read_text("utf-8") for path in [*files, ROOT / "ui/examples/examples.toml"])
    return re.sub(r"\s+", " ", re.sub(r'"\s*\n\s*f?"', "", text)).lower()


def stands(phrase: str, pieces: int = 3) -> bool:
    """In one piece, or in a few that are put together."""
    if phrase.lower() in code():
        return True
    words = phrase.split(" ")
    parts = ((" ".join(words[:place]), " ".join(words[place:])) for place in range(1, len(words)))
    return pieces > 1 and any(one.lower() in code() and stands(rest, pieces - 1) for one, rest in parts)


def english_left(page: Page) -> list[str]:
    found = page.evaluate(ENGLISH_LEFT)
    found = [text.replace(WORDS.examples[0], "") for text in found]  # the prompt
    return sorted({text for text in found if re.search(r"[A-Za-z]{3}", NAMES.sub("", re.sub("“.*?”", "", text)))})


@pytest.mark.parametrize("language", languages())
def test_every_text_of_a_table_stands_in_the_code(language: str) -> None:
    phrases = {
        (text, phrase.strip())
        for text in languages()[language].keys() - set(GRADIOS)
        for phrase in re.split(r"\{[np]?\}|[^\w' -]", text)
    }
    assert [text for text, phrase in phrases if phrase and not stands(phrase)] == []


@pytest.mark.parametrize("language", languages())
def test_no_text_stands_in_two_tables(language: str) -> None:
    tables = (ROOT / "ui/languages" / language).glob("*.toml")
    count = Counter(text for path in tables for text in tomllib.loads(path.read_text("utf-8")))
    assert [text for text, times in count.items() if times > 1] == []


@pytest.mark.parametrize("language", languages())
def test_a_translation_fills_no_more_places_than_its_text_has(language: str) -> None:
    for text, words in languages()[language].items():
        places = len(re.findall(r"\{[np]?\}", text))
        assert len(re.findall(r"\{\}", words)) <= places, text
        assert all(int(place) <= places for place in re.findall(r"\{(\d)\}", words)), text


@pytest.mark.parametrize("language", languages())
def test_all_words_of_create_are_in_each_table(language: str) -> None:
    said = [text for name, text in vars(texts).items() if name.isupper() and isinstance(text, str)]
    said += texts.CONSENTS.values()
    assert [text for text in said if "{}" not in text and text not in languages()[language]] == []


def test_a_chinese_browser_shows_every_tab_in_chinese_and_draws(
    open_page: Visit, serve: Serve, loras: Path, tmp_path: Path
) -> None:
    journal = Journal(tmp_path / "journal.sqlite")
    page = open_page(serve(FakeEngine(), loras, WORDS, journal=journal).url, locale="zh-CN")
    assert page.evaluate("document.documentElement.lang") == "zh-CN"
    for place, words in CHINESE.items():
        expect(page.locator(place).first).to_have_text(words)
    page.locator("#blend .card", has_text="Neon").click()
    page.locator("#blend .card", has_text="Pixel").click()
    page.locator("#blend details.controls summary").first.click()
    for fold in ("words", "over", "further", "save-blend", "about"):
        page.locator(f"#{fold} .fold").first.click()
    page.locator("#generate").click()
    expect(page.locator("#stage .said")).to_contain_text("每个 PNG 都带有自己的配方。")
    expect(page.locator("#recipe .receipt").first).to_have_text("264/264 层")
    assert english_left(page) == []
    for tab, there in (("loras", ".lora"), ("compare", ".compare-ask .kind"), ("history", ".kept")):
        page.locator(f"#{tab}-tab-button").click()
        expect(page.locator(there).first).to_be_visible()
        if tab == "compare":
            page.locator("input[value=grid]").check()
        assert english_left(page) == [], tab


def test_the_address_chooses_a_language_over_the_browsers(open_page: Visit, server: Served) -> None:
    page = open_page(server.url, locale="zh-CN")
    page.goto(f"{server.url}/?lang=en")
    expect(page.locator("#generate")).to_have_text("Generate")
    expect(page.locator("#steps")).to_contain_text("Steps")
    assert page.evaluate("document.documentElement.lang") == "en"
    page = open_page(server.url)
    page.goto(f"{server.url}/?lang=zh")
    expect(page.locator("#generate")).to_have_text("生成")
    assert page.evaluate("document.documentElement.lang") == "zh-CN"


def test_what_a_visitor_wrote_stays_as_it_was_written(open_page: Visit, server: Served) -> None:
    page = open_page(server.url, locale="zh-CN")
    page.locator("#prompt textarea").fill("Steps")
    page.locator("#generate").click()
    expect(page.locator("#recipe dd").first).to_have_text("Steps")
    assert page.locator("#prompt textarea").input_value() == "Steps"


def test_the_focus_stays_on_a_row_that_is_drawn_anew(open_page: Visit, server: Served) -> None:
    page = open_page(server.url, locale="zh-CN")
    page.locator("#blend .card", has_text="Pixel").click()
    chip = page.locator("#blend .thread .chip").first
    chip.focus()
    page.evaluate("window.loom.receipts({ model: { key: '' }, loras: [] })")  # draws the rows anew
    assert Counter(page.evaluate("[...document.activeElement.classList]"))["chip"] == 1
