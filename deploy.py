"""Deploys LoRA Loom as a Space of the Hub, by one command: python deploy.py USER/SPACE [--hardware KIND] [--private].

What git tracks is uploaded by huggingface_hub's `upload_folder`, and nothing else: a plain git push of the pocket
models' weights would be refused. Needs HF_TOKEN (or `hf auth login`) with write access.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from core.base_models import BASE_MODELS

if TYPE_CHECKING:
    from huggingface_hub import HfApi

ROOT = Path(__file__).resolve().parent
# Of what git tracks, what a Space does not run.
LEFT_OUT = ("tests/*", "training/*", "bench/*", ".ci/*", ".github/*", "requirements-dev.txt", "deploy.py")
MESSAGE = "Deploy LoRA Loom"
DEFAULT = "sdxl-lcm"  # what a Space without a token of its own begins with


class NotDeployed(Exception):
    """Its text is the sentence for stderr."""


def tracked(root: Path) -> list[str]:
    """What of a working tree is uploaded, by path. Raises NotDeployed where git cannot tell."""
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        raise NotDeployed(
            "git cannot tell which files are to be deployed: run this in a clone of the project."
        ) from None
    names = [name for name in listed.stdout.decode().split("\0") if name]
    return [name for name in names if not any(fnmatchcase(name, left) for left in LEFT_OUT) and (root / name).is_file()]


def deploy(api: HfApi, space: str, root: Path, *, hardware: str, private: bool, variables: Mapping[str, str]) -> str:
    """Makes the Space if it is not there, sets its variables, uploads in one commit; gives its address.

    What an earlier deployment had and this one lacks is deleted there. Raises NotDeployed.
    """
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    files = tracked(root)
    try:
        # A Space that is there keeps the hardware that its owner chose.
        fresh = not api.repo_exists(space, repo_type="space")
        api.create_repo(
            space, repo_type="space", space_sdk="gradio", private=private, exist_ok=True,
            space_hardware=hardware if fresh else None,  # type: ignore[arg-type]
        )  # fmt: skip
        for name, value in variables.items():
            api.add_space_variable(space, name, value)
        with tempfile.TemporaryDirectory() as folder:
            for name in files:
                (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(root / name, Path(folder) / name)
            readme = Path(folder) / "README.md"
            readme.write_text(without_others(readme.read_text(encoding="utf-8"), variables), encoding="utf-8")
            api.upload_folder(
                repo_id=space, repo_type="space", folder_path=folder, commit_message=MESSAGE, delete_patterns="*"
            )
    except HfHubHTTPError as error:
        raise NotDeployed(_said(error.response.status_code, space)) from error
    except httpx2.HTTPError as error:
        raise NotDeployed("The Hub could not be reached: try again when it can.") from error
    return f"{api.endpoint}/spaces/{space}"


def without_others(readme: str, variables: Mapping[str, str]) -> str:
    """README.md for a Space with these variables: another model than the one whose files its front matter has put into
    the Space's image finds none there, so that the image need not hold 7 GB for nothing."""
    key = variables.get("LOOM_MODEL", DEFAULT)
    repo = BASE_MODELS[key].repo if key in BASE_MODELS else key
    preloaded = re.search(r"^(models|preload_from_hub):\n(?: .*\n)+", readme, re.MULTILINE)
    if preloaded is None or repo in preloaded[0]:
        return readme
    return re.sub(r"^(models|preload_from_hub):\n(?: .*\n)+", "", readme, flags=re.MULTILINE)


def _said(status: int, space: str) -> str:
    if status in (401, 403):
        return f"The Hub refuses to deploy {space}: set HF_TOKEN to a token that may write there."
    return f"The Hub refused to deploy {space} (HTTP {status}): try again later."


def _space(text: str) -> str:
    if not re.fullmatch(r"[\w-][\w.-]{0,95}/[\w-][\w.-]{0,95}", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"a Space is named USER/SPACE, not “{text}”")
    return text


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"LOOM_[A-Z_]+", name):
        raise argparse.ArgumentTypeError(f"a variable is set as LOOM_NAME=VALUE, not “{text}”")
    return name, value


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 0, or 2 with one sentence on stderr."""
    parser = argparse.ArgumentParser(prog="python deploy.py", description=__doc__.split("\n")[0])
    parser.add_argument("space", type=_space, metavar="USER/SPACE")
    parser.add_argument("--hardware", default="zero-a10g", help="of a new Space; default zero-a10g, which is ZeroGPU")
    parser.add_argument("--private", action="store_true", help="only you see the new Space")
    parser.add_argument(
        "--set", type=_variable, action="append", default=[], dest="variables", metavar="LOOM_NAME=VALUE",
        help="a setting of the Space, such as LOOM_MODEL=sdxl-lcm; may be given more than once",
    )  # fmt: skip
    asked = parser.parse_args(argv)
    from huggingface_hub import HfApi, get_token

    try:
        address = deploy(
            HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=get_token()), asked.space, ROOT,
            hardware=asked.hardware, private=asked.private, variables=dict(asked.variables),
        )  # fmt: skip
    except NotDeployed as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(f"Deployed: {address}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
