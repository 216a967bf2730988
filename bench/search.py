"""How long a search takes over an index of many cards, kind by kind of query: `python -m bench.search`."""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import threading
import time
from bisect import bisect
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import get_args

from lora_catalog.card import LoraCard
from lora_catalog.index import CardIndex
from lora_catalog.search import Search, Sort

FAMILIES = {"sdxl": 45, "sd1": 20, "flux": 20, "sd3.5-large": 5, "sd3-medium": 5, "other": 5}  # per cent
LICENCES = {"openrail++": 45, "creativeml-openrail-m": 25, "apache-2.0": 14, "mit": 6, "other": 4, None: 6}
# The commonest words, then others made of syllables: a part of one often stands in many.
KNOWN = """style lora sdxl the of with and a for in model image anime realistic photo portrait art character pixel
painting dreambooth trained weights cute girl cartoon logo 3d cyberpunk watercolor sketch vintage film fantasy"""
SYLLABLES = """ka ro mi zen tor vel shi lun dra bel nor xi pho gra sta ing er al on an the ri co de ma ti lo na se pa vi
qu ju ble fer gol hy ist ker lam mon ous pre ry sun tal ur wyn ya zo"""
BOILERPLATE = (
    "These are {} LoRA adaption weights for stabilityai/stable-diffusion-xl-base-1.0. The weights were trained using "
    "DreamBooth. LoRA for the text encoder was enabled: False."
)
LONGEST_TEXT = 300  # letters, as the Hub's cards have here
VOCABULARY = 40_000
PAGE = 20  # cards asked for


class Words:
    """A vocabulary after Zipf: the word of rank n comes with a probability of 1/n."""

    def __init__(self, draw: random.Random) -> None:
        self._draw = draw
        syllables = SYLLABLES.split()
        made = ("".join(draw.choices(syllables, k=draw.randint(2, 4))) for _ in range(VOCABULARY))
        self._by_rank = list(dict.fromkeys([*KNOWN.split(), *made]))
        self._sums = list(accumulate(1 / rank for rank in range(1, len(self._by_rank) + 1)))

    def any(self) -> str:
        return self._by_rank[bisect(self._sums, self._draw.random() * self._sums[-1])]

    def some(self, least: int, most: int) -> list[str]:
        return [self.any() for _ in range(self._draw.randint(least, most))]

    def ranked(self, first: int, last: int) -> str:
        return self._draw.choice(self._by_rank[first:last])


def made_cards(count: int, words: Words, draw: random.Random) -> Iterator[LoraCard]:
    for number in range(count):
        name = "-".join([*words.some(1, 4), "lora" if draw.random() < 0.5 else str(number)])
        text = " ".join(words.some(0, 60)) if draw.random() < 0.6 else BOILERPLATE.format(name)
        day = f"{draw.randint(2023, 2026)}-{draw.randint(1, 12):02}-{draw.randint(1, 28):02}"
        yield LoraCard.model_validate(
            {
                "ref": f"{words.any()}{draw.randint(1, 9999)}/{name}-{number}",
                "title": name.replace("-", " "),
                "family": draw.choices(list(FAMILIES), list(FAMILIES.values()))[0],
                "licence": draw.choices(list(LICENCES), list(LICENCES.values()))[0],
                "triggers": words.some(0, 3),
                "weight": 1.0,
                "downloads": int(draw.paretovariate(0.6)) - 1,
                "likes": int(draw.paretovariate(0.9)) - 1,
                "nsfw": draw.random() < 0.1,
                "gated": False,
                "source": "hub",
                "base": "stabilityai/stable-diffusion-xl-base-1.0",
                "preview": "images/image_0.png" if draw.random() < 0.5 else None,
                "description": text[:LONGEST_TEXT],
                "author": "somebody",
                "updated": f"{day}T12:00:{draw.randint(0, 59):02}+00:00",
            }
        )


Asked = tuple[Search, int]  # a search and how many cards it skips


def kinds_of_query(words: Words, draw: random.Random) -> dict[str, Callable[[], Asked]]:
    """By name, each draws another one."""

    def search(query: str, skip: int = 0, **fields: object) -> Asked:
        sort = draw.choice(get_args(Sort))
        return Search.read({"query": query, "sort": sort, "nsfw": draw.random() < 0.2, **fields}), skip

    def family() -> str:
        return draw.choice(["sdxl", "sd1", "sd3"])

    return {
        "no words": lambda: search(""),
        "no words, a family": lambda: search("", family=family()),
        "a common word": lambda: search(words.ranked(0, 12)),
        "a middling word": lambda: search(words.ranked(12, 400)),
        "a rare word": lambda: search(words.ranked(5_000, VOCABULARY // 2)),
        "a word nobody wrote": lambda: search(f"{words.ranked(400, 5_000)[::-1]}ng"),
        "the beginning of a word": lambda: search(words.ranked(0, 5_000)[: draw.randint(3, 6)]),
        "one or two letters": lambda: search(words.ranked(0, 400)[: draw.randint(1, 2)]),
        "two words": lambda: search(f"{words.any()} {words.any()}"),
        "a word, family, licence": lambda: search(
            words.any(), family=family(), licence=draw.choice(["openrail++", "mit"])
        ),
        "a sentence": lambda: search(" ".join(words.some(5, 15))[:200]),
        "a deep page": lambda: search(draw.choice(["", words.ranked(0, 60)]), skip=draw.randint(100, 1_000)),
    }


def timed(index: CardIndex, asked: Sequence[Asked]) -> list[tuple[float, float]]:
    """Of each search: milliseconds that passed, and that this thread computed."""
    times = []
    for wanted, skip in asked:
        passed, computed = time.perf_counter(), time.thread_time()
        index.search(wanted, skip, PAGE)
        times.append(((time.perf_counter() - passed) * 1e3, (time.thread_time() - computed) * 1e3))
    return times


def line(name: str, times: Sequence[tuple[float, float]]) -> str:
    figures = []
    for column in zip(*times, strict=True):
        ordered = sorted(column)
        figures += [ordered[int(share * (len(ordered) - 1))] for share in (0.5, 0.99, 1)]
    return f"{name:26}" + "".join(f"{figure:9.2f}" for figure in figures)


def measure(index: CardIndex, words: Words, draw: random.Random, count: int) -> None:
    columns = "".join(f"{name:>9}" for name in ("p50", "p99", "max") * 2)
    print(f"{'':26}{'ms passed':>27}{'ms computed':>27}\n{'':26}{columns}")
    everything = []
    for name, query in kinds_of_query(words, draw).items():
        times = timed(index, [query() for _ in range(count)])
        everything += times
        print(line(name, times))
    print(line("all", everything))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cards", type=int, default=100_000)
    parser.add_argument("--searches", type=int, default=300, help="of each kind")
    options = parser.parse_args()
    draw = random.Random(20)
    words = Words(draw)
    cards = list(made_cards(options.cards, words, draw))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "catalog.sqlite"
        index = CardIndex(path)
        passed, computed = time.perf_counter(), time.thread_time()
        index.put(cards, at=0.0)
        passed, computed = time.perf_counter() - passed, time.thread_time() - computed
        index.close()
        size = path.stat().st_size / 1e6
        print(f"{options.cards} cards put in {passed:.0f} s ({computed:.0f} s computed): {size:.0f} MB")
        print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}; {PAGE} cards asked for\n\nNobody writes:")
        index = CardIndex(path)
        measure(index, words, draw, options.searches)

        stop = threading.Event()

        def refresh() -> None:
            """What follows a search of the Hub, each quarter of a second: a page of its answers is put."""
            chance = random.Random(21)
            while not stop.wait(0.25):
                page = chance.sample(cards, 100)
                index.put([card.model_copy(update={"downloads": card.downloads + 1}) for card in page], time.time())

        print("\nWhile 100 cards are put every 0.25 s:")
        writer = threading.Thread(target=refresh)
        writer.start()
        try:
            measure(index, words, draw, options.searches)
        finally:
            stop.set()
            writer.join()
            index.close()


if __name__ == "__main__":
    main()
