"""The pocket tokenizer and text encoders, which learn from captions alone what scene is meant."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.trainers import BpeTrainer
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from training.loop import Settings, train
from training.pocket.scenes import (
    BACKGROUNDS,
    COLOURS,
    PLACES,
    RELATIONS,
    SIZES,
    SPARE_NOUNS,
    THINGS,
    Caption,
    Scene,
    describe,
    sample_scene,
)
from training.pocket.styles import STYLES

TOKENS = 32
MORE_WORDS = (
    "the of and with in on at by to from for is are it this that there one two three some many very bright dark light "
    "grey gray gold silver photo photograph art style cartoon simple minimal beautiful pretty lovely nice old new high "
    "quality best detailed blurry ugly low noisy sky sun grass water sand field forest mountain city street room table "
    "day night morning evening rain wind face eye leaf wood stone glass boy girl man woman bear lion horse rabbit "
    "mouse duck butterfly chair lamp window door bridge road river island ship plane bicycle ball kite cake bread "
    "coffee a an no not its his her near behind between inside outside front side corner around standing sitting "
    "floating swimming flying sleeping happy sad round flat shiny paper ink pencil oil watercolour pixel neon pastel "
    "polka dots"
)


def train_tokenizer(seed: int = 0) -> CLIPTokenizer:
    """A byte-level CLIP tokenizer in which every word of the scenes is one token."""
    rng = random.Random(seed)
    lines = [describe(sample_scene(rng), rng).text.lower() for _ in range(20_000)]
    lines += [" ".join((*SPARE_NOUNS, *MORE_WORDS.split(), *(style.trigger for style in STYLES.values())))] * 50
    trainer = BpeTrainer(vocab_size=100_000, min_frequency=20, end_of_word_suffix="</w>", show_progress=False)
    learned = Tokenizer(BPE(end_of_word_suffix="</w>"))
    learned.pre_tokenizer = Whitespace()
    learned.train_from_iterator(lines, trainer)
    merges = [tuple(merge) for merge in json.loads(learned.to_str())["model"]["merges"]]
    alphabet = list(bytes_to_unicode().values())
    words = [*alphabet, *(letter + "</w>" for letter in alphabet), *("".join(merge) for merge in merges)]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(words))}
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[special] = len(vocabulary)
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=TOKENS, pad_token="<|endoftext|>")


def text_encoder(tokenizer: CLIPTokenizer, width: int, layers: int = 3) -> CLIPTextModelWithProjection:
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=width // 64,
            max_position_embeddings=TOKENS,
            projection_dim=width,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


NOUNS = (*THINGS, *SPARE_NOUNS)
NOTHING = 0  # the class of what a caption leaves open


def _classes(values: tuple[str, ...]) -> dict[str | None, int]:
    return {None: NOTHING} | {value: number for number, value in enumerate(values, 1)}


NOUN, COLOUR, SIZE = _classes(NOUNS), _classes(tuple(COLOURS)), _classes(tuple(SIZES))
PLACE, BACKGROUND, RELATION = _classes(tuple(PLACES)), _classes(BACKGROUNDS), _classes(RELATIONS)
STYLE = _classes(tuple(STYLES))
SPOTS = ("left", "right", "top", "bottom")


def labels(caption: Caption, style: str | None) -> list[int]:
    """What a caption says, as classes: first and second thing, then what stands at each spot, then the rest."""
    pairs = list(zip(caption.names, caption.colours, strict=True))
    first, second = pairs[0], pairs[1] if len(pairs) == 2 else (None, None)
    at: dict[str, tuple[str | None, str | None]] = dict.fromkeys(SPOTS, (None, None))
    ends = {"left of": ("left", "right"), "right of": ("right", "left"), "above": ("top", "bottom"),
            "below": ("bottom", "top")}.get(caption.relation or "")  # fmt: skip
    if ends:
        at[ends[0]], at[ends[1]] = first, second
    found = [code for name, colour in (first, second, *at.values()) for code in (NOUN[name], COLOUR[colour])]
    sizes = [SIZE[caption.sizes[0]], SIZE[caption.sizes[1] if len(pairs) == 2 else None]]
    rest = [PLACE[caption.place], BACKGROUND[caption.background], RELATION[caption.relation], STYLE[style]]
    return [*found, *sizes, *rest]


HEADS = [len(NOUN), len(COLOUR)] * 6 + [len(SIZE)] * 2 + [len(PLACE), len(BACKGROUND), len(RELATION), len(STYLE)]


@dataclass
class _Probe:
    """Linear readers of the attributes, from the pooled embedding and from the last-but-one layer's end token."""

    pooled: nn.Linear
    hidden: nn.Sequential

    @staticmethod
    def on(width: int) -> _Probe:
        return _Probe(nn.Linear(width, sum(HEADS)), nn.Sequential(nn.LayerNorm(width), nn.Linear(width, sum(HEADS))))


def random_caption(rng: random.Random) -> tuple[str, list[int]]:
    noun = rng.choice(SPARE_NOUNS) if rng.random() < 0.2 else None
    scene: Scene = sample_scene(rng, name=noun)
    caption = describe(scene, rng)
    text, style = caption.text, None
    if rng.random() < 0.15:
        style = rng.choice(tuple(STYLES))
        trigger = STYLES[style].trigger
        text = rng.choice((f"{text}, {trigger}", f"{trigger}, {text}", f"{trigger} of {text}"))
    return text, labels(caption, style)


def _attribute_loss(logits: torch.Tensor, wanted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    parts = logits.float().split(HEADS, dim=1)  # type: ignore[no-untyped-call]
    loss = torch.stack([F.cross_entropy(part, wanted[:, i]) for i, part in enumerate(parts)]).sum()
    right = torch.stack([part.argmax(1) == wanted[:, i] for i, part in enumerate(parts)], 1)
    return loss, right


def train_encoders(
    tokenizer: CLIPTokenizer, encoders: list[CLIPTextModelWithProjection], run: Path, settings: Settings
) -> float:
    """Teaches each encoder to tell a caption's attributes; returns the share of fresh captions read without a fault."""
    probes = [_Probe.on(encoder.config.hidden_size) for encoder in encoders]
    modules = nn.ModuleList([*encoders, *(m for probe in probes for m in (probe.pooled, probe.hidden))])

    def read(seed: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        rng = random.Random(seed)
        texts, wanted = zip(*(random_caption(rng) for _ in range(count)), strict=True)
        ids = tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt").input_ids
        target = torch.tensor(wanted)
        end = (ids == tokenizer.eos_token_id).int().argmax(1)
        loss, rights = torch.zeros(()), []
        for encoder, probe in zip(encoders, probes, strict=True):
            with torch.autocast("cpu", torch.bfloat16):
                out = encoder(ids, output_hidden_states=True)
            hidden = out.hidden_states[-2].float()
            # The end token, and one padding token after it: a denoiser looks at them all.
            late = torch.randint(TOKENS - 1, (len(ids),)).maximum(end)
            for logits in (
                probe.pooled(out.text_embeds.float()),
                probe.hidden(hidden[torch.arange(len(ids)), end]),
                probe.hidden(hidden[torch.arange(len(ids)), late]),
            ):
                part, right = _attribute_loss(logits, target)
                loss = loss + part
                rights.append(right.all(1))
        return loss, torch.stack(rights).float().mean()

    train(dict(modules.named_parameters()), lambda step: read(settings.seed + step, settings.batch)[0], settings, run)
    with torch.no_grad():
        return float(read(2**31, 1000)[1])
