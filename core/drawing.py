"""Easel: a loaded pipeline with its blend; draws the pictures of one request, one by one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from core.base_models import BaseModel
from core.errors import Cancelled, LoomError
from core.loading import changes_in, checked_revision, denoiser_of, load_pipeline, scheduler_for
from core.lora.blend import Blender, Ingredient
from core.lora.blocks import counted
from core.lora.course import Course
from core.lora.parse import ParsedLora, parse_lora
from core.lora.stores import weights_of
from core.memory import FULL, MemoryPlan
from core.messages import Drawn, Job, LoraFile, Message, Over, Preview, Progress, Raster
from core.modes import mode_for
from core.preview import Clearing, Looks
from core.request import GenerationRequest, request_from
from core.samplers import SAMPLERS
from core.speed import accelerated
from core.too_long import unread

MOST_PARSED = 2_000_000_000  # bytes of LoRAs kept parsed, the least recently used going first
PREVIEWS = 8  # early looks per picture, at most, beside the finished one


class Easel:
    """One base model on one device, laid out by a memory plan; `commit` is the Hub's that was asked for.

    Not thread-safe: the engine's lock guards it.
    """

    def __init__(
        self,
        entry: BaseModel,
        device: str,
        memory: MemoryPlan = FULL,
        commit: str | None = None,
        speed: str = "auto",
    ) -> None:
        self.entry, self.device, self._memory, self._asked = entry, device, memory, commit
        self._embedded = {entry.key: checked_revision(entry)} if entry.embedded else {}
        self.pipeline = load_pipeline(entry, device, memory, commit)
        self._published = self.pipeline.scheduler
        if self.pipeline.vae.dtype == torch.float16 and self.pipeline.vae.config.force_upcast:
            self.pipeline.vae.to(torch.float32)  # SDXL's decoder overflows in halves: black pictures
        self._vae_dtype = self.pipeline.vae.dtype
        if self._denoiser().dtype == torch.float32:
            self.pipeline.vae.register_to_config(force_upcast=False)  # all is in floats: nothing to cast up and back
        self.speed = accelerated(self.pipeline, entry, device, memory, speed)
        modules = {n: c for n, c in self.pipeline.components.items() if isinstance(c, torch.nn.Module) and n != "vae"}
        self._blender = Blender(weights_of(modules))
        self._parsed: OrderedDict[str, ParsedLora] = OrderedDict()

    def revision(self, entry: BaseModel) -> str:
        """What names the weights of one of this base's modes, for the recipe: the Hub's commit, or a hash."""
        if not entry.embedded:
            return Path(self.pipeline.name_or_path).name  # as the Hub's cache names its folders
        if entry.key not in self._embedded:
            self._embedded[entry.key] = checked_revision(entry)
        return self._embedded[entry.key]

    def serves(self, entry: BaseModel, memory: MemoryPlan, commit: str | None) -> bool:
        """Whether what is loaded is this model, laid out so, at this commit or None for the newest."""
        same = commit == self._asked or (commit is not None and commit == self.revision(self.entry))
        return self.entry.repo == entry.repo and self._memory == memory and same

    def plan(self) -> dict[str, str | int | None]:
        """How it draws here, for the recipe: `quantisation` says by component what makes other pixels."""
        dtype = str(self._denoiser().dtype).removeprefix("torch.")
        quantisation = changes_in(self.entry, self.pipeline) or None
        return {"dtype": dtype, "quantisation": quantisation, "device": self.device, "batch": 1}

    def blend(self, job: Job) -> Course:
        """Moves the weights to the job's blend, as its first step has it."""
        family = self.entry.family
        parts = [
            Ingredient(self._parse(f), f.ref, f.weight, f.text_encoder, counted(f.blocks, family)) for f in job.loras
        ]
        self._forget({file.sha256 for file in job.loras})
        windows = [(file.start, file.end) for file in job.loras]
        return Course(self._blender, parts, windows, job.request.steps_run, job.request.allow_partial)

    def warm_up(self) -> None:
        """Draws a picture of the model's own size in few steps, where the first one would wait for a compiler."""
        if self.speed.on:
            request = request_from({"prompt": "a lighthouse", "model": self.entry.key, "steps": 2}, self.entry.key)
            self.draw(request, self.blend(Job(request, ())), lambda: False, lambda message: None)

    def unread(self, request: GenerationRequest) -> tuple[str, ...]:
        """Sentences about what no text encoder reads of the request's texts."""
        return unread(self.pipeline, request)

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
        self,
        request: GenerationRequest,
        course: Course,
        stopped: Callable[[], bool],
        emit: Callable[[Message], None],
        over: Over | None = None,
    ) -> tuple[Drawn, ...]:
        """The request's pictures, each from its own CPU generator, so that each can be drawn again alone."""
        pictures = []
        for index in range(request.images):
            with self.speed.drawing():
                raster = self._picture(request, course, index, stopped, emit, over)
            drawn = Drawn(index, request.seed + index, raster)
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
        over: Over | None,
    ) -> Raster:
        steps, sampler = request.steps_run, SAMPLERS[request.sampler]
        passes, every = sampler.passes(steps), max(1, -(-sampler.passes(steps) // (PREVIEWS + 1)))

        def on_step(pipeline: Any, number: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
            if stopped():
                raise Cancelled("Cancelled.")
            latents = mode.kept(values["latents"])
            clear = clearing.cleared(latents)
            emit(Progress("Drawing", index * steps + number // sampler.order + 1, request.images * steps))
            if 0 < number < passes - 1 and (number + 1) % every == 0:
                emit(Preview(index, self._looks.of(clear)))
            course.before((number + 1) // sampler.order)
            return values | {"latents": latents}

        if stopped():
            raise Cancelled("Cancelled.")
        course.before(0)
        self.pipeline.scheduler = scheduler_for(request.sampler, self._published)
        mode = mode_for(self.pipeline, request, over)
        clearing = Clearing(request.sampler, self.pipeline.scheduler)
        latents = mode.pipeline(
            prompt=request.prompt,
            num_inference_steps=request.steps,
            guidance_scale=request.guidance,
            generator=torch.Generator("cpu").manual_seed(request.seed + index),
            output_type="latent",
            callback_on_step_end=on_step,
            **mode.inputs,
            **self._family_inputs(request),
        ).images
        return mode.whole(self._decoded(latents))

    @cached_property
    def _looks(self) -> Looks:
        return Looks(self.pipeline.vae)

    def _family_inputs(self, request: GenerationRequest) -> dict[str, Any]:
        inputs: dict[str, Any] = {}
        if self.entry.t5_tokens is not None:
            inputs["max_sequence_length"] = self.entry.t5_tokens
        if request.guidance > 1:
            inputs["negative_prompt"] = request.negative_prompt
        return inputs

    def _decoded(self, latents: torch.Tensor) -> Raster:
        vae = self.pipeline.vae
        if vae.dtype != self._vae_dtype:
            vae.to(self._vae_dtype)  # SDXL's img2img leaves it in halves
        unscaled = latents.to(vae.dtype) / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)
        pixels = vae.decode(unscaled, return_dict=False)[0][0].float()
        if not torch.isfinite(pixels).all():
            raise LoomError("The picture came out as noise without end (not finite): lower the LoRA weights.")
        rows = (pixels.clamp(-1, 1) + 1).mul(127.5).round().to(torch.uint8).permute(1, 2, 0).contiguous().cpu()
        return Raster(rows.shape[1], rows.shape[0], rows.numpy().tobytes())

    def _denoiser(self) -> torch.nn.Module:
        return denoiser_of(self.pipeline)
