"""What goes wrong and what is waited for, in Chinese in a browser: each text by its own form, and errors on a page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.conftest import Serve, Served
from tests.ui.conftest import WORDS, Visit
from tests.ui.test_line import HeldEngine, ask
from ui.language import languages

PHRASES = ("muted", "gated", "private", "yours")  # texts without holes, for those of others
HOLE = re.compile(r"\{[np]?\}")


def filled(text: str, said: str, table: dict[str, str]) -> tuple[str, str]:
    """A text of a table with something in each of its holes, and what it should come out as."""
    names, numbers, phrases = (f"Q{letter}" for letter in "abcdefgh"), count(7), iter(PHRASES)
    held: list[str] = []

    def fill(hole: re.Match[str]) -> str:
        kinds: dict[str, Iterator[object]] = {"{}": names, "{n}": numbers, "{p}": phrases}
        word = str(next(kinds[hole[0]]))
        held.append(table.get(word, word))
        return word

    filling, places = HOLE.sub(fill, text), iter(range(9))
    return filling, re.sub(r"\{(\d?)\}", lambda at: held[int(at[1]) - 1 if at[1] else next(places)], said)


@pytest.mark.parametrize("language", languages())
def test_no_form_takes_what_another_one_is_for(open_page: Visit, server: Served, language: str) -> None:
    table = languages()[language]
    wanted = [filled(text, said, table) for text, said in table.items()]
    page = open_page(server.url)
    page.goto(f"{server.url}/?lang={language}")
    expect(page.locator("#generate")).to_have_text(table["Generate"])
    said = page.evaluate("texts => texts.map(window.loom.words)", [text for text, _ in wanted])
    assert [pair for pair, found in zip(wanted, said, strict=True) if pair[1] != found] == []


def test_of_sentences_each_is_told_and_what_somebody_wrote_stays(open_page: Visit, server: Served) -> None:
    page = open_page(server.url, locale="zh-CN")
    for text, said in (
        (
            "2 pictures in 3.4 s. The prompt is longer than Pocket SD3 reads: it was cut before “a cat. A dog is "
            "required.”. Each PNG carries its recipe. Not recorded: the disk is full.",
            "2 张图片，用时 3.4 秒。提示词超出了 Pocket SD3 能读取的长度：从“a cat. A dog is required.”起被截断。"
            "每个 PNG 都带有自己的配方。未能保存到历史：磁盘已满。",
        ),
        (
            "weaver/glow does not fit Pocket SD3: this LoRA was made for sdxl, and the model is pocket-sd3; choose a "
            "LoRA for pocket-sd3, or another model.",
            "weaver/glow 不适用于 Pocket SD3：此 LoRA 是为 sdxl 制作的，而模型是 pocket-sd3；"
            "请选择适用于 pocket-sd3 的 LoRA，或换一个模型。",
        ),
        (
            "This studio: 12 saved here, 3 on the Hub, last 5 min ago; the Hub does not answer in time; trying again "
            "in 40 s",
            "本站：已保存 12 条，Hub 上 3 条，5 分钟前同步；Hub 没有及时回答；40 秒后重试",
        ),
        ("Fetching glow.safetensors · 4.5 MB of 18 MB", "正在获取 glow.safetensors · 4.5 / 18 MB"),
        ("There is no LoRA “Steps”; search the LoRAs for one that is there.", "没有 LoRA “Steps”；请搜索现有的 LoRA。"),
        ("You must be nice.", "You must be nice."),
    ):
        assert page.evaluate("window.loom.words", text) == said


def test_a_chinese_visitor_is_told_in_chinese_what_went_wrong(open_page: Visit, serve: Serve, loras: Path) -> None:
    engine = HeldEngine()
    server = serve(engine, loras, WORDS)
    page = open_page(server.url, locale="zh-CN")
    prompt, generate, notice = page.locator("#prompt textarea"), page.locator("#generate"), page.locator("#notice")
    page.locator("#width input[type=number]").fill("100")
    generate.click()
    expect(page.locator("#width .fault")).to_have_text(
        "用 pocket-sd3 时，宽度必须是介于 64 和 256 之间的 16 的倍数，而不是 100。"
    )
    page.locator("#width input[type=number]").fill("128")
    prompt.fill("<lora:bundled:gone:1> a house")
    generate.click()
    expect(notice).to_have_text("没有 LoRA “bundled:gone”；请搜索现有的 LoRA。")
    page.locator("#recipe-text textarea").fill('{"version": 9}')
    page.locator("#recipe-open").click()
    expect(page.locator("#opened")).to_have_text("recipe.version 必须为 1 或 2：此版本的 LoRA Loom 只认这两种。")
    ask(server, visitor="ann")
    prompt.fill("a house")
    generate.click()
    expect(page.locator("#stage .said")).to_contain_text("排在第 1 位")
    engine.free.set()
    expect(page.locator("#stage .said")).to_contain_text("1 张图片，用时")
