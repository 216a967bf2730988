"""What a comparison is made of: its cells, their labels and baselines, and what is refused before any is drawn."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.compare.axes import FIELDS, Ground, names_of
from core.compare.plan import MOST_CELLS, Plan, plan_of_grid, plan_of_loras
from core.errors import BadRequest
from core.request import WeightedLora

ONE, TWO, THREE = ({"ref": f"bundled:{name}", "weight": 0.5} for name in ("one", "two", "three"))
BASE: dict[str, Any] = {
    "prompt": "a cat on a mat",
    "seed": 7,
    "steps": 2,
    "width": 64,
    "height": 64,
    "loras": [ONE, TWO],
}
DRAWN_SEED = 42
GROUND = Ground("pocket-sd3", lambda: DRAWN_SEED, {"bundled:three": "The third"})
STEPS = {"field": "steps", "values": [1, 2]}


def grid(columns: object, rows: object = None, baseline: object = None, **base: Any) -> Plan:
    return plan_of_grid(BASE | base, columns, rows, baseline, GROUND)


def strip(**base: Any) -> Plan:
    return plan_of_loras(BASE | base, GROUND)


def lines(plan: Plan, *fields: str) -> list[list[Any]]:
    """What the cells ask for in `fields`, row by row; of `loras` their refs and weights."""
    table: list[list[Any]] = [[] for _ in plan.rows.labels]
    for cell in plan.cells:
        said = [
            {lora["ref"].removeprefix("bundled:"): lora["weight"] for lora in cell.raw["loras"]}
            if field == "loras"
            else cell.raw.get(field)
            for field in fields
        ]
        table[cell.row].append(said[0] if len(said) == 1 else tuple(said))
    return table


def test_a_strip_shows_none_each_alone_all_and_all_but_each() -> None:
    plan = strip(loras=[ONE, TWO, THREE])
    assert lines(plan, "loras") == [
        [{}, {"one": 0.5}, {"two": 0.5}, {"three": 0.5}],
        [{"one": 0.5, "two": 0.5, "three": 0.5}, {"two": 0.5, "three": 0.5}, {"one": 0.5, "three": 0.5},
         {"one": 0.5, "two": 0.5}],
    ]  # fmt: skip
    assert [cell.label for cell in plan.cells][:5] == [
        "no LoRA",
        "only one",
        "only two",
        "only The third",
        "the whole blend",
    ]


def test_a_muted_lora_has_no_part_and_tags_in_the_prompt_have() -> None:
    plan = strip(prompt="a cat <lora:bundled:two:0.3>", loras=[ONE | {"muted": True}, THREE])
    assert plan.columns.labels == ("none", "The third", "two")
    assert {cell.raw["prompt"] for cell in plan.cells} == {"a cat"}


def test_leaving_one_out_leaves_the_others_weights_though_a_total_is_kept() -> None:
    plan = strip(total_strength=3.0, loras=[ONE | {"weight": 0.5}, TWO | {"weight": -1}])
    assert lines(plan, "loras", "total_strength") == [
        [({}, None), ({"one": 0.5}, 1.0), ({"two": -1}, 2.0)],
        [({"one": 0.5, "two": -1}, 3.0), ({"two": -1}, 2.0), ({"one": 0.5}, 1.0)],
    ]


def test_a_total_may_make_a_lora_stronger_than_its_weight_could_be() -> None:
    plan = strip(total_strength=10, loras=[ONE | {"weight": 0.1}])
    assert lines(plan, "loras", "total_strength")[1][0] == ({"one": 0.1}, 10)


def test_a_lora_without_weight_keeps_the_strength_of_its_words() -> None:
    plan = strip(total_strength=1.0, loras=[ONE, TWO | {"weight": 0, "text_encoder": 0.25}])
    alone = plan.cells[2].raw
    assert (alone["loras"][0]["text_encoder"], alone["total_strength"]) == (0.5, None)


def test_all_pictures_have_the_one_seed_that_was_drawn() -> None:
    assert {cell.raw["seed"] for plan in (strip(seed=-1), grid(STEPS, seed=None)) for cell in plan.cells} == {
        DRAWN_SEED
    }


def test_the_same_picture_is_drawn_once_and_shown_twice() -> None:
    plan = strip()
    assert len(plan.cells) == 6
    assert len(plan.order()) == 4  # of two LoRAs, all but one is the other alone


VARIED = [
    ({"field": "weight", "lora": "bundled:two", "values": [-1, 2]}, "loras",
     [{"one": 0.5, "two": -1}, {"one": 0.5, "two": 2}]),
    ({"field": "weight", "lora": 0, "values": [0]}, "loras", [{"one": 0, "two": 0.5}]),
    ({"field": "lora", "lora": 0, "values": ["bundled:three", "none"]}, "loras",
     [{"three": 0.5, "two": 0.5}, {"two": 0.5}]),
    (STEPS, "steps", [1, 2]),
    ({"field": "guidance", "values": [1.5, 4]}, "guidance", [1.5, 4]),
    ({"field": "seed", "values": [3, -1]}, "seed", [3, DRAWN_SEED]),
    ({"field": "prompt", "values": ["cat", "dog"]}, "prompt", ["a cat on a mat", "a dog on a mat"]),
    ({"field": "prompt", "find": "on a mat", "values": ["asleep"]}, "prompt", ["a cat asleep"]),
    ({"field": "model", "values": ["pocket-sdxl"]}, "model", ["pocket-sdxl"]),
]  # fmt: skip


AS_ASKED = strip().cells[-1].raw | {"loras": [WeightedLora.model_validate(lora).model_dump() for lora in BASE["loras"]]}
AS_ASKED.pop("total_strength")


@pytest.mark.parametrize(("axis", "field", "asked"), VARIED, ids=[json.dumps(axis) for axis, _, _ in VARIED])
def test_an_axis_changes_its_field_and_nothing_else(axis: dict[str, Any], field: str, asked: list[Any]) -> None:
    plan = grid(axis, baseline=False)
    assert lines(plan, field) == [asked]
    kept = [{name: value for name, value in cell.raw.items() if name != field} for cell in plan.cells]
    assert kept == [{name: value for name, value in AS_ASKED.items() if name != field}] * len(asked)


def test_two_axes_cross() -> None:
    plan = grid(STEPS, {"field": "seed", "values": [1, 2, 3]}, baseline=False)
    assert lines(plan, "seed", "steps") == [[(1, 1), (1, 2)], [(2, 1), (2, 2)], [(3, 1), (3, 2)]]
    assert plan.cells[3].label == "steps 2 · seed 2"


def test_both_axes_may_turn_at_the_same_lora() -> None:
    which = {"field": "lora", "lora": 0, "values": ["bundled:three", "none"]}
    plan = grid({"field": "weight", "lora": 0, "values": [1, 2]}, which, baseline=False, loras=[ONE])
    assert lines(plan, "loras") == [[{"three": 1}, {"three": 2}], [{}, {}]]


def test_an_empty_blend_can_try_loras_one_by_one() -> None:
    plan = grid({"field": "lora", "values": ["bundled:one", "bundled:two"]}, loras=[])
    assert [[lora["ref"] for lora in cell.raw["loras"]] for cell in plan.cells] == [
        [],
        ["bundled:one"],
        ["bundled:two"],
    ]


WEIGHT = {"field": "weight", "lora": 0, "values": [1, 2]}
BASELINES = [
    (WEIGHT, None, (("no LoRA", "1", "2"), ("",))),
    (STEPS, WEIGHT, (("1", "2"), ("no LoRA", "1", "2"))),
    (WEIGHT, STEPS, (("no LoRA", "1", "2"), ("1", "2"))),
    (STEPS, None, (("1", "2"), ("the blend", "no LoRA"))),
    (STEPS, {"field": "seed", "values": [5]}, (("1", "2"), ("5", "no LoRA, 5"))),
]


@pytest.mark.parametrize(("columns", "rows", "labels"), BASELINES)
def test_a_baseline_without_loras_stands_beside_what_it_is_the_baseline_of(
    columns: object, rows: object, labels: tuple[tuple[str, ...], tuple[str, ...]]
) -> None:
    plan = grid(columns, rows)
    assert (plan.columns.labels, plan.rows.labels) == labels
    bare = [cell for cell in plan.cells if cell.key == cell.bare]
    assert bare
    assert all(cell.raw["loras"] == [] and cell.label.startswith("no LoRA") for cell in bare)
    assert {cell.bare for cell in plan.cells} == {cell.key for cell in bare}
    assert grid(columns, rows, baseline=False).cells != plan.cells


def test_without_loras_there_is_nothing_to_leave_out() -> None:
    assert grid(STEPS, loras=[]).rows.labels == ("",)


def test_every_base_model_is_loaded_once() -> None:
    models = {"field": "model", "values": ["pocket-sd3", "pocket-sdxl-lcm", "pocket-sdxl"]}
    order = [cell.base_model for cell in grid(models, STEPS, baseline=False).order()]
    assert order == ["pocket-sd3"] * 2 + ["pocket-sdxl"] * 4


def test_a_model_that_takes_no_negative_prompt_draws_without_it() -> None:
    plan = grid({"field": "model", "values": ["pocket-sd3", "pocket-sdxl-lcm"]}, negative_prompt="blue", baseline=False)
    assert lines(plan, "negative_prompt") == [["blue", None]]


REFUSED: list[tuple[object, object, dict[str, Any], str]] = [
    (5, None, {}, "columns must be an object"),
    ({"values": [1]}, None, {}, "columns.field must be one of weight, lora"),
    ({"field": "sampler", "values": [1]}, None, {}, "columns.field must be one of"),
    ({"field": "steps"}, None, {}, "columns.values must be a list of 1 to 16"),
    ({"field": "steps", "values": []}, None, {}, "columns.values must be a list of 1 to 16"),
    ({"field": "steps", "values": [*range(1, 18)]}, None, {}, "columns.values must be a list of 1 to 16"),
    ({"field": "weight", "lora": 0, "values": [None]}, None, {}, "columns.values must not hold null"),
    ({"field": "seed", "values": [1, None]}, None, {}, "columns.values must not hold null"),
    ({"field": "steps", "values": [1], "colour": 2}, None, {}, "columns.colour is not part of an axis of steps"),
    ({"field": "steps", "values": [1, 0]}, None, {}, "columns (steps): steps must be from 1 to 100"),
    (STEPS, {"field": "seed", "values": [1.5]}, {}, "rows (seed): seed must be a whole number"),
    ({"field": "weight", "lora": 0, "values": [6]}, None, {}, "columns (weight of one): loras[0].weight must be"),
    ({"field": "weight", "values": [1]}, None, {}, "columns.lora must be one of the blend's LoRAs: bundled:one, bun"),
    ({"field": "weight", "lora": 2, "values": [1]}, None, {}, "columns.lora must be one of"),
    ({"field": "weight", "lora": "bundled:x", "values": [1]}, None, {}, "columns.lora must be one of"),
    ({"field": "weight", "values": [1]}, None, {"loras": []}, "columns needs a LoRA"),
    ({"field": "lora", "lora": 0, "values": [5]}, None, {}, "columns.values must be refs"),
    ({"field": "lora", "lora": 0, "values": ["/etc/passwd"]}, None, {}, "columns (in place of one): loras[0]"),
    ({"field": "lora", "lora": 0, "values": ["bundled:two"]}, None, {}, "columns (in place of one): loras must name"),
    ({"field": "prompt", "values": ["dog"]}, None, {}, "columns.find, or else the first of its values, must be a part"),
    ({"field": "prompt", "find": "", "values": ["dog"]}, None, {}, "columns.find"),
    ({"field": "prompt", "values": [1]}, None, {}, "columns.values must be texts"),
    ({"field": "model", "values": ["sd9"]}, None, {}, "columns (model): model must be one of"),
    ({"field": "model", "values": [{}]}, None, {}, "columns (model): model must be one of"),
    ({"field": "model", "values": ["pocket-sdxl-lcm"]}, None, {"steps": 20}, "columns (model): steps must be from 1"),
    (STEPS, {"field": "model", "values": ["pocket-sdxl-lcm"]}, {"guidance": 9}, "columns (steps) and rows (model): g"),
    (STEPS, STEPS, {}, "rows must vary something else"),
    (STEPS, None, {"steps": 0}, "steps must be from 1 to 100"),
    (STEPS, None, {"prompt": None}, "prompt is required"),
    ({"field": "steps", "values": [*range(1, 10)]}, {"field": "seed", "values": [*range(8)]}, {},
     f"columns and rows must make at most {MOST_CELLS} pictures, not 9 × 16"),
]  # fmt: skip


@pytest.mark.parametrize(("columns", "rows", "base", "said"), REFUSED, ids=[case[3][:50] for case in REFUSED])
def test_a_wrong_axis_is_one_sentence_that_names_it(
    columns: object, rows: object, base: dict[str, Any], said: str
) -> None:
    with pytest.raises(BadRequest) as caught:
        grid(columns, rows, **base)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("baseline", [0, 1, "x", [], 1.0])
def test_a_baseline_is_true_or_false_and_no_number(baseline: object) -> None:
    with pytest.raises(BadRequest, match="baseline must be true or false"):
        grid(STEPS, baseline=baseline)


def test_a_strip_without_loras_is_refused() -> None:
    for loras in ([], [ONE | {"muted": True}]):
        with pytest.raises(BadRequest, match="loras is required"):
            strip(loras=loras)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9), lambda of: st.lists(of, max_size=3)
)


ANY_AXIS = st.dictionaries(st.sampled_from(["field", "values", "lora", "find", "x"]), JSON)


@settings(deadline=None)
@given(ANY_AXIS, st.sampled_from([*FIELDS, None]))
def test_whatever_is_sent_is_a_plan_or_a_sentence(axis: dict[str, Any], field: str | None) -> None:
    try:
        assert grid(axis if field is None else axis | {"field": field}).cells
    except BadRequest as error:
        assert str(error).endswith(".")


def test_loras_have_short_names_unless_two_would_have_the_same() -> None:
    refs = ["bundled:pixel", "ann/cats:pytorch_lora_weights.safetensors", "ann/dogs@main:old/big.safetensors",
            "local:mine.safetensors", "none"]  # fmt: skip
    assert names_of(refs, {}) == ["pixel", "cats", "dogs big", "mine", "none"]
    assert names_of(["ann/cats", "bob/cats", "bob/owls"], {"bob/owls": "Owls"}) == ["ann/cats", "bob/cats", "Owls"]
