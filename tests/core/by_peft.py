"""The reference for blends: PEFT's own unfused adapters, with weights by module that may change at every step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file

PARTS = {"pocket-sd3": ("transformer", ["to_q", "to_add_out"]), "pocket-sdxl": ("unet", ["to_k", "conv1"])}
RANK = 3
NAME = "number"  # with a number; PEFT finds an adapter by looking for its name anywhere in a parameter's


def adapted(model: torch.nn.Module, targets: list[str], part: str, folder: Path, count: int) -> list[Path]:
    """Gives the model so many adapters of random values, numbered from 0, and each as a file too."""
    files = []
    with torch.random.fork_rng():
        torch.manual_seed(3)
        for number in range(count):
            name = f"{NAME}{number}"
            config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=targets)
            inject_adapter_in_model(config, model, adapter_name=name)
            for parameter_name, parameter in model.named_parameters():
                if "lora_" in parameter_name and f".{name}." in parameter_name:
                    torch.nn.init.normal_(parameter, std=0.2)
            state = get_peft_model_state_dict(model, adapter_name=name)
            files.append(folder / f"{number}.safetensors")
            save_file({f"{part}.{key}": value.contiguous() for key, value in state.items()}, files[-1])
    return files


def weigh(model: torch.nn.Module, weight_of: Callable[[int, str], float]) -> None:
    """Every adapter counts in every module what `weight_of` says of its number and the module's path."""
    for path, module in model.named_modules():
        if isinstance(module, LoraLayer):
            module.set_adapter(list(module.lora_A))
            for name in module.scaling:
                module.scaling[name] = weight_of(int(name.removeprefix(NAME)), path)


def watched(model: torch.nn.Module, before: Callable[[int], None] = lambda step: None) -> list[torch.Tensor]:
    """What the model gives at each of the steps to come; `before` is called with each step's number."""
    seen: list[torch.Tensor] = []
    model.register_forward_pre_hook(lambda *_: before(len(seen)))
    model.register_forward_hook(lambda _, __, given: seen.append(given[0].clone()))
    return seen
