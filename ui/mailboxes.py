"""Mailboxes: what Gradio's queue has still to tell each session; the oldest go, but never of a call that goes on."""

from __future__ import annotations

from asyncio import Queue as Mailbox
from collections import OrderedDict

from gradio.queueing import Queue
from gradio.server_messages import EventMessage
from gradio.utils import LRUCache

# A call without a session makes one for itself, and Gradio keeps it. A page's is made anew with its next call.
MOST_READ, MOST = 100, 1000


class Mailboxes(LRUCache[str, Mailbox[EventMessage]]):
    """Gradio's own lets the oldest of 2,000 go: whoever makes so many calls would take the answers of all who wait.

    Beside each, Gradio keeps the ids of the session's calls, for ever: they go with it.
    """

    def __init__(self, queue: Queue, most_read: int = MOST_READ, most: int = MOST) -> None:
        super().__init__(most)
        self._queue, self._most_read = queue, most_read

    def __setitem__(self, session: str, box: Mailbox[EventMessage]) -> None:
        if session not in self and len(self) >= self._most_read:
            oldest = self._oldest()
            if oldest is not None:
                del self[oldest]
        OrderedDict.__setitem__(self, session, box)

    def __delitem__(self, session: str) -> None:
        super().__delitem__(session)
        if not self.goes_on(session):
            self._queue.pending_event_ids_session.pop(session, None)

    def _oldest(self) -> str | None:
        """One whose answers were all read, else one whose answer nobody has come for."""
        unread: str | None = None
        session: str
        for session in self:
            if not self._queue.pending_event_ids_session.get(session):
                return session
            if unread is None and not self.goes_on(session):
                unread = session
        return unread if len(self) >= self.max_size else None

    def goes_on(self, session: str) -> bool:
        """Whether any call of the session has not ended."""
        calls = self._queue.pending_event_ids_session.get(session, ())
        return any(call in self._queue.event_ids_to_events for call in calls)
