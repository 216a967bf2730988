"""Refs: every form of the contract is read and printed back; everything else is refused with a reason."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lora_catalog import reference
from lora_catalog.errors import BadRef
from lora_catalog.reference import MAX_LETTERS, LoraRef

WORDS = st.from_regex(r"[A-Za-z0-9_]([A-Za-z0-9_]|[.-](?=[A-Za-z0-9_])){0,20}", fullmatch=True)
REPOS = st.builds("{}/{}".format, WORDS, WORDS).filter(lambda repo: not repo.endswith(".git"))
SEGMENTS = st.text(st.sampled_from("abcXYZ019-_.@+%~ ()é愛"), min_size=1, max_size=20).filter(
    lambda text: text.strip() == text and text not in (".", "..")
)
FILES = st.lists(SEGMENTS, min_size=1, max_size=4).map(lambda parts: "/".join(parts) + "x.safetensors")
REFS = st.one_of(
    st.builds(LoraRef, st.just("bundled"), st.from_regex(r"[a-z0-9][a-z0-9-]{0,60}", fullmatch=True)),
    st.builds(LoraRef, st.just("local"), FILES.filter(lambda file: "/" not in file)),
    st.builds(LoraRef, st.just("hub"), REPOS, st.none() | WORDS, st.none() | FILES),
)


@given(REFS)
def test_what_a_ref_prints_parses_back_to_it(ref: LoraRef) -> None:
    assert LoraRef.parse(str(ref)) == ref


def test_a_source_of_ones_own_is_written_behind_its_name_once_it_has_a_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadRef):
        LoraRef.parse("shelf:lamp")
    rules: dict[Any, Any] = {**reference._RULES, "shelf": lambda ref: "" if ref.name.islower() else "names are small"}
    monkeypatch.setattr(reference, "_RULES", rules)
    assert str(LoraRef.parse("shelf:lamp")) == "shelf:lamp"
    with pytest.raises(BadRef, match="names are small"):
        LoraRef.parse("shelf:Lamp")


@given(st.text(max_size=100) | st.text(st.sampled_from("ab/:@.\\ \x00%~-"), max_size=30))
@example("bundled:")
@example("a/b:x.safetensors:y.safetensors")
def test_any_text_is_read_exactly_or_refused_with_a_sentence(text: str) -> None:
    try:
        ref = LoraRef.parse(text)
    except BadRef as refused:
        assert refused.reason
        assert str(refused).isprintable()
    else:
        assert str(ref) == text.strip()


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("bundled:pocket-sd3-neon", LoraRef("bundled", "pocket-sd3-neon")),
        ("local:my lora.safetensors", LoraRef("local", "my lora.safetensors")),
        ("user/repo", LoraRef("hub", "user/repo")),
        ("user/repo@refs/pr/1", LoraRef("hub", "user/repo", "refs/pr/1")),
        ("user/repo:a/b.safetensors", LoraRef("hub", "user/repo", None, "a/b.safetensors")),
        ("u/r@v1.0:a@2/b.safetensors", LoraRef("hub", "u/r", "v1.0", "a@2/b.safetensors")),
        ("  user/repo\n", LoraRef("hub", "user/repo")),
        ("https://huggingface.co/user/repo/", LoraRef("hub", "user/repo")),
        (
            "https://huggingface.co/user/repo/resolve/refs%2Fpr%2F1/a/my%20b.safetensors?download=true",
            LoraRef("hub", "user/repo", "refs/pr/1", "a/my b.safetensors"),
        ),
    ],
)
def test_each_form_is_read(text: str, ref: LoraRef) -> None:
    assert LoraRef.parse(text) == ref


@pytest.mark.parametrize(
    ("text", "because"),
    [
        ("", "USER/REPO"),
        ("repo", "USER/REPO"),
        ("/etc/passwd", "USER/REPO"),
        ("../../etc", "USER/REPO"),
        ("./models/x", "USER/REPO"),
        ("a/b/c", "USER/REPO"),
        ("a//b", "USER/REPO"),
        ("/a/b", "USER/REPO"),
        ("user/..", "USER/REPO"),
        ("user/re--po", "USER/REPO"),
        ("user/re..po", "USER/REPO"),
        ("us\x00er/repo", "USER/REPO"),
        ("user/repo.git", "USER/REPO"),
        ("user/repé", "USER/REPO"),
        ("~/loras/x.safetensors", "USER/REPO"),
        ("C:\\loras\\x.safetensors", "USER/REPO"),
        ("a/" + "b" * 95, "USER/REPO"),
        ("user/repo@", "revision"),
        ("user/repo@../main", "revision"),
        ("user/repo@a..b", "revision"),
        ("user/repo@-f", "revision"),
        ("user/repo@ma\nin", "revision"),
        ("user/repo:", "empty parts"),
        ("user/repo:../x.safetensors", "no .."),
        ("user/repo:a/../x.safetensors", "no .."),
        ("user/repo:a//x.safetensors", "empty parts"),
        ("user/repo:/etc/x.safetensors", "relative"),
        ("user/repo:a\\x.safetensors", "none of"),
        ("user/repo:a:x.safetensors", "none of"),
        ("user/repo: x.safetensors", "space"),
        ("user/repo:" + "é" * 128 + ".safetensors", "255 bytes"),
        ("user/repo:x.bin", ".safetensors"),
        ("user/repo:x.SAFETENSORS", ".safetensors"),
        ("user/repo:a/.safetensors", ".safetensors"),
        ("user/repo:x\x00.safetensors", "control characters"),
        ("user/repo:x\u202e.safetensors", "control characters"),
        ("bundled:", "bundled name"),
        ("bundled:../neon", "bundled name"),
        ("bundled:ne.on", "bundled name"),
        ("bundled:" + "n" * 65, "bundled name"),
        ("local:a/x.safetensors", "without its folder"),
        ("local:..", ".safetensors|no .."),
        ("local:/x.safetensors", "without its folder"),
        ("user/repo@" + "a" * MAX_LETTERS, "longer than"),
        ("http://huggingface.co/user/repo", "only addresses"),
        ("https://huggingface.co.evil.example/user/repo", "only addresses"),
        ("https://huggingface.co@evil.example/user/repo", "only addresses"),
        ("https://evil.example/huggingface.co/user/repo", "only addresses"),
        ("file:///etc/x.safetensors", "only addresses"),
        ("hf://user/repo", "only addresses"),
        ("https://huggingface.co/user", "an address ends in"),
        ("https://huggingface.co/user/repo/resolve/main", "an address ends in"),
        ("https://huggingface.co/datasets/user/repo", "an address ends in"),
        ("https://huggingface.co/user/repo/resolve/main/%2e%2e/x.safetensors", "no .."),
        ("https://huggingface.co/user/repo/resolve/main/a%00.safetensors", "control characters"),
        ("https://huggingface.co/user/repo/resolve/main/%ff.safetensors", "percent-encoding"),
        ("https://huggingface.co/user/repo/resolve/main/pytorch_lora.bin", ".safetensors"),
    ],
)
def test_everything_else_is_refused_for_its_reason(text: str, because: str) -> None:
    with pytest.raises(BadRef, match=because) as refused:
        LoraRef.parse(text)
    assert any(part in refused.value.reason for part in because.split("|"))


@pytest.mark.parametrize("value", [None, 7, float("nan"), ["user/repo"], {"ref": "user/repo"}])
def test_what_is_not_text_is_refused(value: object) -> None:
    with pytest.raises(BadRef, match="a ref is a text"):
        LoraRef.parse(value)


def test_a_ref_cannot_be_made_of_parts_that_would_not_parse() -> None:
    with pytest.raises(BadRef):
        LoraRef("hub", "user/repo", None, "../x.safetensors")
    with pytest.raises(BadRef):
        LoraRef("bundled", "neon", "main")
    with pytest.raises(BadRef):
        LoraRef("local", "x.safetensors", None, "x.safetensors")


def test_addresses_are_read_on_the_hub_that_is_in_use() -> None:
    ref = LoraRef.parse("http://127.0.0.1:9000/user/repo", endpoint="http://127.0.0.1:9000/")
    assert ref == LoraRef("hub", "user/repo")
    assert LoraRef.parse("https://huggingface.co/user/repo", endpoint="http://127.0.0.1:9000") == ref
    with pytest.raises(BadRef, match=r"begin with http://127\.0\.0\.1:9000/"):
        LoraRef.parse("http://127.0.0.1:9001/user/repo", endpoint="http://127.0.0.1:9000")


def test_a_long_text_is_quoted_short() -> None:
    with pytest.raises(BadRef) as refused:
        LoraRef.parse("x" * 1_000_000)
    assert len(str(refused.value)) < 400


def test_errors_survive_pickling() -> None:
    with pytest.raises(BadRef) as refused:
        LoraRef.parse("nothing")
    assert str(pickle.loads(pickle.dumps(refused.value))) == str(refused.value)
