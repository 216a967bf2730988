"""Who asks: every call of the catalogue and the studio is made on behalf of a visitor."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Visitor:
    """A random id, and the visitor's own Hub token where they gave one: in memory only, never printed or logged.

    `lent`: the token is that of the machine's owner, and the visitor does not know of it. `address` tells their network
    from others, and is empty for this machine's own.
    """

    id: str
    token: str | None = field(default=None, repr=False)
    lent: bool = False
    address: str = field(default="", repr=False, compare=False)

    @classmethod
    def new(cls, token: str | None = None) -> Visitor:
        """A visitor nobody can guess the id of."""
        return cls(secrets.token_urlsafe(16), token)


ANYONE = Visitor("")  # a visitor without an id or a token: sees what is public
