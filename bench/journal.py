"""What a durable record costs, what kill -9 takes from the journal, and how long a look into it takes.

`python -m bench.journal`, on the disk of --folder. The killed process runs the real Studio.generate over an engine that
draws noise in no time, so that the kills fall on the writing and not on the drawing.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from core.messages import Done, Drawn, Job, Message, Raster, StopFlag
from core.records.journal import Journal
from core.records.schema import Record
from core.request import LARGEST_SEED
from core.studio import Generated, Studio
from lora_catalog.catalog import Catalog
from lora_catalog.sources.bundled import BundledSource
from lora_catalog.visitor import Visitor

ANN = Visitor("ann")
MEGABYTE = 10**6
PAGE = 50  # records asked for
WORDS = [
    "a",
    "of",
    "the",
    "with",
    "in",
    "red",
    "blue",
    "cat",
    "dog",
    "castle",
    "night",
    "watercolour",
    "sketch",
    "photo",
]
LORAS = ["bundled:pocket-sd3-neon", "bundled:pocket-sd3-pixel", *(f"weaver/style-{n}@{'0' * 40}" for n in range(50))]


class Noise:
    """An engine that draws noise, so that a PNG is as large as a picture's, as fast as it can."""

    def availability(self, key: str) -> None:
        """Everything runs."""

    def run(self, job: Job, stop: StopFlag) -> Iterator[Message]:
        request = job.request
        pictures = []
        for index in range(request.images):
            data = random.Random(request.seed + index).randbytes(3 * request.width * request.height)
            pictures.append(Drawn(index, request.seed + index, Raster(request.width, request.height, data)))
        plan: dict[str, str | int | None] = {"dtype": "float32", "quantisation": None, "device": "cpu", "batch": 1}
        yield Done(tuple(pictures), (), "0" * 40, plan)


def generate_for_ever(path: Path) -> None:
    """Says of each answer, once it is given, the seeds and hashes of its pictures."""
    studio = Studio(Noise(), Catalog([BundledSource(Path("nowhere"))]), "pocket-sd3", Journal(path), "picture")
    while True:
        images = random.randint(1, 4)
        raw = {"prompt": "a cat", "seed": random.randrange(LARGEST_SEED - 8), "images": images}
        *_, generated = studio.generate(raw, ANN, threading.Event())
        assert isinstance(generated, Generated)
        assert not generated.recorded.why_not, generated.recorded.why_not
        drawn = zip(generated.recipes, generated.pictures, strict=True)
        print(json.dumps([[recipe.seed, hashlib.sha256(png).hexdigest()] for recipe, png in drawn]), flush=True)


def killed(folder: Path, kills: int, generations: int) -> None:
    path, draw = folder / "journal.sqlite", random.Random(0)
    acknowledged: list[list[tuple[int, str]]] = []
    for kill in range(kills):
        command = [sys.executable, "-m", "bench.journal", "--generate", str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            answers = max(0, round((generations - len(acknowledged)) / (kills - kill)) - 1)
            said = [process.stdout.readline() for _ in range(answers)]
            threading.Event().wait(draw.random() * 0.1)  # seconds: some three generations
            process.kill()
            said += process.stdout.readlines()
        acknowledged += [json.loads(line) for line in said if line.endswith("\n")]
    judge(path, kills, acknowledged)


def judge(path: Path, kills: int, acknowledged: Sequence[Sequence[tuple[int, str]]]) -> None:
    journal = Journal(path)
    found: Counter[int] = Counter()
    hashes: dict[int, str] = {}
    torn = 0
    cursor: str | None = None
    while True:
        page = journal.page(ANN.id, limit=PAGE, cursor=cursor)
        for listed in page.records:
            record = journal.record(listed.id, ANN.id)
            seed = json.loads(record.recipe)["seed"]
            found[seed] += 1
            hashes[seed] = hashlib.sha256(record.image or b"").hexdigest()
            torn += not whole(record)
        cursor = page.next
        if cursor is None:
            break
    journal.close()
    pictures = [picture for answer in acknowledged for picture in answer]
    lost = sum(hashes.get(seed) != digest for seed, digest in pictures)
    aside = len(list(path.parent.glob("*.torn-*")))
    print(f"\n{kills} kills -9, {len(acknowledged)} answers of {len(pictures)} pictures, {found.total()} recorded:")
    print(f"{lost} lost, {found.total() - len(found)} twice, {torn} torn; {aside} journals put aside as damaged")


def whole(record: Record) -> bool:
    """Whether the picture decodes to its last pixel and carries the recipe of its row."""
    try:
        with Image.open(io.BytesIO(record.image or b"")) as picture:
            picture.load()
            return bool(json.loads(picture.info["lora-loom"]) == json.loads(record.recipe))
    except (OSError, KeyError, ValueError):
        return False


def cost(folder: Path, count: int) -> None:
    """Of one picture of a megabyte, from the call of `keep` until it is on the disk."""
    journal = Journal(folder / "journal.sqlite")
    image = random.randbytes(MEGABYTE)
    times = [timed(lambda: journal.keep([made("a cat", "bundled:pixel", image)])) for _ in range(count)]
    plain = [timed(partial(durable, folder / f"{number}.png", image)) for number in range(count)]
    journal.close()
    print(f"{'a picture of 1 MB, made durable':44} {'p50 ms':>8} {'p99 ms':>8}")
    show(f"journal.keep, {count} times", times)
    show("the same bytes to a file of their own, fsync", plain)


def durable(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def looks(folder: Path, count: int, queries: int) -> None:
    """Over a journal whose records are all one visitor's: the most that a look may have to go through."""
    journal, draw = Journal(folder / "journal.sqlite"), random.Random(1)
    rare = [f"word{number}" for number in range(5000)]
    for start in range(0, count, 1000):
        rows = range(min(1000, count - start))
        prompts = [" ".join(draw.choices(WORDS, k=8) + draw.choices(rare, k=8)) for _ in rows]
        journal.keep([made(prompt, draw.choice(LORAS), starred=draw.random() < 0.05) for prompt in prompts])
    kinds: dict[str, Callable[[], dict[str, Any]]] = {
        "the newest": dict,
        "from anywhere on": lambda: {"cursor": str(draw.randrange(PAGE, count))},
        "a common word": lambda: {"query": draw.choice(WORDS)},
        "a rare word": lambda: {"query": draw.choice(rare)},
        "one letter": lambda: {"query": draw.choice("abcdw")},
        "five common words": lambda: {"query": " ".join(draw.choices(WORDS, k=5))},
        "two rare words": lambda: {"query": " ".join(draw.choices(rare, k=2))},
        "two beginnings of many words": lambda: {"query": f"word{draw.randrange(10)} word{draw.randrange(10)}"},
        "a LoRA": lambda: {"lora": draw.choice(LORAS)},
        "starred, a common word": lambda: {"starred": True, "query": draw.choice(WORDS)},
        "not starred, a LoRA": lambda: {"starred": False, "lora": draw.choice(LORAS)},
        "what is not there": lambda: {"query": "nowhere"},
    }
    print(f"\n{f'a page of {PAGE} out of {count:,} records':44} {'p50 ms':>8} {'p99 ms':>8}")
    everything = []
    for kind, fields in kinds.items():
        spent = [timed(partial(journal.page, ANN.id, limit=PAGE, **fields())) for _ in range(queries)]
        everything += spent
        show(kind, spent)
    show("all of these", everything)
    journal.close()


def made(prompt: str, ref: str, image: bytes | None = None, starred: bool = False) -> Record:
    loras = json.dumps([{"ref": ref, "sha256": "0" * 64, "weight": 1.0}])
    recipe = json.dumps({"prompt": prompt, "loras": loras, "libraries": "x" * 500})
    small = random.randbytes(6000) if image else None
    at = datetime.now(UTC)
    return Record(uuid.uuid4().hex, at, ANN.id, prompt, "pocket-sd3", loras, recipe, image, small, starred)


def timed(work: Callable[[], object]) -> float:
    """Milliseconds."""
    began = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - began)


def show(title: str, times: list[float]) -> None:
    ordered = sorted(times)
    print(f"{title:44} {ordered[len(ordered) // 2]:8.2f} {ordered[len(ordered) * 99 // 100]:8.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(), help="on the disk to measure; it is left as it was")
    parser.add_argument("--keeps", type=int, default=500, help="pictures of 1 MB to keep")
    parser.add_argument("--records", type=int, default=50_000, help="records to look through")
    parser.add_argument("--queries", type=int, default=200, help="looks of each kind")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--generations", type=int, default=1000, help="in which the kills fall")
    parser.add_argument("--generate", type=Path, help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.generate:
        generate_for_ever(wanted.generate)
    parts: tuple[Callable[[Path], None], ...] = (
        lambda folder: cost(folder, wanted.keeps),
        lambda folder: looks(folder, wanted.records, wanted.queries),
        lambda folder: killed(folder, wanted.kills, wanted.generations),
    )
    for part in parts:
        with tempfile.TemporaryDirectory(dir=wanted.folder) as folder:
            part(Path(folder).absolute())


if __name__ == "__main__":
    main()
