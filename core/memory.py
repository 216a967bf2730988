"""Memory plans: how a model is laid out in the memory that is free, what that costs, and how much each plan takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from core.base_models import BaseModel
from core.errors import ModelUnavailable
from core.parts import PARTS, Part
from lora_catalog.card import Family

Packing = Literal["int8", "nf4"]
Rest = Literal["device", "encoders", "parts", "layers"]

T5 = "text_encoder_3"
# Bytes per number of a packed Linear: NF4 keeps a 32-bit scale for every 64 numbers, int8 one for every row.
_PACKED: Mapping[Packing, float] = MappingProxyType({"int8": 1.0, "nf4": 0.5 + 4 / 64})
_WIDTHS = MappingProxyType({"float16": 2, "bfloat16": 2, "float32": 4})
# Estimates: numbers per pixel that a VAE's decoder holds at its widest (three maps of 256 channels, four of 128 at
# full size), and bytes per pixel that a step takes with guidance.
_DECODING = 1280
_STEP = 600
_TILE: Mapping[Family, int] = MappingProxyType({"sd1": 256, "sd2": 384, "pocket-sd3": 64, "pocket-sdxl": 64})  # px; 512
_LAYERS = 1_000_000_000  # bytes that group offload keeps on the device: the largest layer, and the next one beside it


@dataclass(frozen=True)
class MemoryPlan:
    """`does` and `costs` are clauses for people. `packed` are bitsandbytes' forms by the component's part: `t5` or
    `denoiser`. `rest` says what waits in the CPU's memory while it does nothing: nothing, the text encoders, every part
    of the pipeline, or every layer. A `tiled` VAE decodes in overlapping tiles of half its own side.
    """

    name: str
    does: str
    costs: str
    packed: Mapping[str, Packing] = field(default_factory=dict)
    without_t5: bool = False
    rest: Rest = "device"
    tiled: bool = False
    devices: tuple[str, ...] = ("cuda",)
    automatic: bool = True

    @property
    def about_t5(self) -> bool:
        """Whether it makes sense only for a model that has T5."""
        return self.without_t5 or set(self.packed) == {"t5"}

    def changes(self, entry: BaseModel) -> str:
        """What makes other pixels than the full form, by component, such as `text_encoder_3:nf4, vae:tiled`."""
        components = {*PARTS[entry.family], *((T5,) if entry.t5 else ())}
        found = [f"{name}:{form}" for name in components if (form := self.packing_of(name)) is not None]
        found += [f"{T5}:none"] if self.without_t5 and entry.t5 else []
        return ", ".join(sorted(found + (["vae:tiled"] if self.tiled else [])))

    def packing_of(self, component: str) -> Packing | None:
        return self.packed.get({T5: "t5", "transformer": "denoiser", "unet": "denoiser"}.get(component, ""))


_EVERYWHERE = ("cuda", "mps", "cpu")
_NVIDIA_AND_CPU = ("cuda", "cpu")
_PLANS = (
    MemoryPlan("full", "everything on the device", "takes the most memory", devices=_EVERYWHERE),
    MemoryPlan(
        "encoders-off", "text encoders on the device only while they read the prompt",
        "a second or more per picture, the same pixels", rest="encoders",
    ),
    MemoryPlan(
        "tiled", "everything on the device, pictures decoded in tiles",
        "pixels of large pictures differ a little where tiles meet", tiled=True, devices=_EVERYWHERE,
    ),
    MemoryPlan(
        "t5-8bit", "the T5 text encoder in 8 bits, and tiles", "slightly other pictures, prompts read more slowly",
        {"t5": "int8"}, tiled=True, devices=_NVIDIA_AND_CPU,
    ),
    MemoryPlan(
        "t5-nf4", "the T5 text encoder in 4 bits (NF4), and tiles", "slightly other pictures",
        {"t5": "nf4"}, tiled=True, devices=_NVIDIA_AND_CPU,
    ),
    MemoryPlan(
        "model-offload", "one part of the model on the device at a time, and tiles",
        "seconds per picture for moving the parts", rest="parts", tiled=True,
    ),
    MemoryPlan(
        "nf4", "the denoiser and T5 in 4 bits (NF4), and tiles", "other pictures, of somewhat less quality",
        {"t5": "nf4", "denoiser": "nf4"}, tiled=True,
    ),
    MemoryPlan(
        "group-offload", "layer by layer on the device, and tiles", "every step several times slower",
        rest="layers", tiled=True,
    ),
    MemoryPlan(
        "no-t5", "without the T5 text encoder, and tiles",
        "long prompts and written words are understood less; never chosen by itself",
        without_t5=True, tiled=True, devices=_EVERYWHERE, automatic=False,
    ),
)  # fmt: skip

PLANS: Mapping[str, MemoryPlan] = MappingProxyType({plan.name: plan for plan in _PLANS})
FULL = PLANS["full"]


def needs(entry: BaseModel, plan: MemoryPlan) -> int:
    """Bytes of the device that drawing one picture of the model's own size takes: weights as they lie, computed, and
    an estimate of what a step and the decoding hold beside them."""
    parts = dict(PARTS[entry.family])
    if plan.without_t5 or not entry.t5:
        parts.pop(T5, None)
    width = _WIDTHS[entry.dtype]
    vae = parts.pop("vae").numbers * _vae_width(entry)
    side = min(entry.side, _TILE.get(entry.family, 512)) if plan.tiled else entry.side
    decoding = side**2 * _DECODING * _vae_width(entry)
    step = entry.side**2 * _STEP
    denoiser, *encoders = (bytes_of(part, width, plan.packing_of(name)) for name, part in parts.items())
    match plan.rest:
        case "device":
            return denoiser + sum(encoders) + vae + max(step, decoding)
        case "encoders":
            return denoiser + vae + max(step, decoding, sum(encoders))
        case "parts":  # the negative prompt's first encoders find the last one still there
            return max(denoiser + step, vae + decoding, sum(encoders))
        case "layers":
            return vae + max(_LAYERS + step, decoding)


def rests(entry: BaseModel, plan: MemoryPlan) -> int:
    """Bytes of the CPU's memory in which weights wait, on a machine whose device has a memory of its own."""
    parts = dict(PARTS[entry.family])
    if plan.without_t5 or not entry.t5:
        parts.pop(T5, None)
    vae = parts.pop("vae").numbers * _vae_width(entry)
    denoiser, *encoders = (bytes_of(part, _WIDTHS[entry.dtype], plan.packing_of(name)) for name, part in parts.items())
    waiting = {"encoders": sum(encoders), "parts": denoiser + sum(encoders) + vae, "layers": denoiser + sum(encoders)}
    return waiting.get(plan.rest, 0)


def fits(entry: BaseModel, plan: MemoryPlan, free: int | None, host: int | None = None) -> bool:
    """Whether a plan can be in `free` bytes of the device and `host` bytes of the CPU's memory; None: enough."""
    return (free is None or needs(entry, plan) <= free) and (host is None or rests(entry, plan) <= host)


def bytes_of(part: Part, width: int, packing: Packing | None) -> int:
    """What a part's weights take, `width` bytes for each number that is not packed."""
    if packing is None:
        return part.numbers * width
    return int(part.linear * _PACKED[packing]) + (part.numbers - part.linear) * width


def _vae_width(entry: BaseModel) -> int:
    """In halves the decoder overflows: SD's and SDXL's are taken up into floats."""
    return 2 if entry.dtype == "bfloat16" else 4


def plans_for(entry: BaseModel, device: str) -> tuple[MemoryPlan, ...]:
    """Those that make sense for a model on a device, the best first."""
    return tuple(plan for plan in _PLANS if device in plan.devices and (entry.t5 or not plan.about_t5))


def plan_for(
    entry: BaseModel, device: str, free: int | None, wish: str | None = None, host: int | None = None
) -> MemoryPlan:
    """The wish where it makes sense for this model, else the best plan that fits into `free` bytes of the device and
    `host` bytes of the CPU's memory (None: enough).

    Raises ModelUnavailable, with the plan that would fit, where the wish or everything takes more than that.
    """
    possible = plans_for(entry, device)
    wished = next((plan for plan in possible if plan.name == wish), None)
    fitting = [plan for plan in possible if fits(entry, plan, free, host)]
    if wished in fitting:
        return wished
    automatic = next((plan for plan in fitting if plan.automatic), None)
    if wished is None and automatic is not None:
        return automatic
    asked = wished or min(possible, key=lambda plan: needs(entry, plan))
    how = f" with the plan {asked.name}" if wished else f" even with the plan {asked.name}"
    if free is not None and needs(entry, asked) > free:
        takes = f"takes about {gigabytes(needs(entry, asked))} of GPU memory{how}, and {gigabytes(free)} are free"
    else:
        takes = f"lays about {gigabytes(rests(entry, asked))} into the CPU's memory{how}, and {gigabytes(host or 0)} "
        takes += "are free there"
    if automatic is None:
        raise ModelUnavailable(f"{entry.title} {takes}: choose a smaller model.")
    there = f"takes {gigabytes(needs(entry, automatic))}"
    raise ModelUnavailable(
        f"{entry.title} {takes}: start with --plan {automatic.name}, which {there} ({automatic.costs})."
    )


def plans_making(entry: BaseModel, device: str, changes: str) -> tuple[MemoryPlan, ...]:
    """Those that draw the pixels of a recipe whose `quantisation` says `changes`."""
    return tuple(plan for plan in plans_for(entry, device) if plan.changes(entry) == changes)


def smaller_than(plan: MemoryPlan, entry: BaseModel, device: str, host: int | None = None) -> MemoryPlan | None:
    """The next of the plans that takes less of the device; None where there is none that fits beside it."""
    possible = plans_for(entry, device)
    behind = possible[possible.index(plan) + 1 :] if plan in possible else ()
    less = (other for other in behind if other.automatic and needs(entry, other) < needs(entry, plan))
    return next((other for other in less if fits(entry, other, None, host)), None)


def gigabytes(size: int) -> str:
    """For people: “27.5 GB”."""
    return f"{size / 1e9:.1f} GB"


def table_of(entry: BaseModel) -> dict[str, float]:
    """GB of a GPU that each plan takes, by its name."""
    return {plan.name: round(needs(entry, plan) / 1e9, 1) for plan in plans_for(entry, "cuda")}
