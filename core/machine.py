"""What this machine has to draw with, found without importing torch."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from core.base_models import BASE_MODELS, BaseModel


@dataclass(frozen=True)
class Machine:
    """`device` is torch's word for it; `memory_gb` is what a model may fill; None where that is not known yet."""

    device: str
    memory_gb: float | None = None
    has_token: bool = False

    def why_not(self, entry: BaseModel) -> str | None:
        """None if `entry` can run here, else one sentence with the next step."""
        if entry.folder is not None:
            if (entry.folder / "model_index.json").is_file():
                return None
            return f"The files of {entry.title} are missing: restore models/pocket from the repository."
        if self.device == "cpu":
            return f"{entry.title} needs a GPU with about {entry.memory_gb:g} GB; this machine has none."
        if self.memory_gb is not None and self.memory_gb < entry.memory_gb:
            needed = f"{entry.title} needs about {entry.memory_gb:g} GB of GPU memory"
            return f"{needed}; this machine has {self.memory_gb:.0f}."
        if entry.gated and not self.has_token:
            return (
                f"{entry.title} is gated: accept its licence at https://huggingface.co/{entry.repo} "
                "and start with HF_TOKEN set."
            )
        return None


def best_model(machine: Machine) -> str:
    """The first real model of the table that runs here, in order of preference; `pocket-sd3` where none does."""
    wishes = ("sd3.5-large-turbo", "sd3.5-large", "sd3.5-medium", "sd3-medium", "sdxl-lcm", "ssd-1b-lcm", "sd1.5-lcm")
    return next((key for key in wishes if machine.why_not(BASE_MODELS[key]) is None), "pocket-sd3")


def survey(has_token: bool, on_zero_gpu: bool) -> Machine:
    """Looks for an accelerator; asks torch, which takes seconds to import, only where the system shows signs of one."""
    if on_zero_gpu:
        return Machine("cuda", None, has_token)
    nvidia = Path("/proc/driver/nvidia").exists() or Path("/dev/nvidiactl").exists() or sys.platform == "win32"
    if nvidia or sys.platform == "darwin":
        import torch

        if torch.cuda.is_available():
            return Machine("cuda", torch.cuda.get_device_properties(0).total_memory / 1e9, has_token)
        if torch.backends.mps.is_available():
            return Machine("mps", torch.mps.recommended_max_memory() / 1e9, has_token)
    return Machine("cpu", None, has_token)
