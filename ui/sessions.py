"""What Gradio keeps of each session, without the description of the whole page that it would make for each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import SimpleNamespace
from typing import Any

from gradio.state_holder import SessionState, StateHolder

MOST_SESSIONS = 2000  # of open pages; the least used go, and begin anew


class LightSessions(StateHolder):
    """A description of the page takes 100 ms and 1 MB for each session, which a call without one would be as well. It
    serves deep links, which are not served here."""

    def __init__(self, page: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.set_blocks(page)
        self.capacity = MOST_SESSIONS

    def __getitem__(self, session_id: str) -> SessionState:
        if session_id not in self.session_data:
            bare: Any = SimpleNamespace(default_config=self.blocks.default_config, blocks={})
            self.session_data[session_id] = SessionState(bare)
        return super().__getitem__(session_id)

    def forget(self, session_id: str) -> None:
        """A session that nobody can come back to."""
        with self.lock:
            self.session_data.pop(session_id, None)
            self.time_last_used.pop(session_id, None)


def light_sessions(page: Any) -> Callable[[Any], AbstractAsyncContextManager[None]]:
    """For `app_kwargs` of launch(): a lifespan that begins with them."""

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        app.state_holder = LightSessions(page)
        yield

    return lifespan
