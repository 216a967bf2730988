"""A recipe as a script: for a page of LoRA Loom through gradio_client, or for plain diffusers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from core.base_models import BASE_MODELS, BaseModel
from core.lora.strength import factor_for
from core.parts import PARTS
from core.prompt_forms import texts_of
from core.recipe import Recipe, RecipeLora
from core.samplers import SAMPLERS
from core.second_pass import passes_of
from lora_catalog.reference import LoraRef

_DENOISERS = {"StableDiffusion3Pipeline": "transformer"}
_ENCODERS = {"StableDiffusionPipeline": ("text_encoder",)}  # those that diffusers puts LoRAs into


def as_python(recipe: Recipe, address: str) -> str:
    """A script that has the page at `address` (http://HOST:PORT) draw it: `pip install gradio_client` is all it needs.

    It hands the recipe back, so that weights, files and memory plan are the pinned ones; what equals a default of the
    recipe is left out, and of LoRAs what was applied.
    """
    given = {"version": recipe.version} | recipe.model_dump(mode="json", exclude_defaults=True)
    if recipe.loras:
        given["loras"] = [_asked(lora) for lora in recipe.loras]
    return "\n".join(
        [
            f"from gradio_client import Client{', handle_file' if recipe.init else ''}",
            "",
            f"client = Client({_literal(address)})",
            "pictures, recipe = client.predict(",
            "    recipe={",
            *(f"        {_literal(name)}: {_value(value)}," for name, value in given.items()),
            "    },",
            *_pictures(recipe),
            '    api_name="/generate",',
            ")",
            'print(*(picture["image"] for picture in pictures), sep="\\n")',
            "",
        ]
    )


def _pictures(recipe: Recipe) -> Iterator[str]:
    """What it is drawn over, by names that whoever has the files puts in."""
    if recipe.init is None:
        return
    files = {"image": recipe.init.sha256, "mask": recipe.init.mask_sha256}
    for name, sha256 in files.items():
        if sha256 is not None:
            yield f'    {name}=handle_file("{name}.png"),  # the file whose sha256 is {_one_line(sha256)}'


def _asked(lora: RecipeLora) -> dict[str, Any]:
    return lora.model_dump(exclude={"receipt"}, exclude_defaults=True)


def _value(value: Any) -> str:
    """LoRAs stand on a line each."""
    if isinstance(value, list):
        return "[\n" + "".join(f"            {_literal(one)},\n" for one in value) + "        ]"
    return _literal(value)


def _literal(value: Any) -> str:
    """Python, with JSON's quotes around texts: what they hold can end no string."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_literal(name)}: {_literal(one)}" for name, one in value.items()) + "}"
    return repr(value)


def as_diffusers(recipe: Recipe) -> str:
    """A script for plain diffusers that draws the same pictures but for rounding; what it cannot do, its comments say.

    The model's key must be known. Embedded models and bundled LoRAs are read from models/pocket, so that the script
    runs in the project's folder.
    """
    entry = BASE_MODELS[recipe.model.key]
    sampler = SAMPLERS[recipe.sampler]
    scheduler = sampler.scheduler
    enlarged = ["AutoPipelineForImage2Image"] if recipe.upscale else []
    changes = "".join(f", {name}={_literal(value)}" for name, value in sampler.changes.items())
    lines = [
        *_reserves(recipe),
        "import torch",
        f"from diffusers import {', '.join(sorted(filter(None, (entry.pipeline, scheduler, *enlarged))))}",
        *(["from huggingface_hub import hf_hub_download"] if entry.rest and entry.published else []),
        *(["from PIL import Image"] if enlarged else []),
        "",
        f"pipeline = {entry.pipeline}.{'from_single_file' if entry.rest else 'from_pretrained'}(",
        *(f"    {argument}," for argument in _weights(recipe, entry)),
        f").to({_literal(recipe.plan.device)})",
        *([f"pipeline.scheduler = {scheduler}.from_config(pipeline.scheduler.config{changes})"] if scheduler else []),
        *_blend(recipe, entry),
        *(["second = AutoPipelineForImage2Image.from_pipe(pipeline)"] if enlarged else []),
        *_pictures_of(recipe),
        "    picture = pipeline(",
        *(f"        {name}={value}," for name, value in _call(recipe, entry).items()),
        '        generator=torch.Generator("cpu").manual_seed(seed),',
        "    ).images[0]",
        *_second_pass(recipe, entry),
        '    picture.save(f"lora-loom-{seed}.png")',
        "",
    ]
    return "\n".join(lines)


def _second_pass(recipe: Recipe, entry: BaseModel) -> Iterator[str]:
    """The picture enlarged and drawn over once more, within the loop over the seeds."""
    if recipe.upscale is None:
        return
    asked = passes_of(recipe.request())[1]
    said = _call(recipe, entry)
    size = {name: said.pop(name) and str(getattr(asked, name)) for name in ("width", "height")}
    # diffusers rounds the steps that a strength leaves up for SD3, and down for the others
    sd3 = entry.pipeline in _DENOISERS
    strength = min(1.0, (asked.steps_run + (-0.5 if sd3 else 0.5)) / asked.steps)
    said |= (size if sd3 else {}) | {"strength": repr(strength)}
    yield "    picture = second("
    yield f"        image=picture.resize(({asked.width}, {asked.height}), Image.Resampling.LANCZOS),"
    yield from (f"        {name}={value}," for name, value in said.items())
    yield '        generator=torch.Generator("cpu").manual_seed(seed),'
    yield "    ).images[0]"


def _weights(recipe: Recipe, entry: BaseModel) -> Iterator[str]:
    """Arguments of from_pretrained, or of from_single_file."""
    dtype = recipe.plan.dtype if recipe.plan.dtype in ("float16", "bfloat16", "float32") else entry.dtype
    if entry.rest is not None:
        at = ", ".join(map(_literal, (entry.repo, entry.file)))
        commit = _literal(recipe.model.revision or entry.revision)
        yield f"hf_hub_download({at}, revision={commit})" if entry.published else _literal(entry.file)
        yield f"config={_literal(entry.rest.repo)}"
        yield f"dtype=torch.{dtype}"
        return
    yield _literal(f"models/pocket/{entry.repo}" if entry.embedded else entry.repo)
    if recipe.model.revision is not None and not entry.embedded:
        yield f"revision={_literal(recipe.model.revision)}"
    if entry.variant is not None:
        yield f"variant={_literal(entry.variant)}"
    yield f"dtype=torch.{dtype}"
    if entry.folder is not None:
        index = json.loads((entry.folder / "model_index.json").read_text(encoding="utf-8"))
        yield from (f"{part}=None" for part, kind in index.items() if kind == [None, None])


def _blend(recipe: Recipe, entry: BaseModel) -> Iterator[str]:
    heard = [lora for lora in recipe.loras if not lora.muted]
    factor = factor_for((lora.weight for lora in heard), recipe.total_strength)
    parts = [(lora.ref, _strength(lora, factor, entry)) for lora in heard]
    if recipe.model.accelerator is not None:
        parts.append((recipe.model.accelerator, "1.0"))
    for number, (ref, _) in enumerate(parts):
        yield f'pipeline.load_lora_weights({_file(LoraRef.parse(ref))}, adapter_name="lora_{number}")'
    if parts:
        names = ", ".join(f'"lora_{number}"' for number in range(len(parts)))
        yield f"pipeline.set_adapters([{names}], [{', '.join(strength for _, strength in parts)}])"
        yield ""


def _strength(lora: RecipeLora, factor: float, entry: BaseModel) -> str:
    """One number, or one by component where the text encoders' is another."""
    own = lora.weight if lora.text_encoder is None else lora.text_encoder
    words = 0.0 if lora.start > 0 else own
    has_words = lora.receipt is None or lora.receipt.text_encoder > 0
    if words == lora.weight or not has_words:
        return repr(factor * lora.weight)
    encoders = _ENCODERS.get(entry.pipeline, ("text_encoder", "text_encoder_2"))
    denoiser = _DENOISERS.get(entry.pipeline, "unet")
    return _literal({denoiser: factor * lora.weight} | dict.fromkeys(encoders, factor * words))


def _file(ref: LoraRef) -> str:
    """Arguments of load_lora_weights."""
    places: dict[str, tuple[str, str | None]] = {
        "bundled": (f"models/pocket/loras/{ref.name}", f"{ref.name}.safetensors"),
        "hub": (ref.name, ref.file),
    }
    folder, file = places.get(ref.source, (".", f"{ref.name.removesuffix('.safetensors')}.safetensors"))
    said = [_literal(folder)]
    if file is not None:
        said.append(f"weight_name={_literal(file)}")
    if ref.revision is not None:
        said.append(f"revision={_literal(ref.revision)}")
    return ", ".join(said)


def _texts(recipe: Recipe) -> list[tuple[str, str]]:
    """Prompt and negative prompt of each picture."""
    return [texts_of(recipe.prompt, recipe.negative_prompt, recipe.seed, index) for index in range(recipe.images)]


def _pictures_of(recipe: Recipe) -> Iterator[str]:
    """The head of the loop; `prompt` and `negative` are variables where pictures differ in them."""
    texts = _texts(recipe)
    if len(set(texts)) == 1:
        yield f"for seed in range({recipe.seed}, {recipe.seed + recipe.images}):"
        return
    yield "for seed, prompt, negative in ["
    for index, (prompt, negative) in enumerate(texts):
        yield f"    ({recipe.seed + index}, {_literal(prompt)}, {_literal(negative)}),"
    yield "]:"


def _call(recipe: Recipe, entry: BaseModel) -> dict[str, str]:
    """Arguments of the pipeline's call, as Python."""
    texts = _texts(recipe)
    prompt, negative = map(_literal, texts[0]) if len(set(texts)) == 1 else ("prompt", "negative")
    said = {"prompt": prompt}
    if recipe.guidance > 1 and any(negative for _, negative in texts):
        said["negative_prompt"] = negative
    numbers = {
        "num_inference_steps": recipe.steps, "guidance_scale": recipe.guidance, "width": recipe.width,
        "height": recipe.height,
    }  # fmt: skip
    if entry.t5_tokens is not None:
        numbers["max_sequence_length"] = entry.t5_tokens
    return said | {name: _literal(value) for name, value in numbers.items()}


def _reserves(recipe: Recipe) -> Iterator[str]:
    """What the script does not do, as comment lines."""
    if versions := ", ".join(f"{name} {version}" for name, version in recipe.libraries.items()):
        yield f"# Drawn with {_one_line(versions)}."
    entry = BASE_MODELS[recipe.model.key]
    if entry.rest is not None and (lacks := sorted(set(PARTS[entry.family]) - set(entry.inside))):
        own = f"lacks {', '.join(lacks)}: load these from {entry.rest.repo} and pass them too"
        yield f"# {_one_line(entry.title)} {own}."
    if entry.own is not None:
        yield f"# {_one_line(entry.title)} is a file of your own: lay it into the folder where this script runs."
    if recipe.init is not None:
        yield "# It was drawn over a picture, which this script leaves out: it draws another one."
    if recipe.plan.quantisation:
        packed = _one_line(recipe.plan.quantisation)
        yield f"# It was drawn with {packed}, which this script leaves out: pixels differ, and it takes more memory."
    if recipe.plan.batch > 1:
        yield f"# It was drawn in batches of {recipe.plan.batch}; here one by one: the last bits may differ."
    if recipe.lossy:
        yield f"# It was drawn with shortcuts, which this script leaves out: {_one_line(', '.join(recipe.lossy))}."
    for lora in recipe.loras:
        name = _one_line(lora.ref)
        if lora.muted:
            continue
        if LoraRef.parse(lora.ref).source not in ("bundled", "hub"):
            yield f"# {name} is a file of your own: lay it into the folder where this script runs."
        if lora.blocks:
            yield f"# {name} has weights by block, which this script leaves out: {_one_line(_literal(lora.blocks))}."
        if (lora.start, lora.end) != (0.0, 1.0):
            share = f"{lora.start:g} to {lora.end:g} of the steps"
            yield f"# {name} counts from {share} in LoRA Loom; here it does so in all of them."
    if recipe.loras:
        yield "# diffusers does not read every form of LoRA (kohya's of SD3, LoHa, LoKr): mind its warnings."


def _one_line(text: str) -> str:
    """Fit for a comment, whatever a forged recipe says."""
    return "".join(letter if letter.isprintable() else " " for letter in text)[:300]
