"""What Gradio itself stumbles over in a request, as one sentence with an id, and one line of the log without paths."""

from __future__ import annotations

import logging
import traceback

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core.bugs import new_number, no_room
from core.errors import LoomError
from ui.limits import answer

log = logging.getLogger(__name__)


class Faults:
    """Answers 507 where the disk is full, else 500; strangers can provoke these, so the log gets no more than a line
    of each."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    @classmethod
    def caught(cls) -> Middleware:
        """For `app_kwargs` of launch()."""
        return Middleware(cls)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry."""
        begun = False

        async def noted(message: Message) -> None:
            nonlocal begun
            begun = begun or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except Exception as error:
            if scope["type"] != "http":
                raise
            status, sentence = _told(error)
            if not begun:
                await answer(send, status, sentence)


def _told(error: Exception) -> tuple[int, str]:
    full = no_room(error)
    if isinstance(full, LoomError):
        return 507, str(full)
    number = new_number()
    last = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{last.name}, line {last.lineno}"
    log.error("Error %s: %s in %s", number, type(error).__name__, where)
    return (
        500,
        f"This request could not be answered; the log has it under {number}. Check what was sent, and try again.",
    )
