"""Sessions: what Gradio keeps of each visitor, without copies that nothing reads."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from copy import copy
from typing import Any

from fastapi import HTTPException
from gradio.blocks import Blocks
from gradio.routes import App
from gradio.state_holder import SessionState, StateHolder

MOST_SESSIONS = 4000  # the least recently used go; a page that comes back to none begins anew
LONGEST_NAME = 200  # letters: Gradio's own have eleven, and whoever calls may send a megabyte that would be kept
CLOSED_SECONDS = 3600  # that a closed tab's own values are kept


class LeanState(SessionState):
    """One session. Gradio's own copies each block's configuration for its deep links: 365 KB and 40 ms a session here,
    and each call of the API that brings no session is a new one."""

    def __init__(self, blocks: Blocks) -> None:
        self._shared = self.blocks_config = blocks.default_config
        self.config_values: dict[int, dict[str, Any]] = {}
        self.state_data: dict[int, Any] = {}
        self._state_ttl = {}
        self.is_closed = False
        self.STATE_TTL_WHEN_CLOSED = CLOSED_SECONDS

    def __setitem__(self, key: int, value: Any) -> None:
        """A session's own table of blocks begins with the first block that is another one for it."""
        if self.blocks_config is self._shared:
            self.blocks_config = copy(self._shared)
        super().__setitem__(key, value)
        self.config_values.clear()

    def _update_config(self, key: int) -> None:
        """Nothing to update."""

    def _update_value_in_config(self, key: int, value: Any) -> None:
        """Nothing to update."""


class LeanStates(StateHolder):
    """All sessions of one page."""

    def __init__(self, blocks: Blocks) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.set_blocks(blocks)

    def __getitem__(self, session_id: str) -> SessionState:
        # Gradio parts the names of its tasks at “<gradio-sep>”: with one more in them, nobody's /cancel is answered
        if len(session_id) > LONGEST_NAME or "<" in session_id:
            raise HTTPException(400, f"session_hash must have at most {LONGEST_NAME} letters, and no “<”.")
        if session_id not in self.session_data:
            self.session_data[session_id] = LeanState(self.blocks)
        return super().__getitem__(session_id)

    def forget(self, session_id: str) -> None:
        """A session that nobody can come back to."""
        with self.lock:
            self.session_data.pop(session_id, None)
            self.time_last_used.pop(session_id, None)


@asynccontextmanager
async def lean(app: App) -> AsyncIterator[None]:
    """A lifespan for `app_kwargs` of launch(): before the first request comes, the sessions are lean ones."""
    app.state_holder = LeanStates(app.get_blocks())
    yield
