"""Modes: the three ways a pipeline is asked for a picture: from noise, over a picture, and inside a mask of one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import AutoPipelineForImage2Image
from PIL import Image

from core.messages import Over, Raster
from core.pictures import within
from core.request import GenerationRequest


class FromNoise:
    """txt2img. `inputs` are what its call takes beside the prompt and the settings of the steps."""

    def __init__(self, pipeline: Any, request: GenerationRequest) -> None:
        self.pipeline = pipeline
        self.inputs: dict[str, Any] = {"width": request.width, "height": request.height}

    def kept(self, latents: torch.Tensor) -> torch.Tensor:
        """The latents behind a step, where some of them stay as they are given."""
        return latents

    def whole(self, drawn: Raster, row: int) -> Raster:
        """The picture of a row of the batch at the end."""
        return drawn


class OverPicture(FromNoise):
    """img2img: diffusers' class for it, which noises the picture and runs the last `request.steps_run` of the steps."""

    def __init__(self, pipeline: Any, request: GenerationRequest, overs: Sequence[Over]) -> None:
        super().__init__(pipeline, request)
        # AutoPipeline shares the components and keeps their dtype; the class's own from_pipe makes them float32.
        self.pipeline = AutoPipelineForImage2Image.from_pipe(pipeline)
        self.pipeline.set_progress_bar_config(disable=True)
        taken = {} if hasattr(pipeline, "unet") else self.inputs  # a UNet's class takes the size from the picture
        self.inputs = taken | {
            "image": [Image.frombytes("RGB", (o.picture.width, o.picture.height), o.picture.data) for o in overs],
            "strength": self._strength(request),
        }
        self._overs = overs

    def _strength(self, request: GenerationRequest) -> float:
        """What makes diffusers run exactly `steps_run`: its UNet classes round the steps down, SD3's round them up."""
        half = 0.5 if hasattr(self.pipeline, "unet") else -0.5
        return min(1.0, (request.steps_run + half) / request.steps)


class InMask(OverPicture):
    """Inpainting with a model that was not trained for it: behind each step, what the mask keeps is put back as the
    picture has it at that noise (as diffusers' inpainting classes do, which refuse latents of 16 channels for SDXL)."""

    def __init__(self, pipeline: Any, request: GenerationRequest, overs: Sequence[Over]) -> None:
        super().__init__(pipeline, request, overs)
        over = overs[0]  # one mask for all rows
        assert over.mask is not None
        pixels = torch.frombuffer(bytearray(over.mask), dtype=torch.uint8).reshape(
            1, 1, over.picture.height, over.picture.width
        )
        cells = torch.nn.functional.max_pool2d(pixels.float() / 255, self.pipeline.vae_scale_factor)
        self._mask = cells  # a cell is drawn anew as soon as one of its pixels is
        self._listen()

    def _listen(self) -> None:
        """The pipeline draws the noise and encodes the picture itself; both pass by where it mixes them."""
        scheduler = self.pipeline.scheduler
        name = "scale_noise" if hasattr(scheduler, "scale_noise") else "add_noise"
        self._noised = getattr(scheduler, name)

        def listened(clean: torch.Tensor, first: Any, second: Any) -> torch.Tensor:
            # (picture, noise, timestep) by name of add_noise; flow matching has the timestep in the middle
            self._clean, self._noise = clean, (second if name == "scale_noise" else first)
            mixed: torch.Tensor = self._noised(clean, first, second)
            return mixed

        self._swapped = name == "scale_noise"
        setattr(scheduler, name, listened)

    def kept(self, latents: torch.Tensor) -> torch.Tensor:
        scheduler = self.pipeline.scheduler
        there = self._clean
        if scheduler.step_index < len(scheduler.timesteps):
            timestep = scheduler.timesteps[scheduler.step_index][None]
            order = (timestep, self._noise) if self._swapped else (self._noise, timestep)
            there = self._noised(self._clean, *order)
        mask = self._mask.to(latents)
        return mask * latents + (1 - mask) * there.to(latents)

    def whole(self, drawn: Raster, row: int) -> Raster:
        return within(drawn, self._overs[row])


def mode_for(pipeline: Any, request: GenerationRequest, overs: Sequence[Over]) -> FromNoise:
    """One batch's way, over a picture for each row or over none; the pipeline's scheduler is fresh."""
    if not overs:
        return FromNoise(pipeline, request)
    return (OverPicture if overs[0].mask is None else InMask)(pipeline, request, overs)
