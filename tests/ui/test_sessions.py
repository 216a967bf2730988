"""A session holds what its visitor changed and nothing else, and what it holds stays apart from the others'."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from ui.mailboxes import Mailboxes
from ui.sessions import LeanStates


@pytest.fixture
def page() -> gr.Blocks:
    page = gr.Blocks(analytics_enabled=False)
    with page:
        gr.State([])
        gr.Dropdown(["a", "b"])
    return page


def ids(page: gr.Blocks) -> tuple[int, int]:
    found = {type(block): key for key, block in page.blocks.items()}
    return found[gr.State], found[gr.Dropdown]


def test_a_new_session_copies_nothing_of_the_page(page: gr.Blocks) -> None:
    session = LeanStates(page)["one"]
    assert session.blocks_config is page.default_config
    assert list(session.components) == []


def test_what_one_session_changes_no_other_sees(page: gr.Blocks) -> None:
    states = LeanStates(page)
    state, dropdown = ids(page)
    one, other = states["one"], states["other"]
    one[state].append("mine")
    one[state] = [*one[state], "too"]
    one[dropdown] = gr.Dropdown(["c"])
    one._update_config(dropdown)
    one._update_value_in_config(dropdown, "c")
    assert (one[state], other[state]) == (["mine", "too"], [])
    assert one[dropdown].choices == [("c", "c")]
    assert other[dropdown] is page.blocks[dropdown]
    assert page.blocks[dropdown].get_config()["choices"] == [("a", "a"), ("b", "b")]
    assert list(one.components) == []


def test_the_sessions_that_were_used_least_go_where_there_are_too_many(page: gr.Blocks) -> None:
    page.state_session_capacity = 2
    states = LeanStates(page)
    for name in ("one", "two", "one", "three"):
        states[name]
    assert ("one" in states, "two" in states, "three" in states) == (True, False, True)


def test_a_crowd_of_calls_takes_nobody_the_answer_that_is_still_to_come() -> None:
    queue: Any = SimpleNamespace(pending_event_ids_session={"waits": {"1"}}, event_ids_to_events={"1": object()})
    boxes = Mailboxes(queue, most_read=2, most=4)
    boxes["waits"] = asyncio.Queue()
    for number in range(10):
        queue.pending_event_ids_session[f"read {number}"] = set()
        boxes[f"read {number}"] = asyncio.Queue()
    assert list(boxes) == ["waits", "read 9"]
    for number in range(10):
        queue.pending_event_ids_session[f"never read {number}"] = {f"over {number}"}
        boxes[f"never read {number}"] = asyncio.Queue()
    assert list(boxes) == ["waits", *(f"never read {number}" for number in (7, 8, 9))]
    assert list(queue.pending_event_ids_session) == list(boxes)
