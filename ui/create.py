"""The Create tab: a prompt, a blend and a model become pictures with their recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

import gradio as gr
from gradio.blocks import Block

from core.base_models import BASE_MODELS, BaseModel
from core.errors import Cancelled
from core.request import LONGEST_PROMPT
from core.studio import Generated, Studio
from ui import recipe_view, stage, texts
from ui.about import POCKET_LINE, about_html
from ui.address import address_of
from ui.blend_rows import blend_rows, refitted
from ui.durations import in_short
from ui.estimate import Estimate, usual_time
from ui.examples import Examples
from ui.faults import fault_html
from ui.folds import fold
from ui.form import Form, pictures_in, raw_request
from ui.further import Further
from ui.open_recipe import OpenRecipe
from ui.over_picture import OverPicture
from ui.overlap import Overlap
from ui.pictures import gallery_items
from ui.recall import Recall
from ui.reuse import Reuse
from ui.runs import DRAWS, Pace, Runs
from ui.save_blend import SaveBlend
from ui.settings import Settings
from ui.take_away import take_away_html
from ui.visitors import Visitors
from ui.words import PocketWords, examples_html, words_html

_PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
_SHOW_EXAMPLES = f'<button type="button" class="quiet" aria-expanded="false">{texts.EXAMPLES}</button>'


class CreateTab:
    """Lays out the tab and answers its events. Holds nothing of a visitor: that lives in their session."""

    def __init__(
        self, studio: Studio, runs: Runs, words: PocketWords, visitors: Visitors, dataset: str | None = None
    ) -> None:
        self.studio, self.runs, self.visitors = studio, runs, visitors
        entry = BASE_MODELS[studio.default_model]
        with gr.Column(elem_id="create"):
            with gr.Column(elem_id="ask"):
                self.opening = OpenRecipe(studio, visitors)
                gr.HTML(_SHOW_EXAMPLES, elem_id="show-blends", apply_default_css=False)
                prompt = _prompt(words)
                self.generate = gr.Button(texts.GENERATE, variant="primary", size="lg", elem_id="generate")
                self.cancel = gr.Button(texts.CANCEL, variant="stop", size="lg", elem_id="cancel", visible=False)
                self.notice = gr.HTML(elem_id="notice", apply_default_css=False)
            with gr.Column(elem_id="picture"):
                self.gallery = gr.Gallery(
                    format="png", show_label=False, preview=True, object_fit="contain", interactive=False,
                    buttons=["download", "fullscreen"], elem_id="gallery",
                )  # fmt: skip
                self.stage = gr.HTML(stage.EMPTY, elem_id="stage", apply_default_css=False)
                self.examples = Examples(studio, visitors)
                self.reuse = Reuse(self.gallery)
                with fold(texts.RECIPE, "recipe-fold", opens="wide"), gr.Column():
                    self.recipe = gr.HTML(recipe_view.EMPTY, elem_id="recipe", apply_default_css=False)
                    with fold(texts.RECIPE_AS_JSON, "recipe-details", visible=False) as self.as_json:
                        self.recipe_json = gr.JSON(show_label=False, elem_id="recipe-json")
            with gr.Column(elem_id="settings"):
                model = gr.Dropdown(
                    _choices(studio), value=entry.key, label=texts.MODEL, filterable=False, elem_id="model"
                )
                self.estimate = Estimate(studio)
                self.model_note = gr.HTML(_note(entry, None), elem_id="model-note", apply_default_css=False)
                loras = blend_rows(studio.catalog.bundled(), entry)
                self.overlap = Overlap(studio, runs, visitors)
                self.settings = Settings(entry)
                with fold(texts.WORDS, "words", visible=entry.embedded) as self.words, gr.Column():
                    gr.HTML(examples_html(words) + words_html(words), elem_id="examples", apply_default_css=False)
                self.over = OverPicture()
                self.further = more = Further(entry)
                self.saving = SaveBlend(studio, runs, visitors)
                with fold(texts.KEPT, "kept"):
                    self.consent = gr.Radio(
                        [(title, name) for name, title in texts.CONSENTS.items()], value=studio.default_consent,
                        label=_kept_where(dataset), elem_id="consent",
                    )  # fmt: skip
                with fold(texts.ABOUT, "about"), gr.Column():
                    gr.HTML(about_html(studio.models()), apply_default_css=False)
        self.last_seed = gr.State(None)
        self.visitor = gr.Textbox(visible="hidden", elem_id="visitor")  # filled when the page has loaded
        self.token = gr.Textbox(type="password", visible="hidden", elem_id="hub-token")
        own = self.settings
        self.form = Form(
            prompt, own.negative_prompt, model, loras, own.width, own.height, own.steps, own.guidance, own.sampler,
            own.seed, own.images, more.upscale, more.upscale_strength, more.batch, more.lossy,
        )  # fmt: skip
        self._wire()
        self.estimate.wire(self.form)
        self.settings.wire(self.last_seed)
        self.overlap.wire(self.form, self.visitor, self.token)
        self.saving.wire(self.form, self.visitor, self.token)

    def wire(self, recall: Recall) -> None:
        """What fills the form from a recipe; a recall is made of this tab, so it comes after it."""
        self.reuse.wire(recall, self.over, self.recipe_json, self.notice)
        self.opening.wire(recall, self.visitor, self.token)
        self.examples.wire(recall, self.visitor, self.token, self.form.model, self.notice)

    def _wire(self) -> None:
        drawing = self.generate.click(
            self.draw,
            inputs_kwargs={
                "last_seed": self.last_seed, "visitor": self.visitor, "token": self.token, "consent": self.consent,
                "begun": self.over.file, "paint": self.over.paint, "strength": self.over.strength,
                **self.form.by_name(),
            },
            outputs=[
                self.stage, self.gallery, self.recipe, self.recipe_json, self.as_json, self.last_seed, self.notice,
                self.generate, self.cancel, self.reuse.chosen, self.estimate.line,
                self.form.model,
            ],
            preprocess=False,  # our schema judges the values, and its sentences name the fields
            **DRAWS,
            **_PRIVATE,
        )  # fmt: skip
        drawing.then(None, js="(recipe) => window.loom.drawn(recipe)", inputs=self.recipe_json, **_PRIVATE)
        self.cancel.click(self.stop, outputs=self.cancel, queue=False, **_PRIVATE)
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
        view = stage.Stage(pictures_in(values))
        yield {
            self.stage: view.drawing(),
            self.notice: "",
            self.generate: gr.update(visible=False),
            self.cancel: gr.update(visible=True, value=texts.CANCEL, interactive=True),
        }
        session, pace = request.session_hash or "", Pace()
        try:
            with self.runs.run(session) as stop:
                raw = raw_request(values) | self.over.asked(begun, paint, strength)
                for update in self.studio.generate(raw, self.visitors.of(request, visitor, token), stop):
                    if isinstance(update, Generated):
                        yield self._shown(update, request) | self._timed(values) | idle
                    else:
                        view.follow(update)
                        if pace.due():
                            yield {self.stage: view.drawing()}
        except Cancelled:
            yield {self.stage: stage.ended(texts.CANCELLED, last_seed is not None)} | idle
        except Exception as error:  # noqa: BLE001 - every error must give the buttons back; fault_html logs those that are bugs
            nothing = stage.ended(texts.NOTHING_DRAWN, last_seed is not None)
            yield {self.stage: nothing, self.notice: fault_html(error, values)} | idle

    def _timed(self, values: Mapping[str, Any]) -> dict[Any, Any]:
        """What is known of the time by now, in the line and in the list of models."""
        return {self.estimate.line: self.estimate.said(values), self.form.model: gr.update(choices=self.models())}

    def _shown(self, generated: Generated, request: gr.Request) -> dict[Any, Any]:
        code = self.studio.recipe_code(generated.recipe, address_of(request))
        return {
            self.stage: stage.finished(generated),
            self.gallery: gr.Gallery(gallery_items(generated, self.gallery.GRADIO_CACHE), selected_index=0),
            self.recipe: recipe_view.recipe_html(generated.recipe) + take_away_html(generated.recipe, code),
            self.recipe_json: generated.recipe.as_json(),
            self.as_json: gr.update(visible=True),
            self.last_seed: generated.recipe.seed,
            self.reuse.chosen: 0,
        }

    def stop(self, request: gr.Request) -> dict[str, Any]:
        """Sets the visitor's own stop flags; the run notices within a step and gives the buttons back itself."""
        self.runs.stop(request.session_hash or "")
        return gr.update(value=texts.CANCELLING, interactive=False)

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
        entry = BASE_MODELS[key]
        return self.settings.of_model(entry) | {
            self.model_note: gr.update(value=_note(entry, self.studio.engine.availability(key))),
            self.words: gr.update(visible=entry.embedded),
            **self.further.of_model(entry),
            self.examples.view: self.examples.of_model(entry),
        }


def _prompt(words: PocketWords) -> gr.Textbox:
    example = words.examples[0] if words.examples else ""
    return gr.Textbox(
        example, label=texts.PROMPT, lines=2, max_lines=8, max_length=LONGEST_PROMPT, elem_id="prompt",
        placeholder=texts.PROMPT_HINT, info=texts.PROMPT_FORMS,
    )  # fmt: skip


def _kept_where(dataset: str | None) -> str:
    return texts.KEEP_IN_HISTORY + (texts.KEEP_IN_DATASET.format(dataset) if dataset else "")


def _note(entry: BaseModel, why_not: str | None) -> str:
    """Why the model cannot draw here, or what it is."""
    if why_not is not None:
        return f'<p class="warning" role="alert">{escape(why_not)}</p>'
    said = POCKET_LINE if entry.embedded else escape(entry.note)
    return f"<p>{said}</p>" if said else ""


def _title(entry: BaseModel, available: bool, seconds: float | None) -> str:
    steps = "one step" if entry.steps == 1 else f"{entry.steps} steps"
    if not available:
        return f"{entry.title} · {texts.NOT_HERE}"
    return " · ".join([entry.title, steps, *([] if seconds is None else [in_short(seconds)])])


def _choices(studio: Studio) -> list[tuple[str, str]]:
    """(title, key), those that run here first, with the time that a picture takes where it was measured."""
    models = sorted(studio.models(), key=lambda model: not model["available"])
    return [
        (_title(BASE_MODELS[model["key"]], model["available"], usual_time(studio, model["key"])), model["key"])
        for model in models
    ]
