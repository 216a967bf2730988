"""Easel: a loaded pipeline with its blend; draws the pictures of one request, one by one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch

from core.base_models import BaseModel
from core.errors import Cancelled, LoomError
from core.loading import checked_revision, load_pipeline, scheduler_for
from core.lora.blend import Blender, Ingredient
from core.lora.blocks import counted
from core.lora.course import Course
from core.lora.parse import ParsedLora, parse_lora
from core.lora.stores import weights_of
from core.messages import Drawn, Job, LoraFile, Message, Preview, Progress, Raster
from core.request import GenerationRequest

MOST_PARSED = 2_000_000_000  # bytes of LoRAs kept parsed, the least recently used going first
PREVIEWS = 4  # early looks per picture, beside the finished one


class Easel:
    """One base model on one device. Not thread-safe: the engine's lock guards it."""

    def __init__(self, entry: BaseModel, device: str) -> None:
        self.entry = entry
        self.device = device
        self._revisions = {entry.key: self._checked(entry)}
        self.pipeline = load_pipeline(entry, device)
        self._published = self.pipeline.scheduler
        if self.pipeline.vae.dtype == torch.float16 and self.pipeline.vae.config.force_upcast:
            self.pipeline.vae.to(torch.float32)  # SDXL's decoder overflows in halves: black pictures
        modules = {n: c for n, c in self.pipeline.components.items() if isinstance(c, torch.nn.Module) and n != "vae"}
        self._blender = Blender(weights_of(modules))
        self._parsed: OrderedDict[str, ParsedLora] = OrderedDict()

    def revision(self, entry: BaseModel) -> str | None:
        """What names the weights of one of this base's modes, for the recipe."""
        if entry.key not in self._revisions:
            self._revisions[entry.key] = self._checked(entry)
        return self._revisions[entry.key]

    @staticmethod
    def _checked(entry: BaseModel) -> str | None:
        return checked_revision(entry) if entry.embedded else entry.revision

    def plan(self) -> dict[str, str | int | None]:
        """How it draws here, for the recipe."""
        dtype = str(self._denoiser().dtype).removeprefix("torch.")
        return {"dtype": dtype, "quantisation": None, "device": self.device, "batch": 1}

    def blend(self, job: Job) -> Course:
        """Moves the weights to the job's blend, as its first step has it."""
        family = self.entry.family
        parts = [
            Ingredient(self._parse(f), f.ref, f.weight, f.text_encoder, counted(f.blocks, family)) for f in job.loras
        ]
        self._forget({file.sha256 for file in job.loras})
        windows = [(file.start, file.end) for file in job.loras]
        return Course(self._blender, parts, windows, job.request.steps, job.request.allow_partial)

    def _parse(self, file: LoraFile) -> ParsedLora:
        if file.sha256 not in self._parsed:
            self._parsed[file.sha256] = parse_lora(file.path, file.sha256, file.ref, self.entry.family)
        self._parsed.move_to_end(file.sha256)
        return self._parsed[file.sha256]

    def _forget(self, needed: set[str]) -> None:
        """The LoRAs not used for longest, until what is kept parsed is small enough; never those of this blend."""
        while sum(lora.bytes for lora in self._parsed.values()) > MOST_PARSED and len(self._parsed) > len(needed):
            self._parsed.popitem(last=False)

    @torch.inference_mode()
    def draw(
        self, request: GenerationRequest, course: Course, stopped: Callable[[], bool], emit: Callable[[Message], None]
    ) -> tuple[Drawn, ...]:
        """The request's pictures, each from its own CPU generator, so that each can be drawn again alone."""
        pictures = []
        for index in range(request.images):
            drawn = Drawn(index, request.seed + index, self._picture(request, course, index, stopped, emit))
            emit(drawn)
            pictures.append(drawn)
        return tuple(pictures)

    def _picture(
        self,
        request: GenerationRequest,
        course: Course,
        index: int,
        stopped: Callable[[], bool],
        emit: Callable[[Message], None],
    ) -> Raster:
        every = max(2, request.steps // (PREVIEWS + 1))

        def on_step(pipeline: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
            if stopped():
                raise Cancelled("Cancelled.")
            emit(Progress("Drawing", index * request.steps + step + 1, request.images * request.steps))
            if (step + 1) % every == 0 and step + 1 < request.steps:
                emit(Preview(index, self._decoded(values["latents"])))
            course.before(step + 1)
            return values

        if stopped():
            raise Cancelled("Cancelled.")
        course.before(0)
        self.pipeline.scheduler = scheduler_for(request.sampler, self._published)
        latents = self.pipeline(
            prompt=request.prompt,
            num_inference_steps=request.steps,
            guidance_scale=request.guidance,
            width=request.width,
            height=request.height,
            generator=torch.Generator("cpu").manual_seed(request.seed + index),
            output_type="latent",
            callback_on_step_end=on_step,
            **self._family_inputs(request),
        ).images
        return self._decoded(latents)

    def _family_inputs(self, request: GenerationRequest) -> dict[str, Any]:
        inputs: dict[str, Any] = {}
        if self.entry.t5_tokens is not None:
            inputs["max_sequence_length"] = self.entry.t5_tokens
        if request.guidance > 1:
            inputs["negative_prompt"] = request.negative_prompt
        return inputs

    def _decoded(self, latents: torch.Tensor) -> Raster:
        vae = self.pipeline.vae
        unscaled = latents.to(vae.dtype) / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)
        pixels = vae.decode(unscaled, return_dict=False)[0][0].float()
        if not torch.isfinite(pixels).all():
            raise LoomError("The picture came out as noise without end (not finite): lower the LoRA weights.")
        rows = (pixels.clamp(-1, 1) + 1).mul(127.5).round().to(torch.uint8).permute(1, 2, 0).contiguous().cpu()
        return Raster(rows.shape[1], rows.shape[0], rows.numpy().tobytes())

    def _denoiser(self) -> torch.nn.Module:
        part: torch.nn.Module = getattr(self.pipeline, "transformer", None) or self.pipeline.unet
        return part
