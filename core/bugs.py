"""An error as people may see it: our own as it is, a full disk by name, a bug as an id under which the log has it."""

from __future__ import annotations

import errno
import logging
import secrets

from core.errors import DiskFull, Internal, LoomError
from lora_catalog.errors import CatalogError

log = logging.getLogger(__name__)

_NO_ROOM = frozenset([errno.ENOSPC, errno.EDQUOT, errno.EFBIG])


def in_words(error: Exception, number: str = "") -> LoomError | CatalogError:
    """`number` is the job's, where there is one: what is shown and what is logged name the same."""
    if isinstance(error, LoomError | CatalogError):
        return error
    full = no_room(error)
    if full is not None:
        return full
    number = number or new_number()
    log.error("Error %s", number, exc_info=error)
    return Internal(f"Something broke on our side; nothing of yours is wrong. The log has the details under {number}.")


def no_room(error: BaseException | None) -> DiskFull | None:
    """Where a file could not be written, however deep in what was raised for it; else None."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            log.error("The disk is full")
            return DiskFull("The disk of this server is full: try again later, or tell whoever runs it to make room.")
        error = error.__cause__ or error.__context__
    return None


def new_number() -> str:
    """A name for a job or a bug that people can quote."""
    return secrets.token_hex(4)
