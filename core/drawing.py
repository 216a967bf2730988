"""Easel: a loaded pipeline with its blend; draws the pictures of one request, in batches of as many as it says."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from core.aot import Ahead, compile_ahead
from core.base_models import BaseModel
from core.decoding import Decoder
from core.errors import Cancelled
from core.loading import changes_in, checked_revision, denoiser_of, load_pipeline, scheduler_for
from core.lora.blend import Blender, Ingredient
from core.lora.blocks import counted
from core.lora.course import Course
from core.lora.parse import ParsedLora, parse_lora
from core.lora.stores import weights_of
from core.memory import FULL, MemoryPlan
from core.messages import Drawn, Job, LoraFile, Message, Over, Preview, Raster
from core.modes import mode_for
from core.preview import Clearing, Looks
from core.request import GenerationRequest, request_from
from core.samplers import SAMPLERS
from core.second_pass import Stretch, start_of, stretches_of
from core.shortcuts import shortcuts
from core.speed import accelerated
from core.together import Group, groups_of
from core.too_long import unread
from core.words_read import Embeddings, WordsRead

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
        self._decoder = Decoder(self.pipeline.vae)
        dtype = str(self._denoiser().dtype).removeprefix("torch.")
        changes = changes_in(entry, self.pipeline) or None
        self._plan = {"dtype": dtype, "quantisation": changes, "device": device, "batch": 1}
        if self._denoiser().dtype == torch.float32:
            self.pipeline.vae.register_to_config(force_upcast=False)  # all is in floats: nothing to cast up and back
        self.speed = accelerated(self.pipeline, entry, device, memory, speed)
        modules = {n: c for n, c in self.pipeline.components.items() if isinstance(c, torch.nn.Module) and n != "vae"}
        self._blender = Blender(weights_of(modules))
        self._words = WordsRead(self.pipeline, self._blender.words)
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
        return self.entry.home == entry.home and self._memory == memory and same

    def plan(self, batch: int = 1) -> dict[str, str | int | None]:
        """How it draws here, for the recipe: `quantisation` says by component what makes other pixels."""
        return self._plan | {"batch": batch}

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
        """Draws where the first picture would wait for a compiler."""
        if self.speed.on:
            self._try_out()

    def compile_ahead(self, folder: Path) -> None:
        """Compiles the denoiser's blocks into packages in a folder; takes minutes."""
        compile_ahead(self._denoiser(), self._try_out, folder)

    def take_ahead(self, folder: Path) -> int:
        """From now on runs the packages of a folder; says in how many blocks."""
        ahead = Ahead(self._denoiser(), folder)
        self.speed.put_to_sleep.append(ahead.asleep)
        return len(ahead)

    def _try_out(self) -> None:
        """A picture of the model's own size in few steps."""
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
        with self.speed.drawing(plainly=bool(request.lossy)):
            for group in groups_of(request):
                rows = [row for _, row in group.pictures]
                starts = [over] * len(group.seeds) if over else []
                *before, last = stretches_of(request, group)
                for stretch in before:
                    drawn = dict(zip(rows, self._pass(stretch, group, starts, course, stopped, emit), strict=True))
                    # rows that nobody asked for may show anything
                    firsts = [drawn.get(row, drawn[rows[0]]) for row in range(len(group.seeds))]
                    starts = [start_of(first, over, *request.result_size) for first in firsts]
                finished = self._pass(last, group, starts, course, stopped, emit)
                for (index, _), raster in zip(group.pictures, finished, strict=True):
                    pictures.append(Drawn(index, request.seed + index, raster))
                    emit(pictures[-1])
        return tuple(pictures)

    def _pass(
        self,
        stretch: Stretch,
        group: Group,
        starts: Sequence[Over],
        course: Course,
        stopped: Callable[[], bool],
        emit: Callable[[Message], None],
    ) -> Iterator[Raster]:
        """The group's pictures in their order, each as soon as it is decoded."""
        request = stretch.request
        steps, sampler = request.steps_run, SAMPLERS[request.sampler]
        passes, every = sampler.passes(steps), max(1, -(-sampler.passes(steps) // (PREVIEWS + 1)))

        def on_step(pipeline: Any, number: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
            if stopped():
                raise Cancelled("Cancelled.")
            latents = mode.kept(values["latents"])
            clear = clearing.cleared(latents)
            emit(stretch.after(number // sampler.order + 1))
            if 0 < number < passes - 1 and (number + 1) % every == 0:
                for index, row in group.pictures:
                    emit(Preview(index, looks.of(clear[row : row + 1])))
            course.before((number + 1) // sampler.order)
            return values | {"latents": latents}

        if stopped():
            raise Cancelled("Cancelled.")
        course.begin(steps)
        self.pipeline.scheduler = scheduler_for(request.sampler, self._published)
        mode = mode_for(self.pipeline, request, starts)
        looks, clearing = self._looks, Clearing(request.sampler, self.pipeline.scheduler)
        try:
            words = self._words_of(request, group)
            if stopped():
                raise Cancelled("Cancelled.")
            with shortcuts(self._denoiser(), request.lossy):
                latents = mode.pipeline(
                    num_inference_steps=request.steps,
                    guidance_scale=request.guidance,
                    generator=[torch.Generator("cpu").manual_seed(seed) for seed in group.seeds],
                    output_type="latent",
                    callback_on_step_end=on_step,
                    **mode.inputs,
                    **words,
                ).images
        except BaseException:
            self.pipeline.maybe_free_model_hooks()  # only at its own end it sends parts to where they rest
            raise
        for _, row in group.pictures:
            yield mode.whole(self._decoder.picture(latents[row : row + 1]), row)

    @cached_property
    def _looks(self) -> Looks:
        return Looks(self.pipeline.vae, self.device)

    def _words_of(self, request: GenerationRequest, group: Group) -> Embeddings:
        """What each row of a group says, one below the other."""
        texts = (request.texts_of(seed - request.seed) for seed in group.seeds)
        rows = [self._words.of(p, n if request.guidance > 1 else None, self.entry.t5_tokens) for p, n in texts]
        return {
            name: None if one is None else torch.cat([row[name] for row in rows])  # type: ignore[misc]
            for name, one in rows[0].items()
        }

    def _denoiser(self) -> torch.nn.Module:
        return denoiser_of(self.pipeline)
