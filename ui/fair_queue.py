"""Gradio's queue for all that does not draw: calls of one function never cost strangers another."""

from __future__ import annotations

from typing import Any

from gradio.queueing import Queue
from gradio.route_utils import get_fn

from ui.mailboxes import Mailboxes
from ui.visitors import Visitors

MOST_AT_ONCE = 8  # calls of one function
MOST_OF_ONE = 16  # that wait, of one session or one network
MOST_WAITING = 64  # of one function, of all
_FULL = "Too many calls of this kind wait already: try again in a moment."


class FairQueue(Queue):
    """Gradio's own bound counts all functions together, so that whoever calls one often would close all of them.

    What draws waits in core.turns, and stands here only until the next free thread.
    """

    def __init__(self, visitors: Visitors, **options: Any) -> None:
        super().__init__(max_size=None, default_concurrency_limit=MOST_AT_ONCE, **options)
        self._visitors = visitors
        self.pending_messages_per_session = Mailboxes(self)
        self.ANALYTICS_MAX_EVENTS = 0  # of a page of figures that is not served

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
        """Refuses within the call: the answer is 503 with the sentence."""
        if body.fn_index is not None:
            waiting = self.event_queue_per_concurrency_id.get(get_fn(self.blocks, None, body).concurrency_id)
            others = waiting.queue if waiting is not None else []
            network = self._visitors.network_of(request)
            own = sum(
                event.session_hash == body.session_hash
                or bool(network and network == self._visitors.network_of(event.request))
                for event in others
            )
            if own >= MOST_OF_ONE or len(others) >= MOST_WAITING:
                return False, _FULL, "queue_full"
        return await super().push(body, request, username)
