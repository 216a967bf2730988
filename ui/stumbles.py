"""What Gradio itself stumbles over in a request, as one sentence with an id, and one line of the log without paths."""

from __future__ import annotations

import logging
import traceback

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core.bugs import in_words, new_number, no_room
from ui.limits import answer

_OURS = ("core.", "lora_catalog.", "ui.")
# The middleware that Gradio's own frames stand within.
_AROUND = (
    "ui.page", "ui.fair_queue", "ui.stumbles", "ui.hosts", "ui.limits", "ui.sessions", "ui.uploads", "ui.own_files",
    "ui.mailboxes", "ui.compressed",
)  # fmt: skip

log = logging.getLogger(__name__)


class Stumbles:
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
            status, sentence = told(error)
            if not begun:
                await answer(send, status, sentence)


def told(error: Exception) -> tuple[int, str]:
    """A status and a sentence. A bug of ours keeps its traceback in the log; what is Gradio's own leaves one line."""
    frames = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    full = no_room(error)
    if full is not None:
        return 507, str(full)
    if any(name.startswith(_OURS) and name not in _AROUND for name in frames):
        return 500, str(in_words(error))
    number = new_number()
    log.error("Error %s: %s in %s", number, type(error).__name__, frames[-1])
    return 500, f"This request could not be answered: check what was sent. The log has it under {number}."
