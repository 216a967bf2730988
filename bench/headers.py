"""Times the preflight of LoRA headers, real in size and hostile: python -m bench.headers [--hostile 10000].

Times are of this thread on the processor, so that they mean the same on a busy machine.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

from lora_catalog.errors import BadHeader
from lora_catalog.families.table import MODEL_OF
from lora_catalog.header import MAX_HEADER_BYTES, MAX_TENSORS, Header, header_from, read_header
from lora_catalog.identify import identify

RANK = 16
RUNS = 300
SEED = 7
LARGE_EVERY = 50  # of the hostile headers, one is as large as the bounds allow
WEIGHED = 1_000  # of them have their memory traced, which makes them ten times as slow
Shapes = dict[str, tuple[int, ...]]


def written(shapes: Shapes, metadata: dict[str, str]) -> bytes:
    """A safetensors file's first bytes: its header, without data."""
    entries: dict[str, object] = {"__metadata__": metadata}
    end = 0
    for name, shape in sorted(shapes.items()):
        begin, end = end, end + 2 * math.prod(shape)
        entries[name] = {"dtype": "F16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    return len(text).to_bytes(8, "little") + text


def data_bytes(shapes: Shapes) -> int:
    return 2 * sum(math.prod(shape) for shape in shapes.values())


def sdxl_kohya(text_encoders: bool, dora: bool) -> Shapes:
    """What sd-scripts trains of SDXL: all Linears of the transformers, and of the text encoders."""
    sdxl = MODEL_OF["sdxl"]
    layers = {
        "lora_unet_" + weight.originals[0]: weight.shapes[0]
        for weight in sdxl.parts["unet"].weights()
        if "attentions" in weight.paths[0]
    }
    if text_encoders:
        for number, component in enumerate(("text_encoder", "text_encoder_2"), start=1):
            for weight in sdxl.parts[component].weights():
                layers[f"lora_te{number}_{weight.paths[0]}"] = weight.shapes[0]
    shapes: Shapes = {}
    for layer, (rows, columns) in layers.items():
        name = layer.replace(".", "_")
        shapes |= {
            f"{name}.alpha": (),
            f"{name}.lora_down.weight": (RANK, columns),
            f"{name}.lora_up.weight": (rows, RANK),
        }
        if dora:
            shapes[f"{name}.dora_scale"] = (rows, 1)
    return shapes


def kohya_metadata(tags: int) -> dict[str, str]:
    """Some of what sd-scripts writes, with so many distinct tags."""
    return {
        "ss_base_model_version": "sdxl_base_v1-0",
        "ss_network_alpha": "8",
        "ss_output_name": "bench",
        "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
        "ss_dataset_dirs": json.dumps({"10_x": {"n_repeats": 10, "img_count": 500}}),
        "ss_tag_frequency": json.dumps({"10_x": {"ohwx": 500} | {f"a tag, no. {n}": n % 400 for n in range(tags)}}),
    }


REAL = {
    "SDXL, kohya": (sdxl_kohya(text_encoders=False, dora=False), kohya_metadata(1_000)),
    "SDXL, kohya, text encoders, DoRA": (sdxl_kohya(text_encoders=True, dora=True), kohya_metadata(6_000)),
}


def preflight(start: bytes, size: int) -> bool:
    """Whether a file of that size with these first bytes has a header; raises whatever is not meant to be raised."""
    try:
        header = header_from("x.safetensors", start, size)
    except BadHeader:
        return False
    if isinstance(header, Header):
        identify(header)
    return isinstance(header, Header)


def _bombs() -> dict[str, Callable[[], bytes]]:
    """JSON of the greatest length, each made to cost as much time or memory as it can."""
    room = MAX_HEADER_BYTES - 1_000

    def text(letters: bytes) -> bytes:
        return b'{"__metadata__":{"a":"' + letters + b'"}}'

    return {
        "whitespace": lambda: b"{}" + b" " * room,
        "one text": lambda: text(b"x" * room),
        "one wide text": lambda: text(b"x" * room + "字".encode()),
        "one text with a pair of surrogates": lambda: text(b"x" * room + b"\\ud83d\\ude00"),
        "wide texts": lambda: text("字".encode() * (room // 3)),
        "escaped quotes": lambda: text(b'\\"' * (room // 2)),
        "escaped backslashes": lambda: text(b"\\\\" * (room // 2)),
        "escaped letters": lambda: text(b"\\u5b57" * (room // 6)),
        "many metadata": lambda: b'{"__metadata__":{' + b",".join(b'"%06x":""' % n for n in range(room // 12)) + b"}}",
        "many names": lambda: b"{" + b",".join(b'"%06x":0' % n for n in range(room // 11)) + b"}",
        "many numbers": lambda: b'{"a":{"shape":[' + b"1," * (room // 2) + b"1]}}",
        "many fractions": lambda: b'{"a":{"shape":[' + b"1.5," * (room // 4) + b"1]}}",
        "long numbers": lambda: b'{"a":[' + b",".join([b"9" * 4_000] * (room // 4_001)) + b"]}",
        "many texts": lambda: b'{"a":[' + b'"",' * (room // 3) + b'""]}',
        "many lists": lambda: b'{"a":[' + b"[]," * (room // 3) + b"[]]}",
        "nested lists": lambda: b"[" * room,
        "nested objects": lambda: b'{"a":' * (room // 5),
    }


def _crowds() -> dict[str, Callable[[], Shapes]]:
    """Of as many tensors as allowed."""
    pad = "n" * (MAX_HEADER_BYTES // MAX_TENSORS - 110)
    numbers = range(MAX_TENSORS // 2)
    return {
        "most tensors": lambda: {f"unet.{n}.lora_{half}.weight": (4, 4) for n in numbers for half in "AB"},
        "most tensors, long names": lambda: {f"{n}{pad}.lora_{half}.weight": (4, 4) for n in numbers for half in "AB"},
        "most alphas": lambda: {f"{n}.{m}.alpha": () for n in numbers for m in "01"},
    }


def large(number: int) -> tuple[str, bytes, int]:
    """One of the costly headers, and the size of its file."""
    bombs, crowds = _bombs(), _crowds()
    kind = [*bombs, *crowds][number % (len(bombs) + len(crowds))]
    if kind in crowds:
        shapes = crowds[kind]()
        start = written(shapes, {"ss_tag_frequency": json.dumps({"a": dict.fromkeys(map(str, range(9_000)), 1)})})
        return kind, start, len(start) + data_bytes(shapes)
    text = bombs[kind]()
    return kind, len(text).to_bytes(8, "little") + text, 8 + len(text)


def flipped(start: bytes, rng: random.Random) -> bytes:
    changed = bytearray(start)
    for _ in range(rng.randint(1, 16)):
        changed[rng.randrange(8 if rng.random() < 0.1 else len(changed))] = rng.randrange(256)
    return bytes(changed)


def cut(start: bytes, rng: random.Random) -> bytes:
    return start[: rng.randrange(len(start))]


def repeated(start: bytes, rng: random.Random) -> bytes:
    """A piece of the JSON stands twice; the length says so."""
    begin = rng.randrange(8, len(start))
    text = start[8:begin] + start[rng.randrange(8, begin + 1) :]
    return len(text).to_bytes(8, "little") + text


def swapped(start: bytes, rng: random.Random) -> bytes:
    """A word of the format is another one."""
    words = [b'"F16"', b'"shape"', b'"dtype"', b"[16,", b",", b":", b"lora_up", b"alpha", b'"', b"0", b"{", b"_"]
    old, new = rng.sample([*words, b"\\", b"NaN", b"-1", b"1e99", b"\xff", b""], 2)
    text = start[8:].replace(old, new, rng.choice([1, 10, -1])) if old else new + start[8:]
    return len(text).to_bytes(8, "little") + text


def random_bytes(start: bytes, rng: random.Random) -> bytes:
    return rng.randbytes(rng.randrange(2_000))


MUTATIONS: tuple[Callable[[bytes, random.Random], bytes], ...] = (flipped, cut, repeated, swapped, random_bytes)


def hostile(count: int) -> Iterator[tuple[str, bytes, int]]:
    """Kind, first bytes, and a size of the file that fits them where anything does."""
    rng = random.Random(SEED)
    small = dict(list(REAL["SDXL, kohya"][0].items())[:60])
    good = [(written(shapes, metadata), data_bytes(shapes)) for shapes, metadata in [*REAL.values(), (small, {})]]
    for number in range(count):
        if number % LARGE_EVERY == 0:
            yield large(number // LARGE_EVERY)
        else:
            mutate = rng.choice(MUTATIONS)
            sound, data = rng.choice(good)
            start = mutate(sound, rng)
            yield mutate.__name__, start, max(len(start), 8 + int.from_bytes(sound[:8], "little")) + data


def time_real(folder: Path) -> None:
    print(f"{'preflight of a local file':36} {'tensors':>8} {'MB':>6} {'p50 ms':>8} {'p99 ms':>8}")
    for title, (shapes, metadata) in REAL.items():
        start = written(shapes, metadata)
        path = folder / "x.safetensors"
        with path.open("wb") as file:
            file.write(start)
            file.truncate(len(start) + data_bytes(shapes))
        spent = []
        for _ in range(RUNS):
            began = time.thread_time()
            identity = identify(read_header(path))
            spent.append(1000 * (time.thread_time() - began))
        assert identity.family == "sdxl"
        spent.sort()
        p50, p99 = spent[len(spent) // 2], spent[len(spent) * 99 // 100]
        print(f"{title:36} {len(shapes):8} {len(start) / 1e6:6.2f} {p50:8.1f} {p99:8.1f}")


def time_hostile(count: int) -> None:
    worst: dict[str, float] = {}
    crashes = accepted = 0
    for kind, start, size in hostile(count):
        began = time.thread_time()
        try:
            accepted += preflight(start, size)
        except Exception as error:  # noqa: BLE001 (to count them is the point)
            crashes += 1
            print(f"{kind}: {error!r}")
        worst[kind] = max(worst.get(kind, 0.0), 1000 * (time.thread_time() - began))
    memory = peaks(min(count, WEIGHED))
    print(f"\n{'hostile headers: the worst of a kind':36} {'ms':>8} {'peak MB':>8}")
    for kind in sorted(worst, key=lambda kind: -worst[kind]):
        print(f"{kind:36} {worst[kind]:8.1f} {memory.get(kind, 0.0):8.1f}")
    print(f"\n{count} headers, {accepted} of them sound: {crashes} crashes")


def peaks(count: int) -> dict[str, float]:
    """The most memory that one of the first `count` hostile headers of each kind takes, in MB beside its own bytes."""
    most: dict[str, float] = {}
    for kind, start, size in hostile(count):
        tracemalloc.start()
        preflight(start, size)
        most[kind] = max(most.get(kind, 0.0), tracemalloc.get_traced_memory()[1] / 1e6)
        tracemalloc.stop()
    return most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hostile", type=int, default=10_000, help="how many hostile headers to try")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        time_real(Path(folder))
    time_hostile(wanted.hostile)


if __name__ == "__main__":
    main()
