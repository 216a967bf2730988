"""Errors as people see them: our own as their sentence, bugs as an id whose traceback is in the log."""

from __future__ import annotations

import logging
import secrets
from html import escape

from core.errors import LoomError
from lora_catalog.errors import CatalogError

log = logging.getLogger(__name__)


def sentence_for(error: Exception) -> str:
    """What to show of an error: never a traceback, a path of the server or a library's own words."""
    if isinstance(error, LoomError | CatalogError):
        return str(error)
    number = secrets.token_hex(3)
    log.error("bug %s", number, exc_info=error)
    return f"Something broke on our side; nothing of yours is wrong. The log has the details under {number}."


def alert_html(error: Exception) -> str:
    """The sentence as the page's notices have it."""
    return f'<p role="alert">{escape(sentence_for(error))}</p>'
