"""SAMPLERS: the ways to walk from noise to a picture, by the name that a request and a recipe have. Data, no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

Latents = Literal["flow", "ve", "vp", "renoised"]


@dataclass(frozen=True)
class Sampler:
    """`scheduler` is diffusers' class, None for the one that the model was published with; `changes` go over that
    one's config. `latents` says how its latents hold their noise (core/preview.py)."""

    title: str
    scheduler: str | None
    latents: Latents
    changes: Mapping[str, Any] = field(default_factory=dict)
    order: int = 1  # times the denoiser is asked in a step

    def passes(self, steps: int) -> int:
        """How often the denoiser is asked in so many steps: a second order's last step is a plain one."""
        return self.order * steps - (self.order - 1)


# Karras spaces sigmas between the ends of the published schedule; one rescaled to zero SNR has an end without end.
_KARRAS = {"use_karras_sigmas": True, "rescale_betas_zero_snr": False}

SAMPLERS: Mapping[str, Sampler] = MappingProxyType(
    {
        "flow-euler": Sampler("Euler", None, "flow"),
        "flow-heun": Sampler("Heun · twice the time", "FlowMatchHeunDiscreteScheduler", "flow", order=2),
        "euler": Sampler("Euler", "EulerDiscreteScheduler", "ve"),
        "euler-ancestral": Sampler(
            "Euler ancestral", "EulerAncestralDiscreteScheduler", "renoised", {"timestep_spacing": "trailing"}
        ),
        "dpm++-2m": Sampler("DPM++ 2M", "DPMSolverMultistepScheduler", "vp"),
        "dpm++-2m-karras": Sampler("DPM++ 2M Karras", "DPMSolverMultistepScheduler", "vp", _KARRAS),
        "unipc": Sampler("UniPC", "UniPCMultistepScheduler", "vp"),
        "lcm": Sampler("LCM", "LCMScheduler", "renoised"),
    }
)
