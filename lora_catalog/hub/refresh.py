"""Refresher: asks the Hub the questions behind a search, in the background, and puts its answers into the index."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass

from huggingface_hub import ModelInfo

from lora_catalog.card import LoraCard
from lora_catalog.errors import HubBusy, HubError, HubUnreachable
from lora_catalog.hub.api import HubApi, Listing
from lora_catalog.index import Asked, CardIndex

log = logging.getLogger(__name__)

FRESH = 900.0  # seconds for which an answer is not asked for again
PAGE = 100  # models in a page
MOST_PAGES = 10  # of one question in one go
MOST_WAITING = 32  # questions; the oldest are given up
PAUSE = 30.0  # seconds without a question after the Hub failed to answer


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of the Hub: models that carry all of `filters` and match `search`, best by `sort` first."""

    filters: tuple[str, ...]
    search: str
    sort: str

    def key(self, endpoint: str) -> str:
        """By which the index knows the answer again: another Hub answers otherwise."""
        return json.dumps([endpoint, asdict(self)], ensure_ascii=False)


class Refresher:
    """One thread at most asks, one question after the other; it ends when there is nothing left to ask."""

    def __init__(
        self,
        api: HubApi,
        index: CardIndex,
        cards_of: Callable[[Sequence[ModelInfo]], Iterable[LoraCard]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._api, self._index, self._cards_of, self._clock = api, index, cards_of, clock
        self._changed = threading.Condition()
        self._waiting: dict[Question, int] = {}  # how many cards of each are wanted
        self._working = False
        self._fault: HubError | None = None
        self._silent_until = 0.0

    def ask(self, questions: Iterable[Question], wanted: int, patience: float) -> bool:
        """Sees to it that the index holds the Hub's first `wanted` answers to each question, and fresh ones.

        Waits for at most `patience` seconds, and only for what the index does not hold yet: stale answers are
        refreshed behind the caller's back. True while answers are still under way.
        """
        due = {question: missing for question in questions if (missing := self._missing(question, wanted)) is not None}
        with self._changed:
            if due and self._clock() >= self._silent_until:
                for question in due:
                    self._waiting[question] = max(wanted, self._waiting.pop(question, 0))
                while len(self._waiting) > MOST_WAITING:
                    del self._waiting[next(iter(self._waiting))]
                if not self._working:
                    self._working = True
                    threading.Thread(target=self._work, name="hub-search", daemon=True).start()
            if any(due.values()):
                self._changed.wait_for(lambda: not due.keys() & self._waiting.keys(), patience)
            return bool(due.keys() & self._waiting.keys())

    def note(self, questions: Sequence[Question]) -> str | None:
        """A sentence on how old the answers are while the Hub does not give new ones; None while it does."""
        with self._changed:
            fault = self._fault
        if fault is None:
            return None
        times = [
            asked.at
            for question in questions
            if (asked := self._index.asked(question.key(self._api.endpoint))) is not None
        ]
        if not times:
            return f"{fault} Shown are cards seen before."
        return f"{fault} Shown is what it answered {_ago(self._clock() - min(times))}."

    def _missing(self, question: Question, wanted: int) -> bool | None:
        """None where the index holds a fresh answer, False where a stale one, True where too little of one."""
        asked = self._index.asked(question.key(self._api.endpoint))
        if asked is None or (asked.next is not None and asked.cards < wanted):
            return True
        return False if self._clock() - asked.at > FRESH else None

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.notify_all()
                if not self._waiting:
                    self._working = False
                    return
                question, wanted = next(reversed(self._waiting.items()))  # somebody still waits for the newest
            fault: HubError | None = None
            try:
                self._answer(question, wanted)
            except HubError as error:
                fault = error
            except Exception:  # a bug must not leave searches waiting for a thread that is gone
                log.exception("a search of the Hub failed")
            with self._changed:
                self._fault = fault
                self._waiting.pop(question, None)
                if isinstance(fault, HubBusy | HubUnreachable):
                    self._silent_until = self._clock() + (fault.seconds if isinstance(fault, HubBusy) else PAUSE)
                    self._waiting.clear()  # the next search asks again

    def _answer(self, question: Question, wanted: int) -> None:
        asked = self._index.asked(question.key(self._api.endpoint))
        if asked is None or self._clock() - asked.at > FRESH:
            etag = asked.etag if asked else None
            first = self._api.models(question.filters, question.search, question.sort, PAGE, etag)
            if first.unchanged and asked is not None:
                asked = Asked(self._clock(), asked.etag, asked.next, asked.cards)
                self._index.note_asked(question.key(self._api.endpoint), asked)
            else:
                asked = self._kept(question, first, 0, first.etag)
        for _ in range(MOST_PAGES):
            if asked.next is None or asked.cards >= wanted:
                return
            asked = self._kept(question, self._api.more_models(asked.next), asked.cards, asked.etag)

    def _kept(self, question: Question, listing: Listing, before: int, etag: str | None) -> Asked:
        now = self._clock()
        self._index.put(self._cards_of(listing.models), now)
        asked = Asked(now, etag, listing.next, before + len(listing.models))
        self._index.note_asked(question.key(self._api.endpoint), asked)
        return asked


def _ago(seconds: float) -> str:
    for unit, size in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        count = int(seconds // size)
        if count:
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "less than a minute ago"
