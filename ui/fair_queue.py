"""Gradio's queue, fair: calls of one function never cost strangers another; what has no place is refused at once."""

from __future__ import annotations

import asyncio
from asyncio import Queue as Mailbox
from collections.abc import Callable
from typing import Any

from gradio.block_function import BlockFunction
from gradio.exceptions import Error
from gradio.queueing import Event, Queue
from gradio.route_utils import get_fn
from gradio.server_messages import ProcessCompletedMessage
from gradio.utils import error_payload

from lora_catalog.visitor import Visitor
from ui.mailboxes import Mailboxes
from ui.runs import DRAWS
from ui.visitors import Visitors

MOST_AT_ONCE = 8  # calls of one function
MOST_OF_ONE = 16  # that wait, of one session or one network
MOST_WAITING = 64  # of one function, of all
MOST_UNREAD = 200  # words to one session that nobody came for: each refused call leaves 4 KB of them
MOST_AT_THE_DOOR = 256  # calls that draw and wait for a thread, in which they get their place or are refused at once
# Seconds between two looks for work: Gradio's millisecond takes 6 % of a processor. It dozes while nobody calls.
AWAKE, DOZING, AWAKE_FOR = 0.02, 0.1, 5.0
_FULL = "Too many calls of this kind wait already: try again in a moment."


class FairQueue(Queue):
    """Gradio's own bound counts all functions together, so that whoever calls one often would close all of them.

    What draws waits in core.turns, and stands here only until the next free thread.
    """

    def __init__(self, visitors: Visitors, refused: Callable[[Visitor], str | None], **options: Any) -> None:
        super().__init__(max_size=None, default_concurrency_limit=MOST_AT_ONCE, **options)
        self._visitors, self._refused = visitors, refused
        self.pending_messages_per_session: Mailboxes = Mailboxes(self)
        self.ANALYTICS_MAX_EVENTS = 0  # of a page of figures that is not served
        self._pushed = False
        self.sleep_when_free = AWAKE

    async def start_progress_updates(self) -> None:
        """Lets the queue doze; Gradio would look ten times a second for gr.Progress, which nothing here uses."""
        while not self.stopped:
            await asyncio.sleep(AWAKE_FOR)
            self.sleep_when_free = AWAKE if self._pushed else DOZING
            self._pushed = False

    def compute_analytics_summary(self, records: object) -> dict[str, Any]:
        """Nothing: Gradio would lay its last 10,000 calls out as a table after each one."""
        return {"functions": {}}

    async def process_events(self, events: list[Any], *rest: Any) -> None:
        """A call without a session of its own leaves none behind."""
        try:
            await super().process_events(events, *rest)
        finally:
            for event in events:
                if event.session_hash not in self.pending_messages_per_session:  # whose client went away meanwhile
                    self.pending_event_ids_session.pop(event.session_hash, None)
                if event.session_hash == event._id and self.server_app is not None:
                    self.server_app.state_holder.forget(event.session_hash)

    async def push(self, body: Any, request: Any, username: str | None) -> Any:
        """Refuses within the call: the answer is 503 with the sentence. gradio_client keeps that from who uses it, so
        that a program that would draw gets an event instead which has ended with the sentence."""
        self._pushed, self.sleep_when_free = True, AWAKE
        if body.fn_index is not None:
            fn = get_fn(self.blocks, None, body)
            draws = fn.concurrency_limit is DRAWS["concurrency_limit"]
            waiting = self.event_queue_per_concurrency_id.get(fn.concurrency_id)
            others = waiting.queue if waiting is not None else []
            network = self._visitors.network_of(request)
            own = sum(
                event.session_hash == body.session_hash
                or bool(network and network == self._visitors.network_of(event.request))
                for event in others
            )
            if self._reads_nothing(body.session_hash):
                return False, _FULL, "queue_full"
            if own >= MOST_OF_ONE or len(others) >= (MOST_AT_THE_DOOR if draws else MOST_WAITING):
                return False, _FULL, "queue_full"
            if draws and fn.api_visibility == "public" and (refusal := self._refusal(fn, body, network)) is not None:
                return True, self._ended(Event(body.session_hash, fn, request, username), refusal), "success"
        return await super().push(body, request, username)

    def _reads_nothing(self, session: str | None) -> bool:
        """Whether too many words wait for a session whose calls go on; those of calls that have ended are forgotten."""
        boxes = self.pending_messages_per_session
        if session is None or session not in boxes or boxes[session].qsize() < MOST_UNREAD:
            return False
        if boxes.goes_on(session):
            return True
        del boxes[session]
        return False

    def _refusal(self, fn: BlockFunction, body: Any, network: str) -> str | None:
        """Why the line has no place. What the page asks for is refused by what draws, and said beside Generate."""
        said = {getattr(block, "label", None): value for block, value in zip(fn.inputs, body.data, strict=False)}
        own_id = said.get("visitor") or body.session_hash or ""
        return self._refused(Visitor(str(own_id), None, address=network))

    def _ended(self, event: Event, sentence: str) -> str:
        """The id of an event with its answer; no thread was taken for it, and nothing read of what was sent."""
        if event.session_hash not in self.pending_messages_per_session:
            self.pending_messages_per_session[event.session_hash] = Mailbox()
        self.pending_event_ids_session.setdefault(event.session_hash, set()).add(event._id)
        said = error_payload(Error(sentence), False)
        self.send_message(event, ProcessCompletedMessage(output=said, title="Error", success=False))
        return event._id
