"""The transformers of Stable Diffusion 3 and FLUX.1, as layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lora_catalog.families.weights import Weight, one

SINUSOIDS = 256  # numbers that a timestep is told in


def _embedder(path: str, original: str, names: tuple[str, str], width: int, inputs: int) -> Iterator[Weight]:
    yield one(f"time_text_embed.{path}.linear_1", (width, inputs), f"{original}.{names[0]}")
    yield one(f"time_text_embed.{path}.linear_2", (width, width), f"{original}.{names[1]}")


def _fused(home: str, names: tuple[str, ...], width: int, *originals: str) -> Weight:
    return Weight(tuple(f"{home}.{name}" for name in names), ((width, width),) * len(names), originals)


_QKV = ("to_q", "to_k", "to_v")
_ADDED_QKV = ("add_q_proj", "add_k_proj", "add_v_proj")


@dataclass(frozen=True, slots=True)
class MMDiT:
    """diffusers' SD3Transformer2DModel by its measures; the original names are those of Stability's sd3-ref.

    `dual`: so many of the first blocks have a second attention to the picture alone (SD3.5 medium's MMDiT-X).
    `joint` is the width of a text token, `pooled` that of the pooled text.
    """

    width: int
    blocks: int
    dual: int = 0
    joint: int = 4096
    pooled: int = 2048
    channels: int = 16

    def weights(self) -> Iterator[Weight]:
        width = self.width
        yield one("pos_embed.proj", (width, self.channels, 2, 2), "x_embedder.proj")
        yield from _embedder("timestep_embedder", "t_embedder", ("mlp.0", "mlp.2"), width, SINUSOIDS)
        yield from _embedder("text_embedder", "y_embedder", ("mlp.0", "mlp.2"), width, self.pooled)
        yield one("context_embedder", (width, self.joint))
        for number in range(self.blocks):
            yield from self._picture(number)
            yield from self._context(number, last=number + 1 == self.blocks)
        yield one("norm_out.linear", (2 * width, width), "final_layer.adaLN_modulation.1", swapped=True)
        yield one("proj_out", (4 * self.channels, width), "final_layer.linear")

    def _picture(self, number: int) -> Iterator[Weight]:
        block, original, width = f"transformer_blocks.{number}", f"joint_blocks.{number}.x_block", self.width
        dual = number < self.dual
        yield one(f"{block}.norm1.linear", ((9 if dual else 6) * width, width), f"{original}.adaLN_modulation.1")
        for attention in ("attn", "attn2")[: 2 if dual else 1]:
            yield _fused(f"{block}.{attention}", _QKV, width, f"{original}.{attention}.qkv")
            yield one(f"{block}.{attention}.to_out.0", (width, width), f"{original}.{attention}.proj")
        yield from self._mlp(f"{block}.ff", f"{original}.mlp")

    def _context(self, number: int, last: bool) -> Iterator[Weight]:
        block, original, width = f"transformer_blocks.{number}", f"joint_blocks.{number}.context_block", self.width
        norm = (2 if last else 6) * width  # nothing reads the text behind the last block
        yield one(f"{block}.norm1_context.linear", (norm, width), f"{original}.adaLN_modulation.1", swapped=last)
        yield _fused(f"{block}.attn", _ADDED_QKV, width, f"{original}.attn.qkv")
        if not last:
            yield one(f"{block}.attn.to_add_out", (width, width), f"{original}.attn.proj")
            yield from self._mlp(f"{block}.ff_context", f"{original}.mlp")

    def _mlp(self, path: str, original: str) -> Iterator[Weight]:
        yield one(f"{path}.net.0.proj", (4 * self.width, self.width), f"{original}.fc1")
        yield one(f"{path}.net.2", (self.width, 4 * self.width), f"{original}.fc2")


@dataclass(frozen=True, slots=True)
class Flux:
    """diffusers' FluxTransformer2DModel by its measures; the original names are those of black-forest-labs/flux.

    `qkv_lora1` (the picture) and `qkv_lora2` (the text) of double blocks, and `qkv` and `proj` of single ones, are
    XLabs' names, whose trainer wraps the attention processors.
    """

    width: int = 3072
    double: int = 19
    single: int = 38
    joint: int = 4096
    pooled: int = 768
    channels: int = 64

    def weights(self) -> Iterator[Weight]:
        width, names = self.width, ("in_layer", "out_layer")
        yield one("x_embedder", (width, self.channels), "img_in")
        yield one("context_embedder", (width, self.joint), "txt_in")
        yield from _embedder("timestep_embedder", "time_in", names, width, SINUSOIDS)
        yield from _embedder("guidance_embedder", "guidance_in", names, width, SINUSOIDS)
        yield from _embedder("text_embedder", "vector_in", names, width, self.pooled)
        for number in range(self.double):
            block, original = f"transformer_blocks.{number}", f"double_blocks.{number}"
            yield from self._stream(block, original, ("img", "lora1"), ("norm1", "ff", "to_out.0"), _QKV)
            yield from self._stream(
                block, original, ("txt", "lora2"), ("norm1_context", "ff_context", "to_add_out"), _ADDED_QKV
            )
        for number in range(self.single):
            yield from self._single(f"single_transformer_blocks.{number}", f"single_blocks.{number}")
        yield one("norm_out.linear", (2 * width, width), "final_layer.adaLN_modulation.1", swapped=True)
        yield one("proj_out", (self.channels, width), "final_layer.linear")

    def _stream(
        self, block: str, original: str, names: tuple[str, str], parts: tuple[str, str, str], qkv: tuple[str, ...]
    ) -> Iterator[Weight]:
        width, (stream, xlabs), (norm, mlp, out) = self.width, names, parts
        home = f"{original}.{stream}"
        yield one(f"{block}.{norm}.linear", (6 * width, width), f"{home}_mod.lin")
        yield _fused(f"{block}.attn", qkv, width, f"{home}_attn.qkv", f"{original}.qkv_{xlabs}")
        yield one(f"{block}.attn.{out}", (width, width), f"{home}_attn.proj", f"{original}.proj_{xlabs}")
        yield one(f"{block}.{mlp}.net.0.proj", (4 * width, width), f"{home}_mlp.0")
        yield one(f"{block}.{mlp}.net.2", (width, 4 * width), f"{home}_mlp.2")

    def _single(self, block: str, original: str) -> Iterator[Weight]:
        width = self.width
        qkv = _fused(f"{block}.attn", _QKV, width, f"{original}.qkv")
        mlp = (4 * width, width)
        yield one(f"{block}.norm.linear", (3 * width, width), f"{original}.modulation.lin")
        yield qkv
        yield Weight((*qkv.paths, f"{block}.proj_mlp"), (*qkv.shapes, mlp), (f"{original}.linear1",))
        yield one(f"{block}.proj_out", (width, 5 * width), f"{original}.linear2", f"{original}.proj")
