"""One small transformer in every way that a model can be there: resident, offloaded, compiled, quantised."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import accelerate
import torch
from bitsandbytes.nn.modules import Linear4bit, Linear8bitLt
from diffusers import SD3Transformer2DModel
from diffusers.hooks import apply_group_offloading
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch.utils._python_dispatch import TorchDispatchMode

from core.lora.changes import LowRank
from core.lora.parse import ParsedLora
from core.lora.weights import Free, free_memory

WIDTH = 64
CPU = torch.device("cpu")


def transformer() -> torch.nn.Module:
    """Always the same one."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: torch.nn.Module = SD3Transformer2DModel(
            sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=32,
            num_attention_heads=2, joint_attention_dim=16, caption_projection_dim=WIDTH, pooled_projection_dim=16,
            pos_embed_max_size=8,
        ).eval().requires_grad_(False)  # fmt: skip
        for parameter in model.parameters():  # some begin as zeros, which would hide the words
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def drawn(model: torch.nn.Module, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """What the model gives for always the same input."""
    numbers = torch.Generator().manual_seed(1)
    x, words, pooled = (
        torch.randn(shape, generator=numbers).to(dtype) for shape in ((1, 4, 8, 8), (1, 5, 16), (1, 16))
    )
    with torch.inference_mode():
        result: torch.Tensor = model(x, words, pooled, torch.tensor([500.0]).to(dtype), return_dict=False)[0]
    return result.clone()


def quantised(kind: str) -> torch.nn.Module:
    """With the Linears of its blocks in bitsandbytes' classes."""
    model = transformer()
    blocks = model.get_submodule("transformer_blocks")
    for path, linear in [(p, m) for p, m in blocks.named_modules() if isinstance(m, torch.nn.Linear)]:
        size, bias = (linear.in_features, linear.out_features), linear.bias is not None
        packed: Any
        if kind == "int8":
            packed = Linear8bitLt(*size, bias=bias, has_fp16_weights=False)
        else:
            packed = Linear4bit(*size, bias=bias, quant_type=kind, compute_dtype=torch.float32)  # type: ignore[no-untyped-call]
        packed.load_state_dict(linear.state_dict())
        above, _, name = path.rpartition(".")
        setattr(blocks.get_submodule(above), name, packed.to("cpu").requires_grad_(False))
    return model


def sequential(model: torch.nn.Module) -> torch.nn.Module:
    accelerate.cpu_offload(model, CPU)
    return model


def travelling(model: torch.nn.Module) -> torch.nn.Module:
    accelerate.cpu_offload_with_hook(model, CPU)
    return model


def grouped(kind: str) -> Callable[[torch.nn.Module], torch.nn.Module]:
    def offloaded(model: torch.nn.Module) -> torch.nn.Module:
        apply_group_offloading(model, CPU, CPU, kind, num_blocks_per_group=1)
        return model

    return offloaded


def compiled(model: torch.nn.Module) -> torch.nn.Module:
    torch.compiler.reset()
    model._repeated_blocks = ["JointTransformerBlock"]  # type: ignore[assignment]  # diffusers names none for SD3
    model.compile_repeated_blocks(backend="aot_eager")  # type: ignore[operator]
    return model


def wrapped(model: torch.nn.Module) -> torch.nn.Module:
    torch.compiler.reset()
    blocks = model.get_submodule("transformer_blocks")
    for name, block in list(blocks.named_children()):
        setattr(blocks, name, torch.compile(block, backend="eager"))
    return model


@dataclass(frozen=True)
class Way:
    """`base` gives the model, `made` puts it as it is to be; `tolerance` is what one rounding of the values may cost
    the output, as a share of its largest number."""

    made: Callable[[torch.nn.Module], torch.nn.Module] = lambda model: model
    base: Callable[[], torch.nn.Module] = transformer
    dtype: torch.dtype = torch.float32
    free: Free = free_memory
    tolerance: float = 1e-5

    def model(self) -> torch.nn.Module:
        return self.made(self.base().to(self.dtype))


WAYS = {
    "resident": Way(),
    "resident in bf16": Way(dtype=torch.bfloat16, tolerance=0.03),
    "pristine copies on the CPU": Way(free=lambda device: 0),
    "model offload": Way(travelling),
    "group offload, blocks": Way(grouped("block_level")),
    "group offload, leaves": Way(grouped("leaf_level")),
    "sequential offload": Way(sequential),
    "compiled blocks": Way(compiled),
    "wrapped by torch.compile": Way(wrapped),
    "nf4": Way(base=lambda: quantised("nf4")),
    "fp4": Way(base=lambda: quantised("fp4")),
    "int8": Way(base=lambda: quantised("int8")),
}


def by_peft(model: Any, blend: list[tuple[ParsedLora, float]]) -> torch.nn.Module:
    """The model with each LoRA as an unfused adapter of its own; LoRAs have plain factors only."""
    model.is_loaded_in_4bit = any(isinstance(module, Linear4bit) for module in model.modules())
    model.is_loaded_in_8bit = any(isinstance(module, Linear8bitLt) for module in model.modules())
    for number, (lora, weight) in enumerate(blend):
        factors = {layer.removeprefix("transformer."): change for layer, change in lora.layers.items()}
        name = f"n{number}"
        for path, change in factors.items():
            assert isinstance(change, LowRank)
            rank = len(change.down)
            inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=[path]), model, name)
            layer = model.get_submodule(path)
            layer.lora_A[name].weight.data.copy_(change.down)
            layer.lora_B[name].weight.data.copy_(change.up.reshape(layer.lora_B[name].weight.shape))
            layer.scaling[name] = weight
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.set_adapter(list(module.lora_A))
    return model  # type: ignore[no-any-return]


class Failing(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Raises an error at one of torch's operations, or some, counted from 0, before or after it is done."""

    def __init__(self, at: int, error: Exception, done: bool, times: int = 1) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._failing, self._error, self._done, self.seen = range(at, at + times), error, done, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.seen += 1
        if self.seen - 1 not in self._failing:
            return func(*args, **(kwargs or {}))
        if self._done:
            func(*args, **(kwargs or {}))
        raise self._error
