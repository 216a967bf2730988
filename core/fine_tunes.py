"""A Hub fine-tune of a model of the table: judged by what its repo says of itself, before any weights are fetched."""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import BaseModel as Schema
from pydantic import ConfigDict, TypeAdapter, ValidationError

from core.base_models import BASE_MODELS, BaseModel
from core.checkpoints import file_named, header_here, header_on_hub, refusal, stamp_of
from core.errors import BadRequest
from core.parts import PARTS
from core.single_file import NoCheckpoint, contents_of
from lora_catalog.errors import FileGone, HubUnreachable, quoted
from lora_catalog.families.table import MODEL_OF
from lora_catalog.families.transformers import MMDiT
from lora_catalog.families.unet import UNet
from lora_catalog.header import Header
from lora_catalog.reference import LoraRef

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

    from lora_catalog.hub.api import HubApi

log = logging.getLogger(__name__)

MOST_OWN = 500  # checkpoints of this machine's own that are offered
LARGEST_DESCRIPTION = 100_000  # bytes of a model_index.json or a config.json; real ones have about 1 kB
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_ADDRESS = re.compile(rf"({_NAME}/{_NAME})(?:@([A-Za-z0-9][A-Za-z0-9._/-]{{0,199}}))?")
_ONE_FILE = re.compile(rf"local:.*|{_NAME}/{_NAME}(?:@[^:]*)?:.*", re.DOTALL)

_CLIP, _PROJECTED = ("transformers", "CLIPTextModel"), ("transformers", "CLIPTextModelWithProjection")
_TOKENIZERS = {("transformers", name) for name in ("CLIPTokenizer", "CLIPTokenizerFast")}
_T5_TOKENIZERS = {("transformers", name) for name in ("T5Tokenizer", "T5TokenizerFast")}
_DIFFUSION = {
    ("diffusers", f"{name}Scheduler")
    for name in ("DDIM", "DDPM", "PNDM", "LMSDiscrete", "EulerDiscrete", "EulerAncestralDiscrete", "HeunDiscrete",
                 "DPMSolverMultistep", "DPMSolverSinglestep", "KDPM2Discrete", "KDPM2AncestralDiscrete",
                 "UniPCMultistep", "DEISMultistep", "LCM", "TCD", "EDMEuler", "EDMDPMSolverMultistep")
}  # fmt: skip
_ABSENT = (None, None)
_UNET = {"unet": {("diffusers", "UNet2DConditionModel")}, "vae": {("diffusers", "AutoencoderKL")}}
# By pipeline: its components, and the classes that each may be of. All else in a repo is left where it is.
_COMPONENTS: Mapping[str, Mapping[str, set[Any]]] = MappingProxyType(
    {
        "StableDiffusion3Pipeline": {
            "transformer": {("diffusers", "SD3Transformer2DModel")}, "vae": {("diffusers", "AutoencoderKL")},
            "scheduler": {("diffusers", "FlowMatchEulerDiscreteScheduler")},
            "text_encoder": {_PROJECTED}, "text_encoder_2": {_PROJECTED}, "tokenizer": _TOKENIZERS,
            "tokenizer_2": _TOKENIZERS, "text_encoder_3": {("transformers", "T5EncoderModel"), _ABSENT},
            "tokenizer_3": {*_T5_TOKENIZERS, _ABSENT},
        },
        "StableDiffusionXLPipeline": {
            **_UNET, "scheduler": _DIFFUSION, "text_encoder": {_CLIP}, "text_encoder_2": {_PROJECTED},
            "tokenizer": _TOKENIZERS, "tokenizer_2": _TOKENIZERS,
        },
        "StableDiffusionPipeline": {
            **_UNET, "scheduler": _DIFFUSION, "text_encoder": {_CLIP}, "tokenizer": _TOKENIZERS,
        },
    }
)  # fmt: skip
_WEIGHTLESS = ("scheduler", "tokenizer")


class Models(Protocol):
    """Where the name of a model comes from that is not in the table."""

    def key_of(self, model: object, token: str | None) -> object:
        """The key under which BASE_MODELS knows `model`; what does not look like a repo of the Hub as it is."""


class _ListedOnly:
    def key_of(self, model: object, token: str | None) -> object:
        return model


LISTED_ONLY: Models = _ListedOnly()  # and those that are in BASE_MODELS already


class FineTune(Schema):
    """What was found of a repo at a commit: all that its entry has beyond that of `base`, a key of the table.

    Of a checkpoint in one file, `file` is its path there and `inside` what it holds; of one that is this machine's own,
    `repo` and `commit` are empty, and `stamp` tells the state in which it was judged.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    repo: str
    commit: str
    base: str
    variant: str | None
    t5: bool
    unused: tuple[str, ...]
    gated: bool
    licence: str
    file: str | None = None
    inside: tuple[str, ...] = ()
    stamp: str = ""

    def entry(self, folder: Path = Path("checkpoints")) -> BaseModel:
        """`folder` holds this machine's own checkpoints."""
        base = BASE_MODELS[self.base]
        if self.file is not None:
            return self._in_one_file(base, self.file, folder)
        return replace(
            base, key=f"{self.repo}@{self.commit}", title=self.repo, repo=self.repo, revision=self.commit,
            variant=self.variant, t5=self.t5, unused=self.unused, gated=self.gated, licence=self.licence,
            note=f"A fine-tune of {base.title}.",
        )  # fmt: skip

    def _in_one_file(self, base: BaseModel, file: str, folder: Path) -> BaseModel:
        own = None if self.repo else folder / file
        key = f"local:{file}" if own else f"{self.repo}@{self.commit}:{file}"
        lacks = [part for part in PARTS[base.family] if part not in self.inside]
        beside = f" Its {', '.join(lacks)} and all settings are those of {base.title}." if lacks else ""
        return replace(
            base, key=key, title=file.rpartition("/")[2], repo=self.repo, revision=self.commit or None,
            gated=self.gated, licence=self.licence, note=f"A fine-tune of {base.title}, in one file.{beside}",
            file=file, inside=self.inside, rest=base, own=own, stamp=self.stamp,
        )  # fmt: skip


_SHELF = TypeAdapter(tuple[FineTune, ...])


class FineTunes:
    """Fine-tunes by `USER/REPO[@REV]`, `USER/REPO[@REV]:FILE` and `local:FILE`, asked of the Hub with the asking
    visitor's token or found in the folder `own`, and kept in the file `shelf`: what they were drawn with can be read
    later, and without the Hub."""

    def __init__(self, api: HubApi, shelf: Path, own: Path | None = None) -> None:
        self._api, self._shelf, self._lock = api, shelf, threading.Lock()
        self._own = own or shelf.parent / "checkpoints"
        self._here: tuple[FineTune, ...] = ()  # judged ones of this machine's own

    def remember(self) -> None:
        """Makes BASE_MODELS know those of earlier runs, and the checkpoints that lie on this machine now; a shelf that
        is missing or torn holds none."""
        kept = self._kept()
        self._here = tuple(found for found in kept if not found.repo)
        for found in kept:
            if found.repo:
                BASE_MODELS.learn(found.entry(self._own))
        for path in sorted(self._own.glob("*.safetensors"))[:MOST_OWN]:
            try:
                self._key_of_file(f"local:{path.name}", None)
            except BadRequest as error:
                log.warning("%s", error)

    def key_of(self, model: object, token: str | None) -> object:
        """The key, pinned to a commit, once BASE_MODELS knows the fine-tune.

        Raises BadRequest in one sentence where it is none, or a HubError.
        """
        if isinstance(model, str) and _ONE_FILE.fullmatch(model):
            return self._key_of_file(model, token)
        named = _ADDRESS.fullmatch(model) if isinstance(model, str) else None
        if named is None or model in BASE_MODELS:
            return model
        try:
            found = self._judged(named[1], named[2], token)
        except HubUnreachable:
            known = [e.key for e in BASE_MODELS.values() if (e.repo, e.file) == (named[1], None)]
            if named[2] is None and known:
                return known[-1]
            raise
        return self._learn(found)

    def _key_of_file(self, model: str, token: str | None) -> str:
        ref = file_named(model)
        if ref.source == "local":
            found = self._judged_here(model, ref.name)
            self._here = (found, *(other for other in self._here if other.file != ref.name))
            return self._learn(found)
        if model in BASE_MODELS:
            return model
        try:
            found = self._judged_file(model, ref, token)
        except HubUnreachable:
            known = [e.key for e in BASE_MODELS.values() if (e.repo, e.file) == (ref.name, ref.file)]
            if ref.revision is None and known:
                return known[-1]
            raise
        return self._learn(found)

    def _learn(self, found: FineTune) -> str:
        entry = found.entry(self._own)
        if BASE_MODELS.get(entry.key) != entry:
            BASE_MODELS.learn(entry)
            self._keep(found)
        return entry.key

    def _judged_file(self, model: str, ref: LoraRef, token: str | None) -> FineTune:
        info = self._api.repo(ref.name, ref.revision, token)
        commit = str(info.sha)
        header = header_on_hub(self._api, model, ref, commit, token)
        return _in_file(
            model, header, repo=ref.name, commit=commit, file=ref.file, gated=bool(info.gated), licence=_licence(info)
        )

    def _judged_here(self, model: str, name: str) -> FineTune:
        path = self._own / name
        stamp = stamp_of(model, path)
        known = next((found for found in self._here if (found.file, found.stamp) == (name, stamp)), None)
        return known or _in_file(model, header_here(model, path), file=name, stamp=stamp)

    def _kept(self) -> tuple[FineTune, ...]:
        try:
            found = _SHELF.validate_json(self._shelf.read_bytes())
        except (OSError, ValidationError):
            return ()
        return tuple(kept for kept in found if kept.base in BASE_MODELS)

    def _keep(self, found: FineTune) -> None:
        """A disk that is full costs the memory of it, not the picture."""
        with self._lock, suppress(OSError):
            others = tuple(kept for kept in self._kept() if _place(kept) != _place(found))
            written = self._shelf.with_suffix(".new")
            written.write_bytes(_SHELF.dump_json((*others, found), indent=1))
            written.replace(self._shelf)

    def _judged(self, repo: str, revision: str | None, token: str | None) -> FineTune:
        info = self._api.repo(repo, revision, token)
        commit = str(info.sha)
        try:
            index = self._described(repo, commit, "model_index.json", token)
        except FileGone as error:
            raise refusal(repo, "it is no diffusers pipeline (it has no model_index.json)") from error
        pipeline = index.get("_class_name")
        allowed = _COMPONENTS.get(pipeline) if isinstance(pipeline, str) else None
        if allowed is None:
            raise refusal(repo, f"its pipeline {quoted(str(pipeline))} is none of {', '.join(_COMPONENTS)}")
        for name, kinds in allowed.items():
            if _class_of(index.get(name)) not in kinds:
                raise refusal(repo, f"its {name} is {quoted(str(index.get(name)))}, which is not run here")
        if (_class_of(index.get("text_encoder_3")) == _ABSENT) != (_class_of(index.get("tokenizer_3")) == _ABSENT):
            raise refusal(repo, "it has one of T5 and its tokenizer, without the other")
        there = [name for name in allowed if _class_of(index.get(name)) != _ABSENT]
        parts = [name for name in there if not name.startswith(_WEIGHTLESS)]
        files = [str(sibling.rfilename) for sibling in info.siblings or ()]
        weights = {
            part: [f for f in files if f.startswith(f"{part}/") and f.endswith(".safetensors")] for part in parts
        }
        for part in parts:
            if not weights[part]:
                raise refusal(repo, f"its {part} has no safetensors file, and nothing else is loaded")
        base = self._base(repo, commit, str(pipeline), parts[0], token)
        if "text_encoder_3" in parts:  # the other part that is published quantised
            with suppress(FileGone):
                described = self._described(repo, commit, "text_encoder_3/config.json", token)
                _must_unpack(repo, "text_encoder_3", described)
        halves = all(any(".fp16." in file for file in found) for found in weights.values())
        others = (name for name, value in index.items() if isinstance(value, list) and name not in allowed)
        return FineTune(
            repo=repo, commit=commit, base=base.key, variant="fp16" if halves else None, t5="text_encoder_3" in parts,
            unused=tuple(others), gated=bool(info.gated), licence=_licence(info),
        )  # fmt: skip

    def _base(self, repo: str, commit: str, pipeline: str, part: str, token: str | None) -> BaseModel:
        """The model of the table whose denoiser has the same layers."""
        try:
            config = self._described(repo, commit, f"{part}/config.json", token)
            _must_unpack(repo, part, config)
            measures = (_transformer if part == "transformer" else _unet)(config)
        except (FileGone, TypeError, ValueError, KeyError, IndexError) as error:
            raise refusal(repo, f"the config.json of its {part} is missing or makes no sense") from error
        for entry in BASE_MODELS.listed():
            same = MODEL_OF[entry.family].parts.get(part) == measures
            if same and entry.pipeline == pipeline and not entry.embedded and entry.accelerator is None:
                return entry
        raise refusal(repo, f"its {part} has other layers than any model that is known here")

    def _described(self, repo: str, commit: str, file: str, token: str | None) -> dict[str, Any]:
        part = self._api.part_of(repo, commit, file, 0, LARGEST_DESCRIPTION, token)
        try:
            found = json.loads(part.data)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise refusal(repo, f"its {file} makes no sense")
        return found


def _must_unpack(repo: str, part: str, config: Mapping[str, Any]) -> None:
    """Raises BadRequest for a part that was published quantised by anything but bitsandbytes, which alone is here."""
    packed = config.get("quantization_config")
    method = packed.get("quant_method") if isinstance(packed, dict) else packed
    if packed is not None and method != "bitsandbytes":
        raise refusal(repo, f"its {part} is quantised by {quoted(str(method))}, and bitsandbytes alone is read here")


def _licence(info: ModelInfo) -> str:
    said = info.card_data.get("license") if info.card_data else None
    return said if isinstance(said, str) else "unknown"


def _place(found: FineTune) -> tuple[str, str, str | None]:
    return found.repo, found.commit, found.file


def _in_file(model: str, header: Header, **said: Any) -> FineTune:
    try:
        contents = contents_of(header)
    except NoCheckpoint as error:
        raise refusal(model, str(error)) from None
    where: dict[str, Any] = {"repo": "", "commit": "", "gated": False, "licence": "unknown"} | said
    base, inside = contents.base, contents.inside
    return FineTune(base=base.key, variant=base.variant, t5=base.t5, unused=base.unused, inside=inside, **where)


def _class_of(said: Any) -> Any:
    """Library and class as model_index.json has them; None for what is neither, since a repo may say anything."""
    if said is None:
        return _ABSENT
    flat = isinstance(said, list) and all(isinstance(part, str | None) for part in said)
    return tuple(said) if flat else None


def _transformer(config: Mapping[str, Any]) -> MMDiT:
    return MMDiT(
        config["num_attention_heads"] * config["attention_head_dim"],
        blocks=config["num_layers"],
        dual=len(config.get("dual_attention_layers") or ()),
        joint=config["joint_attention_dim"],
        pooled=config["pooled_projection_dim"],
        channels=config["in_channels"],
    )


def _unet(config: Mapping[str, Any]) -> UNet:
    """diffusers' UNet2DConditionModel config as measures, by the defaults of its class where it says nothing."""
    widths = tuple(config["block_out_channels"])
    layers = config.get("layers_per_block", 2)
    depths = list(_each(config.get("transformer_layers_per_block", 1), len(widths)))
    rising = config.get("reverse_transformer_layers_per_block") or depths[::-1]
    down = zip(config["down_block_types"], depths, strict=True)
    up = zip(config["up_block_types"], rising, strict=True)
    middle = config.get("mid_block_type", "UNetMidBlock2DCrossAttn") == "UNetMidBlock2DCrossAttn"
    return UNet(
        widths,
        down=tuple(tuple(_attentions(kind, depth, layers)) for kind, depth in down),
        middle=depths[-1] if middle else None,
        up=tuple(tuple(_attentions(kind, depth, layers + 1)) for kind, depth in up),
        context=config["cross_attention_dim"],
        added=config.get("projection_class_embeddings_input_dim"),
        linear_projection=config.get("use_linear_projection", False),
        channels=config["in_channels"],
        scale_shift=config.get("resnet_time_scale_shift", "default") == "scale_shift",
    )


def _attentions(kind: str, depth: Any, layers: int) -> Iterator[int]:
    """Of one level, per residual block."""
    return _each(depth if kind.startswith("CrossAttn") else 0, layers)


def _each(value: Any, count: int) -> Iterator[Any]:
    values = list(value) if isinstance(value, list | tuple) else [value] * count
    if len(values) != count:
        raise ValueError("not one for each")
    return iter(values)
