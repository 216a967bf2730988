"""From an entry of BASE_MODELS and a memory plan to a pipeline on its device, embedded files checked first."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import accelerate
import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline
from diffusers.quantizers import PipelineQuantizationConfig

from core.base_models import POCKET, BaseModel
from core.errors import ModelFileBroken, ModelUnavailable
from core.fetching import hub_folder, hub_settings
from core.loading_single import checkpoint_of, components_in
from core.lora.quantised import kind_of
from core.memory import FULL, T5, MemoryPlan, Packing
from core.samplers import SAMPLERS

RESTORE = "restore it with “git checkout -- models/pocket” or from a fresh clone"


def checked_revision(entry: BaseModel) -> str:
    """The hash that names an embedded model's weights, its accelerator's among them, once each is as it was shipped.

    Raises ModelFileBroken naming the first file that is missing or differs.
    """
    listing = POCKET / "files.json"
    try:
        shipped: dict[str, str] = json.loads(listing.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelFileBroken(f"models/pocket/files.json is missing or torn: {RESTORE}.") from error
    parts = (f"{entry.repo}/", *([f"loras/{entry.accelerator.removeprefix('bundled:')}/"] if entry.accelerator else []))
    own = {name: sha for name, sha in sorted(shipped.items()) if name.startswith(parts)}
    for name, sha in own.items():
        if not (POCKET / name).is_file():
            raise ModelFileBroken(f"models/pocket/{name} is missing: {RESTORE}.")
        if _sha256(POCKET / name) != sha:
            raise ModelFileBroken(f"models/pocket/{name} is torn or changed: {RESTORE}.")
    return hashlib.sha256(json.dumps(own).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _quiet() -> None:
    """No bars on the terminal, no report that SDXL's first encoder leaves a shared file's projection out, and none of
    the words that a prompt has too many: what people write is never logged."""
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()


def load_pipeline(
    entry: BaseModel, device: str = "cpu", plan: MemoryPlan = FULL, revision: str | None = None
) -> DiffusionPipeline:
    """The pipeline without its accelerator, frozen, and laid out on `device` as the plan says.

    An embedded model needs no network; `revision` is a commit of the Hub. Raises ModelFileBroken or ModelUnavailable.
    The pipeline's `name_or_path` ends in what names its weights.
    """
    without = (*entry.unused, *((T5, "tokenizer_3") if plan.without_t5 else ()))
    _quiet()
    # The CPU computes halves slowly or not at all: it takes them up into floats.
    dtype = torch.float32 if device == "cpu" else getattr(torch, entry.dtype)
    given: dict[str, Any] = {}
    variant = None if entry.embedded else (entry.rest or entry).variant
    if entry.rest is None:
        folder = entry.folder or hub_folder(entry, revision, without)
    else:
        file, name = checkpoint_of(entry, revision)
        inside = tuple(part for part in entry.inside if part not in without)
        folder = hub_folder(entry.rest, None, (*without, *inside))
        hub_settings(entry.rest, folder, inside)
        if not any(folder.glob(f"*/*.{variant}.*")):
            variant = None  # the file holds all weights, and diffusers refuses a variant of which nothing is there
        given = components_in(file, entry, folder, inside, dtype, _packing_by(plan, dtype))
    try:
        pipeline = getattr(diffusers, entry.pipeline).from_pretrained(
            folder, dtype=dtype, use_safetensors=True, local_files_only=True,
            variant=variant,
            **_components(folder, without, plan, dtype, given), **given,
        )  # fmt: skip
    except OSError as error:
        raise ModelUnavailable(f"{entry.title} could not be loaded: its files on this machine are torn.") from error
    except (RuntimeError, ValueError) as error:
        if "ignore_mismatched_sizes" not in str(error):  # what both libraries advise, and nobody else says
            raise
        raise ModelUnavailable(
            f"{entry.title} could not be loaded: its weights are of other sizes than its config.json says; choose "
            "another model."
        ) from error
    if entry.rest is not None:
        pipeline.register_to_config(_name_or_path=name)
    pipeline.set_progress_bar_config(disable=True)
    for component in pipeline.components.values():
        if isinstance(component, torch.nn.Module):
            component.requires_grad_(False).eval()
    _lay_out(pipeline, device, plan)
    return pipeline


def _components(
    folder: Path, without: tuple[str, ...], plan: MemoryPlan, dtype: torch.dtype, given: Collection[str] = ()
) -> dict[str, Any]:
    """What `from_pretrained` is told of single components: which there are not, and how others are packed, but for
    those that it is given."""
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    # diffusers 0.42 wants to hear again of those that a saved pipeline says it lacks, such as SD3's T5
    told: dict[str, Any] = {name: None for name, value in index.items() if value == [None, None] or name in without}
    packed = {
        name: _packing(form, value[0], dtype)
        for name, value in index.items()
        if name not in told
        and name not in given
        and (form := plan.packing_of(name)) is not None
        and not _packed_already(folder / name)
    }
    return told | ({"quantization_config": PipelineQuantizationConfig(quant_mapping=packed)} if packed else {})


def _packing_by(plan: MemoryPlan, dtype: torch.dtype) -> Callable[[str, str], Any]:
    def packing(component: str, library: str) -> Any:
        form = plan.packing_of(component)
        return None if form is None else _packing(form, library, dtype)

    return packing


def _packing(form: Packing, library: str, dtype: torch.dtype) -> Any:
    """bitsandbytes' settings, which transformers and diffusers each want in a class of their own."""
    kind: Any = {"transformers": transformers, "diffusers": diffusers}[library].BitsAndBytesConfig
    if form == "int8":
        return kind(load_in_8bit=True)
    return kind(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)


def _packed_already(component: Path) -> bool:
    """Whether it was published quantised: then its own settings hold."""
    config = component / "config.json"
    return config.is_file() and "quantization_config" in json.loads(config.read_text(encoding="utf-8"))


def _lay_out(pipeline: Any, device: str, plan: MemoryPlan) -> None:
    match plan.rest:
        case "device":
            pipeline.to(device)
        case "encoders":
            _lend(pipeline, device)
        case "parts":
            pipeline.enable_model_cpu_offload(device=device)
        case "layers":  # the VAE stays: it is small, and decodes without the forward that the hooks wait for
            pipeline.enable_group_offload(torch.device(device), offload_type="leaf_level", exclude_modules=["vae"])
    if plan.tiled:
        vae = pipeline.vae
        vae.enable_tiling()
        vae.tile_sample_min_size = vae.config.sample_size // 2
        vae.tile_latent_min_size = vae.tile_sample_min_size // pipeline.vae_scale_factor


def _lend(pipeline: Any, device: str) -> None:
    """Text encoders rest on the CPU: each is on the device until the next one, or the denoiser, begins."""
    modules = {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}
    encoders = sorted(name for name in modules if name.startswith("text_encoder"))
    hook: Any = None
    for name in encoders:
        _, hook = accelerate.cpu_offload_with_hook(modules.pop(name), device, hook)
    for part in modules.values():
        part.to(device)
    denoiser_of(pipeline).register_forward_pre_hook(lambda *_: hook.offload())


def denoiser_of(pipeline: Any) -> torch.nn.Module:
    """The transformer or UNet."""
    part: torch.nn.Module = getattr(pipeline, "transformer", None) or pipeline.unet
    return part


def changes_in(entry: BaseModel, pipeline: Any) -> str:
    """What in a loaded pipeline makes other pixels than its full form, as `MemoryPlan.changes` has it; what was
    published quantised shows here too."""
    found = []
    for name, component in pipeline.components.items():
        if name == T5 and component is None and entry.t5:
            found.append(f"{name}:none")
        if not isinstance(component, torch.nn.Module):
            continue
        forms = {_form(module) for module in component.modules() if kind_of(module)}
        found += [f"{name}:{form}" for form in sorted(forms)]
        if getattr(component, "use_tiling", False):
            found.append(f"{name}:tiled")
    return ", ".join(sorted(found))


def _form(layer: Any) -> str:
    return str(layer.weight.quant_type) if kind_of(layer) == "Linear4bit" else "int8"


def scheduler_for(sampler: str, published: Any) -> Any:
    """A fresh scheduler for one run, configured as the model's published one."""
    asked = SAMPLERS[sampler]
    kind = type(published) if asked.scheduler is None else getattr(diffusers, asked.scheduler)
    return kind.from_config(published.config, **asked.changes)
