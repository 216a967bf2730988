"""What this machine has to draw with, found without importing torch."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from core.base_models import BASE_MODELS, BaseModel
from core.errors import ModelUnavailable
from core.memory import FULL, MemoryPlan, fits, gigabytes, needs, plan_for, plans_for, plans_making, smaller_than


@dataclass(frozen=True)
class Machine:
    """`device` is torch's word for it; `memory_gb` is what a model may fill; None where that is not known yet. `plan`
    names the memory plan that is wished for, None for the best that fits. `host_gb` is what parts of a model may fill
    of the CPU's memory while they wait there, None where the system does not say."""

    device: str
    memory_gb: float | None = None
    has_token: bool = False
    plan: str | None = None
    speed: str = "auto"  # or `plain`: none of core/speed.py's switches
    host_gb: float | None = None

    def plan_of(self, entry: BaseModel, changes: str | None = None) -> MemoryPlan:
        """How `entry` is laid out here: where it fits so that the pixels are those of a recipe with these `changes`.

        Raises ModelUnavailable where the model takes too much memory.
        """
        free, host = _bytes(self.memory_gb), _bytes(self.host_gb)
        chosen = plan_for(entry, self.device, free, self.plan, host)
        alike = () if changes is None else plans_making(entry, self.device, changes)
        fitting = [plan for plan in alike if fits(entry, plan, free, host)]
        return chosen if chosen in fitting or not fitting else fitting[0]

    def smaller_plan(self, plan: MemoryPlan, entry: BaseModel) -> MemoryPlan | None:
        """What to try after a plan for which the device's memory was too little; None where nothing is left."""
        return smaller_than(plan, entry, self.device, _bytes(self.host_gb))

    def why_not(self, entry: BaseModel) -> str | None:
        """None if `entry` can run here, else one sentence with the next step."""
        if entry.folder is not None:
            if (entry.folder / "model_index.json").is_file():
                return None
            return f"The files of {entry.title} are missing: restore models/pocket from the repository."
        if self.device == "cpu":
            least = min(needs(entry, plan) for plan in plans_for(entry, "cuda"))
            most = f"{gigabytes(needs(entry, FULL))}, or {gigabytes(least)} and more time"
            return f"{entry.title} needs a GPU with about {most}; this machine has none."
        try:
            self.plan_of(entry)
        except ModelUnavailable as error:
            return str(error)
        if entry.own is not None and not entry.own.is_file():
            return f"{entry.title} is not in DATA_DIR/checkpoints any more: put it back there, or choose another model."
        locked = next((model for model in (entry, entry.rest) if model is not None and model.gated), None)
        if locked is not None and not self.has_token:
            return f"{gated(locked)} and start with HF_TOKEN set."
        return None


def _bytes(size: float | None) -> int | None:
    return None if size is None else int(size * 1e9)


def gated(entry: BaseModel) -> str:
    """The beginning of a sentence that says what to do; a clause about the token follows."""
    return f"{entry.title} is gated: accept its licence at https://huggingface.co/{entry.repo}"


def best_model(machine: Machine) -> str:
    """The first real model of the table that runs here, in order of preference; `pocket-sd3` where none does.

    One that would move its layers to the device at every step comes behind all that need not: on a small GPU the
    largest model is slow, and fills the CPU's memory too.
    """
    wishes = ("sd3.5-large-turbo", "sd3.5-large", "sd3.5-medium", "sd3-medium", "sdxl-lcm", "ssd-1b-lcm", "sd1.5-lcm")
    running = [key for key in wishes if machine.why_not(BASE_MODELS[key]) is None]
    at_speed = [key for key in running if machine.plan_of(BASE_MODELS[key]).rest != "layers"]
    return next(iter([*at_speed, *running]), "pocket-sd3")


def survey(has_token: bool, on_zero_gpu: bool, plan: str | None = None, speed: str = "auto") -> Machine:
    """Looks for an accelerator; asks torch, which takes seconds to import, only where the system shows signs of one."""
    if on_zero_gpu:
        return Machine("cuda", None, has_token, plan, "plain")  # its workers live too briefly to compile in
    nvidia = Path("/proc/driver/nvidia").exists() or Path("/dev/nvidiactl").exists() or sys.platform == "win32"
    if nvidia or sys.platform == "darwin":
        import torch

        if torch.cuda.is_available():
            return Machine("cuda", torch.cuda.mem_get_info()[0] / 1e9, has_token, plan, speed, host_memory())
        if torch.backends.mps.is_available():
            return Machine("mps", torch.mps.recommended_max_memory() / 1e9, has_token, plan)
    return Machine("cpu", None, has_token, plan)


def host_memory(root: Path = Path("/")) -> float | None:
    """GB of the CPU's memory that are free without swapping, of a container at most what it may have; None where the
    system does not say as Linux does."""
    try:
        said = (root / "proc/meminfo").read_text(encoding="ascii")
        free = next(int(line.split()[1]) * 1024 for line in said.splitlines() if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        return None
    with suppress(OSError, ValueError):  # no container, or "max": one without a limit
        free = min(free, int((root / "sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    return free / 1e9
