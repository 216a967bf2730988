"""Whether anybody still waits for a run: Gradio knows it at once, but tells a generator only when that yields."""

from __future__ import annotations

from collections.abc import Callable

from gradio.context import LocalContext


def nobody_waits() -> Callable[[], bool]:
    """For the event that this thread answers: whether its client cancelled it or went away by now.

    Always False outside Gradio's queue, where the caller waits by itself.
    """
    page, event_id = LocalContext.blocks.get(None), LocalContext.event_id.get(None)
    if page is None or event_id is None:
        return lambda: False
    queue = page._queue
    event = queue.event_ids_to_events.get(event_id)
    if event is None:
        return lambda: False

    def gone() -> bool:
        return not event.alive or not any(event in events for events in list(queue.active_jobs) if events)

    return gone
