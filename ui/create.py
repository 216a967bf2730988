"""The Create tab: a prompt, a blend and a model become pictures with their recipe."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

import gradio as gr
from gradio.blocks import Block

from core.base_models import BASE_MODELS, BaseModel
from core.errors import Cancelled
from core.request import LONGEST_PROMPT
from core.samplers import SAMPLERS
from core.studio import Generated, Studio
from ui import recipe_view, stage
from ui.about import POCKET_LINE, about_html
from ui.address import address_of
from ui.blend_rows import blend_rows, refitted
from ui.form import Form, raw_request
from ui.messages import alert_html
from ui.open_recipe import OpenRecipe
from ui.over_picture import OverPicture
from ui.overlap import Overlap
from ui.pictures import gallery_items
from ui.quota import Quota
from ui.recall import Recall
from ui.reuse import Reuse
from ui.runs import DRAWS, Pace, Runs
from ui.save_blend import SaveBlend
from ui.take_away import take_away_html
from ui.visitors import Visitors
from ui.words import PocketWords, examples_html, words_html

_PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
_CONSENTS = [("Nothing", "none"), ("Recipe only", "recipe"), ("Picture", "picture")]


class CreateTab:
    """Lays out the tab and answers its events. Holds nothing of a visitor: that lives in their session."""

    def __init__(
        self, studio: Studio, runs: Runs, words: PocketWords, visitors: Visitors, dataset: str | None = None
    ) -> None:
        self.studio, self.runs, self.visitors = studio, runs, visitors
        entry = BASE_MODELS[studio.default_model]
        with gr.Column(elem_id="create"):
            with gr.Column(elem_id="ask"):
                prompt, negative_prompt = _prompts(entry, words)
                self.generate = gr.Button("Generate", variant="primary", size="lg", elem_id="generate")
                self.cancel = gr.Button("Cancel", variant="stop", size="lg", elem_id="cancel", visible=False)
                self.quota = Quota(studio)
                self.notice = gr.HTML(elem_id="notice", apply_default_css=False)
                gr.HTML(examples_html(words), elem_id="examples", apply_default_css=False)
            with gr.Column(elem_id="picture"):
                self.gallery = gr.Gallery(
                    format="png", show_label=False, preview=True, object_fit="contain", interactive=False,
                    buttons=["download", "fullscreen"], elem_id="gallery",
                )  # fmt: skip
                self.stage = gr.HTML(stage.EMPTY, elem_id="stage", apply_default_css=False)
                self.reuse = Reuse(self.gallery)
                self.recipe = gr.HTML(recipe_view.EMPTY, elem_id="recipe", apply_default_css=False)
                self.as_json = gr.Accordion("Recipe as JSON", open=False, visible=False, elem_id="recipe-details")
                with self.as_json:
                    self.recipe_json = gr.JSON(show_label=False, elem_id="recipe-json")
                self.opening = OpenRecipe(studio, visitors)
            with gr.Column(elem_id="settings"):
                model = gr.Dropdown(_choices(studio), value=entry.key, label="Model", filterable=False, elem_id="model")
                self.model_note = gr.HTML(_note(entry, None), elem_id="model-note", apply_default_css=False)
                self.words = gr.Accordion("Words it understands", open=False, visible=entry.embedded, elem_id="words")
                with self.words:
                    gr.HTML(words_html(words), apply_default_css=False)
                loras = blend_rows(studio.catalog.bundled(), entry)
                self.overlap = Overlap(studio, runs, visitors)
                self.saving = SaveBlend(studio, runs, visitors)
                width, height, steps, guidance = _sliders(entry)
                self.guidance_note = gr.HTML(_guidance_note(entry), elem_id="guidance-note", apply_default_css=False)
                sampler = gr.Dropdown(**_samplers(entry), label="Sampler", filterable=False, elem_id="sampler")
                with gr.Row(elem_id="seed-row"):
                    seed = gr.Number(-1, label="Seed", info="-1 is a new one each time", precision=0, elem_id="seed")
                    self.dice = gr.Button("⚄ Random", size="sm", elem_id="dice")
                    self.recycle = gr.Button("↺ Last", size="sm", elem_id="recycle")
                images = gr.Slider(1, 8, 1, step=1, label="Pictures", elem_id="images")
                self.over = OverPicture()
                self.consent = gr.Radio(
                    _CONSENTS, value=studio.default_consent, label=_kept_where(dataset), elem_id="consent",
                )  # fmt: skip
        with gr.Accordion("Models, and how to get real ones", open=False, elem_id="about"):
            gr.HTML(about_html(studio.models()), apply_default_css=False)
        self.last_seed = gr.State(None)
        self.visitor = gr.Textbox(visible="hidden", elem_id="visitor")  # filled when the page has loaded
        self.token = gr.Textbox(type="password", visible="hidden", elem_id="hub-token")
        self.form = Form(prompt, negative_prompt, model, loras, width, height, steps, guidance, sampler, seed, images)
        self._wire()
        self.quota.wire(self.form)
        self.overlap.wire(self.form, self.visitor, self.token)
        self.saving.wire(self.form, self.visitor, self.token)

    def wire(self, recall: Recall) -> None:
        """What fills the form from a recipe; a recall is made of this tab, so it comes after it."""
        self.reuse.wire(recall, self.over, self.recipe_json, self.notice)
        self.opening.wire(recall, self.visitor, self.token)

    def _wire(self) -> None:
        self.generate.click(
            self.draw,
            inputs_kwargs={
                "last_seed": self.last_seed, "visitor": self.visitor, "token": self.token, "consent": self.consent,
                "begun": self.over.file, "paint": self.over.paint, "strength": self.over.strength,
                **self.form.by_name(),
            },
            outputs=[
                self.stage, self.gallery, self.recipe, self.recipe_json, self.as_json, self.last_seed, self.notice,
                self.generate, self.cancel, self.reuse.row, self.reuse.chosen,
            ],
            preprocess=False,  # our schema judges the values, and its sentences name the fields
            **DRAWS,
            **_PRIVATE,
        )  # fmt: skip
        self.cancel.click(self.stop, outputs=self.cancel, queue=False, **_PRIVATE)
        self.dice.click(None, js="() => -1", outputs=self.form.seed)
        self.recycle.click(_reused, inputs=self.last_seed, outputs=self.form.seed, queue=False, **_PRIVATE)
        self.form.model.input(
            self.choose,
            inputs=[self.form.model, self.form.loras],
            outputs=[self.form.loras, *self.of_model(self.studio.default_model)],
            queue=False,
            **_PRIVATE,
        )

    def draw(
        self,
        request: gr.Request,
        last_seed: int | None,
        visitor: Any,
        token: Any,
        begun: Any,
        paint: Any,
        strength: Any,
        **values: Any,
    ) -> Iterator[dict[Any, Any]]:
        """Draws what the form says; ends with the buttons as they were, whatever happens."""
        idle = {self.generate: gr.update(visible=True), self.cancel: gr.update(visible=False)}
        images = values.get("images")
        view = stage.Stage(int(images) if isinstance(images, int | float) else 1)
        yield {
            self.stage: view.drawing(),
            self.notice: "",
            self.generate: gr.update(visible=False),
            self.cancel: gr.update(visible=True, value="Cancel", interactive=True),
        }
        session, pace = request.session_hash or "", Pace()
        try:
            with self.runs.run(session) as stop:
                raw = raw_request(values) | self.over.asked(begun, paint, strength)
                for update in self.studio.generate(raw, self.visitors.of(request, visitor, token), stop):
                    if isinstance(update, Generated):
                        yield self._shown(update, request) | idle
                    else:
                        view.follow(update)
                        if pace.due():
                            yield {self.stage: view.drawing()}
        except Cancelled:
            yield {self.stage: stage.ended("Cancelled.", last_seed is not None)} | idle
        except Exception as error:  # noqa: BLE001 - every error must give the buttons back; alert_html logs those that are bugs
            nothing = stage.ended("Nothing was drawn.", last_seed is not None)
            yield {self.stage: nothing, self.notice: alert_html(error)} | idle

    def _shown(self, generated: Generated, request: gr.Request) -> dict[Any, Any]:
        code = self.studio.recipe_code(generated.recipe, address_of(request))
        return {
            self.stage: stage.finished(generated),
            self.gallery: gr.Gallery(gallery_items(generated, self.gallery.GRADIO_CACHE), selected_index=0),
            self.recipe: recipe_view.recipe_html(generated.recipe) + take_away_html(generated.recipe, code),
            self.recipe_json: generated.recipe.as_json(),
            self.as_json: gr.update(visible=True),
            self.last_seed: generated.recipe.seed,
            self.reuse.row: gr.update(visible=True),
            self.reuse.chosen: 0,
        }

    def stop(self, request: gr.Request) -> dict[str, Any]:
        """Sets the visitor's own stop flags; the run notices within a step and gives the buttons back itself."""
        self.runs.stop(request.session_hash or "")
        return gr.update(value="Cancelling …", interactive=False)

    def left(self, request: gr.Request) -> None:
        """A closed tab stops its runs: nobody waits for them."""
        self.runs.stop(request.session_hash or "")
        self.overlap.left(request)
        self.saving.left(request)

    def models(self) -> list[tuple[str, str]]:
        """What the form offers to choose from now, fine-tunes that are known by now among them."""
        return _choices(self.studio)

    def choose(self, key: str, loras: Any) -> dict[Any, Any]:
        """A model brings its own defaults and ranges; what does not fit it is kept, and said."""
        return self.of_model(key) | {self.form.loras: refitted(loras, key)}

    def of_model(self, key: str) -> dict[Block, dict[str, Any]]:
        """What follows from the choice of a model alone, as updates by component."""
        entry, form = BASE_MODELS[key], self.form
        return {
            form.negative_prompt: _negative(entry),
            form.width: gr.update(value=entry.side, maximum=entry.largest_side),
            form.height: gr.update(value=entry.side, maximum=entry.largest_side),
            form.steps: _ranged(entry.steps, entry.steps_range),
            form.guidance: _ranged(entry.guidance, entry.guidance_range),
            form.sampler: gr.update(**_samplers(entry)),
            self.guidance_note: gr.update(value=_guidance_note(entry)),
            self.model_note: gr.update(value=_note(entry, self.studio.engine.availability(key))),
            self.words: gr.update(visible=entry.embedded),
        }


def _prompts(entry: BaseModel, words: PocketWords) -> tuple[gr.Textbox, gr.Textbox]:
    example = words.examples[0] if words.examples else ""
    prompt = gr.Textbox(
        example, label="Prompt", lines=3, max_lines=8, max_length=LONGEST_PROMPT, elem_id="prompt",
        placeholder="What to draw; Ctrl+Enter generates",
    )  # fmt: skip
    held = _negative(entry)
    negative = gr.Textbox(
        label="Negative prompt", lines=1, max_lines=4, max_length=LONGEST_PROMPT, elem_id="negative-prompt",
        placeholder=held["placeholder"], interactive=held["interactive"],
    )  # fmt: skip
    return prompt, negative


def _negative(entry: BaseModel) -> dict[str, Any]:
    said = entry.notes.get("negative_prompt", "What to keep out (optional)")
    return gr.update(interactive=entry.takes_negative_prompt, placeholder=said)


def _sliders(entry: BaseModel) -> tuple[gr.Slider, gr.Slider, gr.Slider, gr.Slider]:
    with gr.Row(elem_classes="pair"):
        width = gr.Slider(64, entry.largest_side, entry.side, step=16, label="Width", elem_id="width")
        height = gr.Slider(64, entry.largest_side, entry.side, step=16, label="Height", elem_id="height")
    with gr.Row(elem_classes="pair"):
        steps = gr.Slider(*entry.steps_range, entry.steps, step=1, label="Steps", elem_id="steps")
        guidance = gr.Slider(
            **_bounds(entry.guidance_range), value=entry.guidance, step=0.1, label="Guidance", elem_id="guidance"
        )
    return width, height, steps, guidance


def _kept_where(dataset: str | None) -> str:
    return "Keep in History" + (f" and in the dataset {dataset}" if dataset else "")


def _samplers(entry: BaseModel) -> dict[str, Any]:
    """Of a dropdown, which hides where there is nothing to choose."""
    choices = [(SAMPLERS[name].title, name) for name in entry.samplers]
    return {"choices": choices, "value": entry.samplers[0], "visible": len(choices) > 1}


def _ranged(value: float, allowed: tuple[float, float]) -> dict[str, Any]:
    return gr.update(value=value, **_bounds(allowed))


def _bounds(allowed: tuple[float, float]) -> dict[str, Any]:
    """Of a slider; Gradio's has two ends even where there is but one value to choose: locked there, at its lower."""
    low, high = allowed
    return {"minimum": low, "maximum": max(high, low + 1), "interactive": low < high}


def _guidance_note(entry: BaseModel) -> str:
    """Why guidance is held low, under its slider."""
    note = entry.notes.get("guidance")
    return f'<p class="hint">{escape(note)}</p>' if note else ""


def _note(entry: BaseModel, why_not: str | None) -> str:
    """Why the model cannot draw here, or what it is."""
    if why_not is not None:
        return f'<p class="warning" role="alert">{escape(why_not)}</p>'
    said = escape(entry.note) + (f" {POCKET_LINE}" if entry.embedded else "")
    return f"<p>{said}</p>" if said else ""


def _title(entry: BaseModel, available: bool) -> str:
    steps = "one step" if entry.steps == 1 else f"{entry.steps} steps"
    return f"{entry.title} · {steps}" if available else f"{entry.title} · not on this machine"


def _choices(studio: Studio) -> list[tuple[str, str]]:
    """(title, key), those that run here first."""
    models = sorted(studio.models(), key=lambda model: not model["available"])
    return [(_title(BASE_MODELS[model["key"]], model["available"]), model["key"]) for model in models]


def _reused(last_seed: int | None) -> int:
    return -1 if last_seed is None else last_seed
