"""What a start can be told: flags, their environment variables and defaults, and how each is read."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Never, cast, get_args

from core.base_models import BASE_MODELS
from core.memory import PLANS
from core.request import Consent


class WrongSetting(Exception):
    """Its text is the sentence for stderr; the exit code is 2."""


@dataclass(frozen=True)
class Settings:
    """All that a start can be told. `model` None leaves the choice to the machine."""

    host: str
    port: int
    share: bool
    mcp: bool
    model: str | None
    plan: str | None
    speed: str
    aot: bool
    data_dir: Path
    log_dataset: str | None
    consent: Consent | None
    hosts: frozenset[str]


@dataclass(frozen=True)
class Option:
    """One flag and its environment variables, the first set one of which counts where the flag is not given."""

    name: str
    read: Callable[[str], Any]
    default: str | None
    help: str
    metavar: str | None = None
    also: tuple[str, ...] = ()

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variables(self) -> tuple[str, ...]:
        return (f"LOOM_{self.name.upper()}", *self.also)


def _host(text: str) -> str:
    return text[1:-1] if text.startswith("[") and text.endswith("]") else text  # IPv6, as addresses have it


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 65535):
        raise ValueError("a whole number from 1 to 65535")
    return int(text)


def _switch(text: str) -> bool:
    if text.lower() not in ("1", "true", "yes", "on", "0", "false", "no", "off", ""):
        raise ValueError("true or false")
    return text.lower() in ("1", "true", "yes", "on")


def _model(text: str) -> str:
    if text not in BASE_MODELS and "/" not in text and not text.startswith("local:"):
        raise ValueError(f"one of {', '.join(BASE_MODELS)}, or USER/REPO of a fine-tune, or local:FILE.safetensors")
    return text


def _plan(text: str) -> str:
    if text not in PLANS:
        raise ValueError(f"one of {', '.join(PLANS)}")
    return text


def _speed(text: str) -> str:
    if text not in ("auto", "plain"):
        raise ValueError("auto or plain")
    return text


_PLANS = "; ".join(f"{plan.name}: {plan.does} ({plan.costs})" for plan in PLANS.values())


def _folder(text: str) -> Path:
    path = Path(text).expanduser()
    if path.exists() and not path.is_dir():
        raise ValueError("a folder, not a file")
    return path


def _consent(text: str) -> Consent:
    for consent in get_args(Consent):
        if text == consent:
            return cast(Consent, consent)
    raise ValueError("none, recipe or picture")


def _names(text: str) -> frozenset[str]:
    names = frozenset(name.strip().lower() for name in text.split(",") if name.strip())
    if not all(re.fullmatch(r"\*|\.?[a-z0-9-]+(\.[a-z0-9-]+)*", name) for name in names):
        raise ValueError("names such as loom.example.org, with commas between them, or * for every name")
    return names


def _dataset(text: str) -> str:
    if not re.fullmatch(r"(?!.*(--|\.\.))[\w-][\w.-]{0,95}/[\w-][\w.-]{0,95}", text, re.ASCII):
        raise ValueError("a dataset repo of the Hub, as USER/REPO")
    return text


OPTIONS = (
    Option("host", _host, "127.0.0.1", "address to listen on; 0.0.0.0 for all, which is the default on a Space",
            "ADDRESS", ("GRADIO_SERVER_NAME",)),
    Option("port", _port, "7860", "port to listen on", "PORT", ("GRADIO_SERVER_PORT",)),
    Option("share", _switch, None, "also open a public gradio.live address"),
    Option("mcp", _switch, None, "also serve the API's endpoints as MCP tools"),
    Option("model", _model, None, "the model to begin with, or a fine-tune of one: USER/REPO[@REVISION] on the Hub,"
            " USER/REPO[@REVISION]:FILE.safetensors in one file there, local:FILE.safetensors in DIR/checkpoints;"
            " left out: the best one that this machine can run", "KEY"),
    Option("plan", _plan, None, "how models are laid out in memory; left out, or where it makes no sense for a model:"
            f" the first of these that fits into what is free, but no-t5. {_PLANS}", "NAME"),
    Option("speed", _speed, "auto", "auto: on a CUDA GPU compiled blocks, CUDA graphs and the best attention kernel,"
            " after a first picture that waits for the compiler; plain: none of it", "NAME"),
    Option("aot", _switch, None, "on ZeroGPU: compile the model's blocks before the page opens, once, which takes up"
            " to 25 minutes of the owner's GPU quota; kept in DATA_DIR/aot"),
    Option("data_dir", _folder, "data", "folder for LoRA files, your own (in loras/) and fetched ones", "DIR"),
    Option("log_dataset", _dataset, None, "dataset repo of the Hub that records are sent to, made private if it is not"
            " there; needs HF_TOKEN with write access", "USER/REPO"),
    Option("consent", _consent, None, "what is kept of a picture where its visitor chooses nothing: none, recipe or"
            " picture; left out: picture, but recipe with --log-dataset", "KIND"),
    Option("hosts", _names, None, "further names it is reached by, with commas between them, such as loom.example.org"
            " behind a proxy; * for every name", "NAMES"),
)  # fmt: skip


_SWITCH = {"action": "store_const", "const": "true"}


class _Parser(argparse.ArgumentParser):
    """argparse, with one sentence instead of the usage and an error."""

    def error(self, message: str) -> Never:
        raise WrongSetting(f"{message[0].upper()}{message[1:]}; see python app.py --help.")


def settings_from(argv: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """Flag over environment over default. Raises WrongSetting, naming flag or variable."""
    parser = _Parser(prog="python app.py", description="LoRA Loom: blend LoRAs, draw, keep the recipe.")
    for option in OPTIONS:
        names = " or ".join(option.variables)
        default = f"; default {option.default}" if option.default else ""
        shape: dict[str, Any] = {"metavar": option.metavar} if option.metavar else _SWITCH
        parser.add_argument(option.flag, dest=option.name, help=f"{option.help} [{names}{default}]", **shape)
    given = vars(parser.parse_args(argv))
    defaults = {"host": "0.0.0.0"} if environ.get("SPACE_ID") else {}
    values: dict[str, Any] = {}
    for option in OPTIONS:
        found: list[tuple[str, str | None]] = [
            (variable, environ[variable]) for variable in option.variables if environ.get(variable)
        ]
        if given[option.name] is not None:
            found.insert(0, (option.flag, given[option.name]))
        found.append((option.flag, defaults.get(option.name, option.default)))
        source, text = found[0]
        try:
            values[option.name] = option.read(text) if text is not None else _UNSET.get(option.name)
        except ValueError as error:
            raise WrongSetting(f"{source} must be {error}; it is “{text}”.") from None
    return Settings(**values)


_UNSET: dict[str, Any] = {"share": False, "mcp": False, "aot": False, "hosts": frozenset()}
