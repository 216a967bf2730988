"""The text encoders of Stable Diffusion and FLUX.1, as layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lora_catalog.families.weights import Weight, one

_OLD_CLIP_NAMES = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out.0"}  # diffusers ≤ 0.16


@dataclass(frozen=True, slots=True)
class Clip:
    """transformers' CLIPTextModel by its measures; `projection` is the width behind CLIPTextModelWithProjection's last
    Linear, None where there is none.

    Paths begin with `text_model`, as published files have them, though transformers 5 dropped that from CLIPTextModel
    (and kept it in CLIPTextModelWithProjection): names without it are known as well.
    """

    width: int
    layers: int
    projection: int | None = None

    def weights(self) -> Iterator[Weight]:
        for number in range(self.layers):
            short = f"encoder.layers.{number}"
            for name, old in _OLD_CLIP_NAMES.items():
                yield self._weight(f"{short}.self_attn.{name}", 1, 1, f"text_model.{short}.self_attn.{old}")
            yield self._weight(f"{short}.mlp.fc1", 4, 1)
            yield self._weight(f"{short}.mlp.fc2", 1, 4)
        if self.projection is not None:
            yield one("text_projection", (self.projection, self.width))

    def _weight(self, short: str, rows: int, columns: int, *old: str) -> Weight:
        return one(f"text_model.{short}", (rows * self.width, columns * self.width), short, *old)


@dataclass(frozen=True, slots=True)
class T5:
    """transformers' T5EncoderModel, version 1.1 (gated), by its measures."""

    width: int
    layers: int
    inner: int

    def weights(self) -> Iterator[Weight]:
        for number in range(self.layers):
            block = f"encoder.block.{number}"
            for name in ("q", "k", "v", "o"):
                yield one(f"{block}.layer.0.SelfAttention.{name}", (self.width, self.width))
            for name in ("wi_0", "wi_1"):
                yield one(f"{block}.layer.1.DenseReluDense.{name}", (self.inner, self.width))
            yield one(f"{block}.layer.1.DenseReluDense.wo", (self.width, self.inner))
