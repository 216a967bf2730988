"""The Space is deployed by one command: what git tracks and a Space runs, uploaded to a Hub over real HTTP."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi, RepoCard, SpaceHardware

import deploy
from core.base_models import BASE_MODELS
from core.machine import Machine, best_model
from core.parts import PARTS
from tests.hub import EmulatedHub

SPACE = "ann/loom"
README = "---\ntitle: Loom\nsdk: gradio\n---\n# Loom\n"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A git repo with weights, tests, a secret that git ignores and a file that it does not know."""
    files = {
        "README.md": README, "app.py": "print()\n", ".gitignore": ".env\n", "core/a[1].py": "a = 1\n",
        "models/pocket/x.safetensors": "weights", "tests/test_app.py": "pass\n", "bench/cpu.py": "pass\n",
    }  # fmt: skip
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run(["git", "add", "-A"], cwd=tmp_path, check=True)
    (tmp_path / ".env").write_text("HF_TOKEN=hf_secret\n")
    (tmp_path / "notes.txt").write_text("of nobody's business\n")
    return tmp_path


@pytest.fixture
def ann(hub: EmulatedHub) -> HfApi:
    hub.add_user("hf_ann", "ann")
    return HfApi(endpoint=hub.endpoint, token="hf_ann")


def deployed(api: HfApi, clone: Path, **variables: str) -> str:
    return deploy.deploy(api, SPACE, clone, hardware="zero-a10g", private=False, variables=variables)


def files_of(hub: EmulatedHub) -> dict[str, bytes]:
    held = hub.repo(SPACE, "spaces").head.files.items()
    return {path: file.data for path, file in held if path != ".gitattributes"}


def test_what_git_tracks_and_a_space_runs_is_uploaded_and_nothing_else(
    hub: EmulatedHub, ann: HfApi, clone: Path
) -> None:
    assert deployed(ann, clone) == f"{hub.endpoint}/spaces/{SPACE}"
    expected = {".gitignore", "README.md", "app.py", "core/a[1].py", "models/pocket/x.safetensors"}
    assert set(files_of(hub)) == expected
    assert files_of(hub)["models/pocket/x.safetensors"] == b"weights"


def test_weights_go_through_lfs_which_a_plain_push_would_not_do(hub: EmulatedHub, ann: HfApi, clone: Path) -> None:
    deployed(ann, clone)
    assert hub.asked("/info/lfs/objects/batch")
    assert hub.repo(SPACE, "spaces").head.files["models/pocket/x.safetensors"].lfs


def test_a_new_space_is_a_gradio_space_on_zero_gpu_with_its_settings(hub: EmulatedHub, ann: HfApi, clone: Path) -> None:
    deployed(ann, clone, LOOM_MODEL="sdxl-lcm")
    made = json.loads(hub.asked("/api/repos/create")[0].body)
    assert (made["sdk"], made["hardware"]) == ("gradio", "zero-a10g")
    assert json.loads(hub.asked("/variables", method="POST")[0].body)["value"] == "sdxl-lcm"


def test_deploying_again_deletes_what_is_gone_and_leaves_the_hardware(
    hub: EmulatedHub, ann: HfApi, clone: Path
) -> None:
    deployed(ann, clone)
    (clone / "app.py").write_text("print(2)\n")
    (clone / "core" / "a[1].py").unlink()
    deployed(ann, clone)
    assert "core/a[1].py" not in files_of(hub)
    assert files_of(hub)["app.py"] == b"print(2)\n"
    assert "hardware" not in json.loads(hub.asked("/api/repos/create")[-1].body)


def test_a_token_that_may_not_write_is_told_so(hub: EmulatedHub, clone: Path) -> None:
    hub.add_user("hf_bob", "bob")
    with pytest.raises(deploy.NotDeployed, match="HF_TOKEN"):
        deployed(HfApi(endpoint=hub.endpoint, token="hf_bob"), clone)


def test_a_folder_that_is_no_clone_is_not_deployed(ann: HfApi, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("pass\n")
    with pytest.raises(deploy.NotDeployed, match="clone"):
        deployed(ann, tmp_path)


@pytest.mark.parametrize("argv", [["loom"], ["ann/loom", "--set", "PATH=/"], ["ann/loom", "--set", "LOOM_MODEL"]])
def test_a_wrong_argument_ends_with_code_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        deploy.main(argv)
    assert stopped.value.code == 2
    assert "not “" in capsys.readouterr().err


def test_the_projects_own_space_has_all_that_its_app_reads() -> None:
    sent = set(deploy.tracked(deploy.ROOT))
    assert {"app.py", "README.md", "requirements.txt", "models/pocket/files.json", "ui/loom.css"} <= sent
    assert not any(name.startswith(("tests/", "training/", "bench/")) for name in sent)


def front_matter(readme: str) -> dict[str, Any]:
    data: Any = RepoCard(readme).data
    return dict(data.to_dict())


def test_the_front_matter_is_what_the_hub_reads_and_preloads_what_the_app_begins_with() -> None:
    front = front_matter((deploy.ROOT / "README.md").read_text(encoding="utf-8"))
    assert (front["sdk"], front["python_version"], front["suggested_hardware"]) == ("gradio", "3.12", "zero-a10g")
    assert SpaceHardware(front["suggested_hardware"])
    entry = BASE_MODELS[best_model(Machine("cuda"))]  # ZeroGPU, without a token
    assert entry.key == deploy.DEFAULT
    (preloaded,) = front["preload_from_hub"]
    repo, files = preloaded.split()
    assert repo == entry.repo
    weights = [name for name in files.split(",") if name.endswith(".safetensors")]
    assert {name.split("/")[0] for name in weights} == set(PARTS[entry.family])
    assert all(f".{entry.variant}." in name for name in weights)


def test_a_space_for_another_model_has_nothing_preloaded() -> None:
    readme = (deploy.ROOT / "README.md").read_text(encoding="utf-8")
    assert deploy.without_others(readme, {}) == deploy.without_others(readme, {"LOOM_MODEL": "sdxl"}) == readme
    for other in ("sd3.5-large-turbo", "ann/tune"):
        front = front_matter(deploy.without_others(readme, {"LOOM_MODEL": other}))
        assert not {"models", "preload_from_hub"} & front.keys()
        assert front["hf_oauth"] is True
