"""The UNet of Stable Diffusion 1, 2 and XL and of models cut from it, as layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lora_catalog.families.weights import Weight, one


@dataclass(frozen=True, slots=True)
class UNet:
    """diffusers' UNet2DConditionModel by its measures; the original names are those of CompVis' and Stability's code.

    `down` and `up` hold, per level and in the order in which the picture passes them, one number per residual block:
    how many transformer layers follow it, 0 for no attention. `middle` is the same for the middle, None where there
    is but one residual block. `added` is the width of SDXL's size and crop embedding with the pooled text.
    """

    widths: tuple[int, ...]
    down: tuple[tuple[int, ...], ...]
    middle: int | None
    up: tuple[tuple[int, ...], ...]
    context: int
    added: int | None = None
    linear_projection: bool = True
    channels: int = 4
    scale_shift: bool = False

    def weights(self) -> Iterator[Weight]:
        first, time = self.widths[0], 4 * self.widths[0]
        yield one("conv_in", (first, self.channels, 3, 3), "input_blocks.0.0")
        yield one("time_embedding.linear_1", (time, first), "time_embed.0")
        yield one("time_embedding.linear_2", (time, time), "time_embed.2")
        if self.added is not None:
            yield one("add_embedding.linear_1", (time, self.added), "label_emb.0.0")
            yield one("add_embedding.linear_2", (time, time), "label_emb.0.2")
        yield from self._down()
        yield from self._middle()
        yield from self._up()
        yield one("conv_out", (self.channels, first, 3, 3), "out.2")

    def _down(self) -> Iterator[Weight]:
        width, number = self.widths[0], 1  # of the original's input_blocks; the first is conv_in
        for level, (out, depths) in enumerate(zip(self.widths, self.down, strict=True)):
            home = f"down_blocks.{level}"
            for index, depth in enumerate(depths):
                yield from self._resnet(f"{home}.resnets.{index}", f"input_blocks.{number}.0", width, out)
                yield from self._attention(f"{home}.attentions.{index}", f"input_blocks.{number}.1", out, depth)
                width, number = out, number + 1
            if level + 1 < len(self.widths):
                yield one(f"{home}.downsamplers.0.conv", (out, out, 3, 3), f"input_blocks.{number}.0.op")
                number += 1

    def _middle(self) -> Iterator[Weight]:
        width = self.widths[-1]
        yield from self._resnet("mid_block.resnets.0", "middle_block.0", width, width)
        if self.middle is not None:
            yield from self._attention("mid_block.attentions.0", "middle_block.1", width, self.middle)
            yield from self._resnet("mid_block.resnets.1", "middle_block.2", width, width)

    def _up(self) -> Iterator[Weight]:
        rising = self.widths[::-1]
        width, number = rising[0], 0  # of the original's output_blocks
        for level, (out, depths) in enumerate(zip(rising, self.up, strict=True)):
            home, below = f"up_blocks.{level}", rising[min(level + 1, len(rising) - 1)]
            for index, depth in enumerate(depths):
                skip = below if index + 1 == len(depths) else out
                yield from self._resnet(f"{home}.resnets.{index}", f"output_blocks.{number}.0", width + skip, out)
                yield from self._attention(f"{home}.attentions.{index}", f"output_blocks.{number}.1", out, depth)
                width, number = out, number + 1
            if level + 1 < len(rising):
                place = 2 if depths[-1] else 1  # behind the attention, where there is one
                yield one(f"{home}.upsamplers.0.conv", (out, out, 3, 3), f"output_blocks.{number - 1}.{place}.conv")

    def _resnet(self, path: str, original: str, width: int, out: int) -> Iterator[Weight]:
        steered = 2 * out if self.scale_shift else out
        yield one(f"{path}.conv1", (out, width, 3, 3), f"{original}.in_layers.2")
        yield one(f"{path}.time_emb_proj", (steered, 4 * self.widths[0]), f"{original}.emb_layers.1")
        yield one(f"{path}.conv2", (out, out, 3, 3), f"{original}.out_layers.3")
        if width != out:
            yield one(f"{path}.conv_shortcut", (out, width, 1, 1), f"{original}.skip_connection")

    def _attention(self, path: str, original: str, width: int, depth: int) -> Iterator[Weight]:
        if not depth:
            return
        projection = (width, width) if self.linear_projection else (width, width, 1, 1)
        shapes = {"proj_in": projection}
        for layer in range(depth):
            block = f"transformer_blocks.{layer}"
            for attention, source in (("attn1", width), ("attn2", self.context)):
                shapes[f"{block}.{attention}.to_q"] = (width, width)
                shapes[f"{block}.{attention}.to_k"] = (width, source)
                shapes[f"{block}.{attention}.to_v"] = (width, source)
                shapes[f"{block}.{attention}.to_out.0"] = (width, width)
            shapes[f"{block}.ff.net.0.proj"] = (8 * width, width)  # GEGLU: values and gates
            shapes[f"{block}.ff.net.2"] = (width, 4 * width)
        shapes["proj_out"] = projection
        for name, shape in shapes.items():  # from here on both codes use the same names
            yield one(f"{path}.{name}", shape, f"{original}.{name}")
