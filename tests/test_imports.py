"""Imports run one way, app → ui → core → lora_catalog, and what must stay light stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Which packages of the house each may import, itself aside.
MAY_IMPORT = {
    "lora_catalog": set(),
    "core": {"lora_catalog"},
    "ui": {"core", "lora_catalog"},
    "settings": {"core", "lora_catalog"},
    "app": {"settings", "ui", "core", "lora_catalog"},
    "deploy": {"core"},  # whose table of models needs no more than Python
    "training": {"core", "lora_catalog"},
    "bench": {"app", "core", "lora_catalog", "tests"},  # it runs the app with a stub for a model
}
HOUSE = {*MAY_IMPORT, "tests"}
MUST_NOT_IMPORT = {
    "lora_catalog": {"torch", "gradio", "diffusers", "transformers", "peft", "spaces"},
    "core": {"gradio"},
}


def files_of(package: str) -> list[Path]:
    return [file for file in [ROOT / f"{package}.py", *sorted((ROOT / package).rglob("*.py"))] if file.is_file()]


def imported(file: Path) -> Iterator[str]:
    """The top-level names that a file imports, wherever in it the import stands."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), file.name)):
        match node:
            case ast.Import(names=names):
                yield from (name.name.partition(".")[0] for name in names)
            case ast.ImportFrom(module=str(module), level=0):
                yield module.partition(".")[0]


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_package_imports_only_those_below_it(package: str) -> None:
    forbidden = HOUSE - MAY_IMPORT[package] - {package} | MUST_NOT_IMPORT.get(package, set())
    assert [(str(file), name) for file in files_of(package) for name in imported(file) if name in forbidden] == []


def test_every_python_file_belongs_to_a_part_of_the_house() -> None:
    strays = {file.name for file in ROOT.glob("*.py")} | {file.parent.name for file in ROOT.glob("*/__init__.py")}
    assert strays <= HOUSE | {"app.py", "settings.py", "deploy.py"}


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("lora_catalog.catalog", ["torch", "gradio", "diffusers", "transformers", "huggingface_hub", "numpy"]),
        ("lora_catalog.sources.bundled", ["torch", "gradio", "diffusers", "transformers", "huggingface_hub", "numpy"]),
        ("core.request", ["torch", "gradio", "diffusers", "transformers"]),
    ],
)
def test_a_light_module_pulls_nothing_heavy(module: str, heavy: list[str]) -> None:
    script = f"import sys, {module}; print(*sorted(set(sys.modules) & set({heavy!r})))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_what_draws_pulls_no_compiler_until_something_is_compiled() -> None:
    """bitsandbytes alone would: a second and more of each start."""
    script = (
        "import sys; from core.packing import import_packing; import_packing(); import core.drawing, torch; "
        "print('bitsandbytes' in sys.modules, 'torch._inductor.compile_fx' in sys.modules, torch.compile.__module__)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False", "torch"]
