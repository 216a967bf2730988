"""Errors as people see them: our own as their sentence, bugs as an id whose traceback is in the log."""

from __future__ import annotations

from html import escape

from core.bugs import in_words


def sentence_for(error: Exception) -> str:
    """What to show of an error: never a traceback, a path of the server or a library's own words."""
    return str(in_words(error))


def alert_html(error: Exception) -> str:
    """The sentence as the page's notices have it."""
    return f'<p role="alert">{escape(sentence_for(error))}</p>'
