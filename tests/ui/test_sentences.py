"""What core, lora_catalog and ui tell a visitor, as their code has it: each text is in every language's tables."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

from ui.language import languages

OTHERS = {  # files, and who reads what they say
    "core/compare/sheet.py": "whoever gets the picture that it draws",
    "core/recipe_code.py": "who runs the script that a recipe is taken away as",
    "core/records/card.py": "visitors of the dataset on the Hub",
    "lora_catalog/said.py": "nobody: words that are too plain to call a LoRA",
    "ui/tool_words.py": "programs that call tools",
    "ui/tools.py": "programs that call tools",
}
NOT_SAID = {  # texts, and what they are
    "can't allocate memory": "a word of torch's", "No GPU was available": "a word of ZeroGPU's",
    "GPU task aborted": "a word of ZeroGPU's", "Try again in ([\\d:]+(?: days?, [\\d:]+)?)": "a word of ZeroGPU's",
    "Invalid credentials in Authorization header": "a word of the Hub's",
    "not one for each": "caught within its module", "{} has no factors": "a bug's",
    "an engine ends with Done or Failed": "a bug's",
    "Compiled": "said before there is a page", "not a shard of records": "caught by whoever reads shards",
    "Say what this dataset holds": "the title of a commit", "Forget what was deleted": "the title of a commit",
    "Take out what was deleted": "the title of a commit",
    "dataset squash owed": "a key of the journal's", "dataset under way": "a key of the journal's",
    "CUDA graphs of small forwards": "for the log", "idle busy many": "classes of the page's",
    "how must be one of {}.": "for programs: the page says it itself",
    "ending must be one of {}.": "for programs: the page says it itself",
    "This server does not answer to that name: use the address that it printed at its start, or tell it this name with "
    "--hosts.": "no page of ours around it",
    "A page of another site asked for this, which is not allowed: open this server's own page.": "no page around it",
    "This address is too long: at most {} characters are read; open the page without it, and paste the link there "
    "under “Open a recipe”.": "no page of ours around it",
    "{} must be an object such as {\"field\": \"steps\", \"values\": [10, 20]}.": "for programs: the page sends one",
    "data must hold {} values, null for what is left out: {}.": "for programs: the page sends them all",
    "{}.{} is not part of an axis of {}.": "for programs: the page has boxes for what an axis takes",
    "{}.field must be one of {}.": "for programs: the page has a list to choose from",
}  # fmt: skip
PUT_TOGETHER = {  # texts that a visitor meets only in others, and these
    "{} {}: choose a smaller model.": (
        "{} takes about {} of GPU memory with the plan {}, and {} are free: choose a smaller model.",
        "{} takes about {} of GPU memory even with the plan {}, and {} are free: choose a smaller model.",
        "{} lays about {} into the CPU's memory with the plan {}, and {} are free there: choose a smaller model.",
        "{} lays about {} into the CPU's memory even with the plan {}, and {} are free there: choose a smaller model.",
    ),
    "{} {}: start with --plan {}, which {} ({}).": (
        "{} takes about {} of GPU memory with the plan {}, and {} are free: start with --plan {}, which takes {} "
        "({p}).",
        "{} lays about {} into the CPU's memory with the plan {}, and {} are free there: start with --plan {}, which "
        "takes {} ({p}).",
    ),
    "Your GPU quota does not cover this picture{left}: ask for fewer steps or pictures, log in to Hugging Face for "
    "more of it, or try again {when}.": (
        "Your GPU quota does not cover this picture: ask for fewer steps or pictures, log in to Hugging Face for more "
        "of it, or try again {p}.",
        "Your GPU quota does not cover this picture ({n} s asked for, {n} s left): ask for fewer steps or pictures, "
        "log in to Hugging Face for more of it, or try again {p}.",
    ),
    "precision must be {}.": ("precision must be {} or {}.",),
    "A fine-tune of {}, in one file.{}": (
        "A fine-tune of {}, in one file.",
        "Its {} and all settings are those of {}.",
    ),
    "“{}” {}, and at most {} are taken here: choose a smaller file.": (
        "“{}” has {}, and at most {} are taken here: choose a smaller file.",
        "“{}” is larger than it says, and at most {} are taken here: choose a smaller file.",
    ),
    "It was drawn over a picture: give it along, the file whose sha256 is “{}”{}.": (
        "It was drawn over a picture: give it along, the file whose sha256 is “{}”.",
        "It was drawn over a picture: give it along, the file whose sha256 is “{}” and its mask the one of “{}”.",
    ),
    "{} Shown is what it answered {}.": ("Shown is what it answered {n} minutes ago.",),
    "; {}; trying again in {}": ("trying again in {p}",),
    # What ui/compare.py has in the page's own words
    "{}.values must be a list of 1 to {} values.": ("{p} needs {n} to {n} values with commas between them.",),
    "{}.find, or else the first of its values, must be a part of the prompt: “{}” is none.": (
        "{p} replaces its first words by each: they must be a part of the prompt: “{}” is none.",
    ),
    "{}.lora must be one of the blend's LoRAs: {}.": (
        "{p} varies a LoRA, which must be one of the blend's LoRAs: {}.",
    ),
    "{}.values must not hold null: write the value that is meant.": (
        "{p}: values must not hold null: write the value that is meant.",
    ),
    "{}.values must be texts for the prompt.": ("{p}: values must be texts for the prompt.",),
    "{}.values must be refs of LoRAs, or “none”.": ("{p}: values must be refs of LoRAs, or “none”.",),
    "{} needs a LoRA in loras, whose weight it can vary.": (
        "{p} needs a LoRA of the blend on Create, whose weight it can vary.",
    ),
    "rows must vary something else than columns, which vary {} already.": (
        "Down must vary something else than Across: {p} already.",
    ),
    "columns and rows must make at most {} pictures, not {}.": (
        "Across and Down must make at most {n} pictures, not {n} × {n}.",
    ),
    "loras is required: name the LoRAs whose part in the picture is to be seen.": (
        "Pick LoRAs on Create first: those whose part in the picture is to be seen.",
    ),
    "columns is required: what varies, such as the field steps with values.": (
        "Across is required: what varies, such as the field steps with values.",
    ),
}
NO_PROSE = re.compile(r"<|^(SELECT|INSERT|CREATE) |^ZeroGPU |['’](self|none)['’]|\\1|\^|\\b|\d+ms ease")
ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = ("core", "lora_catalog", "ui")
PROSE = re.compile(r"[A-Za-z’']{2,},? [a-z’']+,? [a-z’']{2,}")  # three words beside each other
HOLES = re.compile(r"\{[np]?\}")
A_FORM = {"“{}”": r"(“.+?”|\{\})", "{n}": r"(\{\}|[\d.,−-]+)", "{}": "(.+?)", "{p}": "(.+?)"}


def trees() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text("utf-8"))


def forms(node: ast.AST, constants: dict[str, ast.expr]) -> list[str]:
    """What an expression may say, with holes for what it does not know; empty for what is no text."""
    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.JoinedStr(values=parts):
            return ["".join(one) for one in product(*(forms(part, constants) or ["{}"] for part in parts))]
        case ast.FormattedValue(value=ast.Name(id=name)) if name in constants:
            return forms(constants[name], constants) or ["{}"]
        case ast.FormattedValue(value=ast.Call(func=ast.Name(id="quoted"))):
            return ["“{}”"]
        case ast.FormattedValue(value=ast.IfExp() as either):
            return forms(either, constants) or ["{}"]
        case ast.IfExp(body=one, orelse=other):
            found = [forms(one, constants), forms(other, constants)]
            return [text for texts in found for text in texts] if all(found) else []
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            both = [forms(left, constants) or ["{}"], forms(right, constants) or ["{}"]]
            return ["".join(one) for one in product(*both)] if both != [["{}"], ["{}"]] else []
    return []


def said_in(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and text of all that is prose, but for docstrings, the log and descriptions of fields."""
    constants = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        match node:
            case ast.Expr(value=ast.Constant()):
                continue
            case ast.Call(func=ast.Attribute(value=ast.Name(id="log"))) | ast.keyword(arg="description"):
                continue
        found = forms(node, constants)
        yield from ((getattr(node, "lineno", 0), text) for text in found)
        waiting += [] if found else ast.iter_child_nodes(node)


class Table:
    """One language's texts, read as ui/language.js reads them, but strictly: of what stands in a hole nothing may be
    prose that is in no table."""

    def __init__(self, texts: dict[str, str]) -> None:
        self._texts = texts.keys()
        self._forms = [(self._expression(text), re.findall("|".join(map(re.escape, A_FORM)), text)) for text in texts]
        self._all = "\n".join(HOLES.sub("{}", text) for text in texts)

    @staticmethod
    def _expression(text: str) -> re.Pattern[str]:
        parts = re.split("(" + "|".join(map(re.escape, A_FORM)) + ")", text)
        return re.compile("".join(A_FORM.get(part) or re.escape(part) for part in parts), re.IGNORECASE)

    def has(self, text: str) -> bool:
        """As a text of its own, as several sentences, or as a piece of a text that the code puts together."""
        return self._says(text) or HOLES.sub("{}", text).strip() in self._all

    def _says(self, text: str) -> bool:
        sentences = re.split(r"(?<=[.:}]) (?=[A-Z“])", text)
        return self._is_known(text) or (len(sentences) > 1 and all(map(self._is_known, sentences)))

    def _is_known(self, text: str) -> bool:
        if text in self._texts or not re.search("[A-Za-z]", text):
            return True
        for expression, holes in self._forms:
            found = expression.fullmatch(text)
            if found and all(map(self._fills, holes, found.groups())):
                return True
        return False

    def _fills(self, hole: str, held: str) -> bool:
        if hole == "{p}":
            return not re.search("[A-Za-z]", held) or self._says(held)
        return hole == "“{}”" or not PROSE.search(held)


@pytest.mark.parametrize("language", languages())
def test_all_that_the_code_tells_a_visitor_is_in_each_table(language: str) -> None:
    table = Table(languages()[language])
    told = [
        (f"{path}:{line}", text)
        for path, tree in trees()
        if path not in OTHERS
        for line, text in said_in(tree)
        if PROSE.search(text) and not NO_PROSE.search(text)
    ]
    assert [(place, text) for place, text in told if text not in NOT_SAID | PUT_TOGETHER and not table.has(text)] == []


@pytest.mark.parametrize("language", languages())
def test_each_stage_of_long_work_is_in_each_table(language: str) -> None:
    calls = (
        node
        for _, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Progress"
    )
    stages = {text for call in calls if call.args for text in forms(call.args[0], {})} - NOT_SAID.keys()
    table = Table(languages()[language])
    assert len(stages) > 9
    assert sorted(stage for stage in stages if not table.has(stage)) == []


@pytest.mark.parametrize("language", languages())
def test_what_the_code_puts_together_is_in_each_table_as_it_is_read(language: str) -> None:
    assert [text for texts in PUT_TOGETHER.values() for text in texts if text not in languages()[language]] == []


def test_no_text_is_an_exception_that_the_code_has_no_more() -> None:
    told = {text for _, tree in trees() for _, text in said_in(tree)}
    assert sorted((NOT_SAID | PUT_TOGETHER).keys() - told) == []
    assert all((ROOT / path).is_file() for path in OTHERS)
