"""How fast LoRA files are parsed, and that no mutilated one crashes the blend or leaves a trace in the weights.

python -m bench.parse [--runs 20] [--mutations [10000]]
"""

from __future__ import annotations

import argparse
import hashlib
import math
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import SD3Transformer2DModel
from safetensors.torch import load, save, save_file

from bench.headers import Shapes, sdxl_kohya
from core.errors import LoomError
from core.lora.blend import Blender, Ingredient
from core.lora.parse import parse_lora
from core.lora.stores import weights_of
from lora_catalog.families.keys import split_key

Tensors = dict[str, torch.Tensor]
SEED = 1
QKV = "lora_unet_joint_blocks_0_x_block_attn_qkv"
LAST = "lora_unet_final_layer_adaLN_modulation_1"
CONV = "lora_unet_x_embedder_proj"
LINEAR = "transformer.transformer_blocks.0.attn.to_out.0"


def filled(shapes: Shapes, dtype: torch.dtype = torch.float16) -> Tensors:
    torch.manual_seed(SEED)
    return {
        name: (torch.randn(shape) * 0.1).to(dtype) if shape else torch.tensor(8.0) for name, shape in shapes.items()
    }


def as_loha(shapes: Shapes) -> Shapes:
    """The same layers, each with two pairs."""
    found: Shapes = {}
    for name, shape in shapes.items():
        layer, _, tensor = name.partition(".")
        for half in "12":
            end = {"lora_down.weight": f"hada_w{half}_b", "lora_up.weight": f"hada_w{half}_a"}.get(tensor, tensor)
            found[f"{layer}.{end}"] = shape
    return found


def time_parsing(folder: Path, runs: int) -> None:
    plain = sdxl_kohya(text_encoders=True, dora=False)
    files = {
        "kohya, fp16": filled(plain),
        "kohya, fp32": filled(plain, torch.float32),
        "kohya, fp8": filled(plain, torch.float8_e4m3fn),
        "kohya with DoRA, fp16": filled(sdxl_kohya(text_encoders=True, dora=True)),
        "LoHa, fp16": filled(as_loha(plain)),
    }
    print(f"{'SDXL, rank 16, every Linear':42} {'layers':>7} {'MB':>7} {'p50 ms':>8} {'p95 ms':>8} {'MB/s':>7}")
    path = folder / "lora.safetensors"
    for title, tensors in files.items():
        save_file(tensors, path)
        size = path.stat().st_size / 1e6
        spent = []
        for _ in range(runs):
            began = time.perf_counter()
            read = parse_lora(path, "0" * 64, title, "sdxl")
            spent.append(1000 * (time.perf_counter() - began))
        assert not read.skipped
        p50, p95 = statistics.median(spent), sorted(spent)[math.ceil(0.95 * runs) - 1]
        print(f"{title:42} {len(read.layers):7} {size:7.1f} {p50:8.1f} {p95:8.1f} {size / p50 * 1000:7.0f}")


def sound() -> tuple[bytes, ...]:
    """A file of each form, for the first block of Pocket SD3."""
    torch.manual_seed(SEED)

    def some(*shape: int) -> torch.Tensor:
        return torch.randn(shape).mul(0.1).half()

    files = [
        {f"{LINEAR}.lora_A.weight": some(4, 192), f"{LINEAR}.lora_B.weight": some(192, 4)},
        {
            f"{QKV}.lora_down.weight": some(4, 192), f"{QKV}.lora_up.weight": some(576, 4),
            f"{QKV}.alpha": torch.tensor(2.0), f"{LAST}.lora_down.weight": some(2, 192),
            f"{LAST}.lora_up.weight": some(384, 2), f"{LAST}.diff_b": some(384),
            f"{CONV}.lora_down.weight": some(4, 16, 1, 1), f"{CONV}.lora_mid.weight": some(4, 4, 2, 2),
            f"{CONV}.lora_up.weight": some(192, 4, 1, 1),
        },
        {
            f"{QKV}.hada_w1_a": some(576, 3), f"{QKV}.hada_w1_b": some(3, 192), f"{QKV}.hada_w2_a": some(576, 3),
            f"{QKV}.hada_w2_b": some(3, 192), f"{QKV}.alpha": torch.tensor(1.0), f"{QKV}.dora_scale": some(576, 1),
            f"{CONV}.hada_w1_a": some(2, 192), f"{CONV}.hada_w1_b": some(2, 16), f"{CONV}.hada_t1": some(2, 2, 2, 2),
            f"{CONV}.hada_w2_a": some(2, 192), f"{CONV}.hada_w2_b": some(2, 16), f"{CONV}.hada_t2": some(2, 2, 2, 2),
        },
        {
            f"{LAST}.lokr_w1": some(8, 8), f"{LAST}.lokr_w2_a": some(48, 3), f"{LAST}.lokr_w2_b": some(3, 24),
            f"{CONV}.lokr_w1_a": some(4, 2), f"{CONV}.lokr_w1_b": some(2, 4), f"{CONV}.lokr_w2": some(48, 4, 2, 2),
            f"{LAST}.dora_scale": some(1, 192),
        },
        {f"{QKV}.diff": some(576, 192), f"{QKV}.diff_b": some(576), f"{LINEAR}.diff": some(192, 192)},
    ]  # fmt: skip
    told = {"lora_adapter_metadata": '{"transformer.lora_alpha": 8, "transformer.alpha_pattern": {"attn.to_out.0": 3}}'}
    return tuple(save(tensors, told) for tensors in files)


def flipped(file: bytes, rng: random.Random) -> bytes:
    """Some bytes are others: of the header as often as of the values."""
    header = 8 + int.from_bytes(file[:8], "little")
    changed = bytearray(file)
    for _ in range(rng.randint(1, 8)):
        changed[rng.randrange(header if rng.random() < 0.5 else len(file))] = rng.randrange(256)
    return bytes(changed)


def cut(file: bytes, rng: random.Random) -> bytes:
    return file[: rng.randrange(len(file))] + rng.randbytes(rng.choice([0, 0, 10]))


def reworded(file: bytes, rng: random.Random) -> bytes:
    """A piece of the header is a piece of another place in it; its length says so."""
    length = int.from_bytes(file[:8], "little")
    header, start, end = file[8 : 8 + length], *sorted(rng.sample(range(length), 2))
    other = rng.randrange(length)
    header = header[:start] + header[other : other + rng.choice([0, 1, end - start])] + header[end:]
    return len(header).to_bytes(8, "little") + header + file[8 + length :]


def reshaped(file: bytes, rng: random.Random) -> bytes:
    """A tensor is gone, has another name, another shape, other values, or another type."""
    tensors = load(file)
    name = rng.choice(list(tensors))
    tensor = tensors.pop(name)
    key = split_key(name)
    assert key is not None
    match rng.randrange(6):
        case 0:
            pass
        case 1:
            ends = [
                name.removeprefix(f"{key.layer}."),
                "alpha",
                "scalar",
                "diff",
                "diff_b",
                "lora_B.bias",
                "hada_w1_a",
                "lokr_w1",
                "lora_mid.weight",
            ]
            tensors[f"{rng.choice([key.layer, QKV, LAST, CONV, LINEAR])}.{rng.choice(ends)}"] = tensor
        case 2:
            tensors[name] = rng.choice(list(load(file).values()))
        case 3:
            shapes: list[Callable[[torch.Tensor], torch.Tensor]] = [
                lambda t: t.flatten(), lambda t: t[:0], lambda t: t[:1], lambda t: t[None], lambda t: t[..., None],
                lambda t: t.T if t.ndim == 2 else t.flatten()[:1].reshape(()), lambda t: torch.cat([t.flatten()] * 3),
            ]  # fmt: skip
            tensors[name] = rng.choice(shapes)(tensor if tensor.ndim else tensor[None])
        case 4:
            values = tensor.float().flatten()
            values[rng.randrange(values.numel())] = rng.choice([math.nan, math.inf, -math.inf, 1e38, 1e5, 6e4, 1e-45])
            tensors[name] = values.reshape(tensor.shape) * rng.choice([1, -1, 0, 1e10])
        case 5:
            types = [torch.float64, torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16, torch.int32, torch.bool]
            tensors[name] = tensor.to(rng.choice(types))
    return save({key: value.clone().contiguous() for key, value in tensors.items()})


def mutated(files: tuple[bytes, ...], rng: random.Random) -> bytes:
    """One of the files with one thing changed."""
    return rng.choice([flipped, cut, reworded, reshaped, reshaped, reshaped])(rng.choice(files), rng)


class Bystander:
    """A small model with a LoRA blended in, which no other file's fate may change."""

    def __init__(self, folder: Path) -> None:
        torch.manual_seed(SEED)
        self.model = SD3Transformer2DModel(
            sample_size=4, in_channels=16, out_channels=16, num_layers=1, attention_head_dim=64, num_attention_heads=3,
            joint_attention_dim=320, caption_projection_dim=192, pooled_projection_dim=320, pos_embed_max_size=4,
        ).half()  # fmt: skip
        self._blender = Blender(weights_of({"transformer": self.model}))
        self._path = folder / "mutated.safetensors"
        self._path.write_bytes(sound()[1])
        self._own = Ingredient(parse_lora(self._path, "0" * 64, "its own", "pocket-sd3"), "its own", 1.0, 1.0)
        self._blender.apply([self._own])
        self._before = [bits.clone() for bits in self._bits()]

    def meets(self, file: bytes) -> str:
        """Blends a file beside its own and takes it out again; what came of it. Raises whatever is not meant to be."""
        self._path.write_bytes(file)
        sha256 = hashlib.sha256(file).hexdigest()
        try:
            lora = parse_lora(self._path, sha256, "it", "pocket-sd3")
            self._blender.apply([self._own, Ingredient(lora, "it", -1.5, 1.0)], allow_partial=True)
        except LoomError as error:
            return type(error).__name__
        finally:
            self._blender.apply([self._own])
        return "blended"

    def is_as_before(self) -> bool:
        """To the bit: as whole numbers, in which -0 is not 0."""
        return all(map(torch.equal, self._bits(), self._before))

    def _bits(self) -> list[torch.Tensor]:
        return [tensor.view(torch.int16) for tensor in self.model.state_dict().values()]


def count_mutations(folder: Path, count: int) -> None:
    rng, files, bystander = random.Random(SEED), sound(), Bystander(folder)
    fates: Counter[str] = Counter()
    traces = 0
    began = time.perf_counter()
    for _ in range(count):
        try:
            fates[bystander.meets(mutated(files, rng))] += 1
        except Exception as error:  # noqa: BLE001 (to count them is the point)
            fates["crashed"] += 1
            print(repr(error))
        traces += not bystander.is_as_before()
    print(f"\n{'mutated files':42} {count:7}")
    for fate, times in fates.most_common():
        print(f"  {fate:40} {times:7}")
    print(f"{'weights that were not as before':42} {traces:7}")
    print(f"{'seconds':42} {time.perf_counter() - began:7.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20, help="how often each file is parsed")
    parser.add_argument("--mutations", type=int, nargs="?", const=10_000, default=0, help="how many files to try")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        time_parsing(Path(folder), wanted.runs)
        if wanted.mutations:
            count_mutations(Path(folder), wanted.mutations)


if __name__ == "__main__":
    main()
