"""The Hub's LoRAs, the hand-picked ones among them: searched in the index, looked into by header, kept in the store."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from huggingface_hub import ModelInfo

from lora_catalog.bases import bases_of
from lora_catalog.card import LoraCard
from lora_catalog.errors import Broken, Flagged, Gated, HubBusy, HubUnreachable, NotShown, RevisionGone
from lora_catalog.header import FIRST_READ, Header, MoreNeeded, header_from, read_header
from lora_catalog.hub.api import HubApi
from lora_catalog.hub.cards import card_of, with_facts
from lora_catalog.hub.refresh import Question, Refresher
from lora_catalog.hub.repo import RepoFacts, RepoFile, facts_of
from lora_catalog.index import CardIndex
from lora_catalog.reference import LoraRef, SourceName
from lora_catalog.search import Search, SearchFamily
from lora_catalog.sources.base import FetchedLora, Fetching, Found
from lora_catalog.store import LoraStore
from lora_catalog.visitor import Visitor

PATIENCE = 2.0  # seconds that a search waits for what the index has never seen
FACTS_FRESH = 300.0  # seconds for which a repo's facts, and a visitor's right to its files, are not asked for again
MOST_FACTS, MOST_HEADERS = 512, 64  # kept in memory
LARGEST_PICTURE = 8_000_000  # bytes
BASES_ASKED = 2  # of a family's base models, the best known
_SD3: tuple[SearchFamily, ...] = ("sd3.5-large", "sd3.5-medium", "sd3-medium")
_SORTS = {"downloads": "downloads", "likes": "likes", "recent": "lastModified"}


class HubSource:
    """Serves USER/REPO refs. Gated and private repos only to visitors whose own token the Hub accepts for them.

    `curated` are cards of the Hub that we know more of than it says; they stand in the index from the first search on.
    """

    name: SourceName = "hub"

    def __init__(
        self,
        api: HubApi,
        index: CardIndex,
        store: LoraStore,
        curated: Sequence[LoraCard] = (),
        clock: Callable[[], float] = time.time,
        patience: float = PATIENCE,
    ) -> None:
        self._api, self._index, self._store, self._clock, self._patience = api, index, store, clock, patience
        self._curated: dict[str, list[LoraCard]] = {}
        for card in curated:
            self._curated.setdefault(_repo_of(card).casefold(), []).append(card)
        self._refresher = Refresher(api, index, self._cards, clock)
        self._lock = threading.Lock()
        self._begun = False
        self._facts: OrderedDict[tuple[str, str | None, str | None], tuple[float, RepoFacts]] = OrderedDict()
        self._rights: OrderedDict[tuple[str, str, str], float] = OrderedDict()
        self._headers: OrderedDict[LoraRef, Header] = OrderedDict()

    def search(self, wanted: Search, skip: int, limit: int, visitor: Visitor) -> Found:
        """From the index; the Hub is asked behind it, and waited for only where the index knows nothing yet."""
        self._begin()
        questions = _questions(wanted)
        under_way = self._refresher.ask(questions, skip + limit, self._patience)
        cards = self._index.search(wanted, skip, limit)
        return Found(cards, self._refresher.note(questions), under_way)

    def pin(self, ref: LoraRef, visitor: Visitor) -> LoraRef:
        """At the commit that its revision names now; a curated one at the commit of its first use."""
        facts = self._facts_of(ref, visitor)
        file = facts.file(ref.file)
        self._confirm(facts, file)
        return LoraRef("hub", facts.repo, facts.commit, file.name)

    def card(self, ref: LoraRef, visitor: Visitor) -> LoraCard:
        facts = self._facts_of(ref, visitor)
        known = self._curated_card(facts.repo, ref.file)
        card = facts.card if known is None else with_facts(known, facts.card)
        return card.model_copy(update={"ref": str(ref)})

    def header(self, ref: LoraRef, visitor: Visitor) -> Header:
        """From the file where it lies here, else from its first megabyte, with one more request where that is short."""
        ref, facts, file = self._readable(ref, visitor)
        with self._lock:
            if ref in self._headers:
                self._headers.move_to_end(ref)
                return self._headers[ref]
        held = self._store.held(str(ref))
        if held is not None:
            with held.in_use:
                header = read_header(held.path)
        else:
            header = self._header_there(facts, file, visitor.token)
        with self._lock:
            self._headers[ref] = header
            _trim(self._headers, MOST_HEADERS)
        return header

    def _header_there(self, facts: RepoFacts, file: RepoFile, token: str | None) -> Header:
        """One ranged request, or two where the header is longer than most."""
        read = partial(self._api.part_of, facts.repo, facts.commit, file.name, token=token)
        first = read(begin=0, count=FIRST_READ)
        found = header_from(file.name, first.data, first.size)
        if isinstance(found, MoreNeeded):
            rest = read(begin=len(first.data), count=found.bytes - len(first.data))
            found = header_from(file.name, first.data + rest.data, first.size)
        if isinstance(found, MoreNeeded):
            raise Broken(file.name, "the Hub sent less of it than it says there is")
        return found

    def preview(self, ref: LoraRef, visitor: Visitor) -> bytes | None:
        """For cards in the index only: nobody can have us ask the Hub for pictures of what no search has shown."""
        card = self._index.card(str(ref)) or self._index.card(str(LoraRef("hub", ref.name)))
        if card is None or card.preview is None:
            return None
        return self._api.small_file(ref.name, ref.revision or "main", card.preview, LARGEST_PICTURE, visitor.token)

    def fetch(self, ref: LoraRef, visitor: Visitor) -> Fetching:
        ref, facts, file = self._readable(ref, visitor)
        if file.verdict is not None:
            raise Flagged(f"{facts.repo}:{file.name}", file.verdict)
        held = self._store.held(str(ref))
        if held is None:
            chunks = partial(self._api.chunks, facts.repo, facts.commit, file.name, visitor.token)
            held = yield from self._store.fetch(str(ref), file.name, file.sha256, file.size, chunks)
        return FetchedLora(ref, held.path, held.sha256, self.card(ref, visitor), held.in_use)

    # Who may see what, at which commit ------------------------------------------------------------------------------

    def _readable(self, ref: LoraRef, visitor: Visitor) -> tuple[LoraRef, RepoFacts, RepoFile]:
        """The pinned ref, its repo and its file, which this visitor may read. Raises HubError else."""
        facts = self._facts_of(ref, visitor)
        file = facts.file(ref.file)
        if not facts.open_to_all:
            self._check_right(facts, file, visitor)
        return LoraRef("hub", facts.repo, facts.commit, file.name), facts, file

    def _check_right(self, facts: RepoFacts, file: RepoFile, visitor: Visitor) -> None:
        if visitor.token is None:
            if facts.gated:
                raise Gated(facts.repo, f"{self._api.endpoint}/{facts.repo}", has_token=False)
            raise NotShown(facts.repo, has_token=False)
        key = (facts.repo, facts.commit, visitor.token)
        with self._lock:
            if self._clock() - self._rights.get(key, 0.0) < FACTS_FRESH:
                return
        self._api.may_read(facts.repo, facts.commit, file.name, visitor.token)
        with self._lock:
            self._rights[key] = self._clock()
            _trim(self._rights, MOST_FACTS)

    def _facts_of(self, ref: LoraRef, visitor: Visitor) -> RepoFacts:
        """What the Hub says now, or said lately; of repos open to all, what it last said where it is down."""
        pinned = self._pinned_at_first_use(ref)
        try:
            return self._asked_facts(ref.name, ref.revision or pinned, visitor)
        except RevisionGone:
            if ref.revision is not None or pinned is None:
                raise
            return self._asked_facts(ref.name, None, visitor)  # its author rewrote history: pinned anew

    def _asked_facts(self, repo: str, revision: str | None, visitor: Visitor) -> RepoFacts:
        key = (repo, revision, visitor.token)
        with self._lock:
            at, known = self._facts.get(key, (0.0, None))
        if known is not None and self._clock() - at < FACTS_FRESH:
            return known
        try:
            facts = facts_of(self._api.repo(repo, revision, visitor.token))
        except (HubUnreachable, HubBusy):
            kept = self._index.recall(_facts_key(repo, revision))
            if kept is None or kept.value is None:
                raise
            return RepoFacts.model_validate(kept.value)
        except NotShown:
            if visitor.token is None:
                self._index.forget(str(LoraRef("hub", repo)))
                self._index.remember(_facts_key(repo, revision), None, self._clock())
            raise
        self._keep(key, facts)
        return facts

    def _keep(self, key: tuple[str, str | None, str | None], facts: RepoFacts) -> None:
        now = self._clock()
        with self._lock:
            self._facts[key] = (now, facts)
            _trim(self._facts, MOST_FACTS)
        # Kept on disk is only what anyone may see, so that nobody needs a token to read it there.
        value = facts.model_dump(mode="json") if facts.open_to_all else None
        for revision in {key[1], facts.commit}:
            self._index.remember(_facts_key(facts.repo, revision), value, now)

    # Curated cards --------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Puts the curated cards into the index, where it does not hold them yet."""
        with self._lock:
            if self._begun:
                return
            self._begun = True
        all_curated = [card for cards in self._curated.values() for card in cards]
        kept = {card.ref: self._index.card(card.ref) for card in all_curated}
        now = self._clock()
        self._index.put([with_facts(c, k, k.checked) if (k := kept[c.ref]) else c for c in all_curated], now)

    def _cards(self, models: Sequence[ModelInfo]) -> Iterator[LoraCard]:
        """The cards of a listing; a curated repo's are ours, with the Hub's figures."""
        for info in models:
            card = card_of(info)
            if card is None:
                continue
            ours = self._curated.get(info.id.casefold())
            for known in ours or ():
                seen = self._index.card(known.ref)
                yield with_facts(known, card, seen.checked if seen else None)
            if not ours:
                yield card

    def _curated_card(self, repo: str, file: str | None) -> LoraCard | None:
        cards = self._curated.get(repo.casefold(), ())
        return next((card for card in cards if file in (None, LoraRef.parse(card.ref).file)), None)

    def _pinned_at_first_use(self, ref: LoraRef) -> str | None:
        if ref.revision is not None or ref.name.casefold() not in self._curated:
            return None
        kept = self._index.recall(_pin_key(ref.name))
        return kept.value if kept is not None and isinstance(kept.value, str) else None

    def _confirm(self, facts: RepoFacts, file: RepoFile) -> None:
        """Remembers the commit of a curated LoRA's first use, and that the Hub has it."""
        known = self._curated_card(facts.repo, file.name)
        if known is None:
            return
        self._index.put([with_facts(known, facts.card, checked=True)], self._clock())
        if self._index.recall(_pin_key(facts.repo)) is None:
            self._index.remember(_pin_key(facts.repo), facts.commit, self._clock(), keep=True)


def _questions(wanted: Search) -> list[Question]:
    """One for each base model of the family; families without one on the Hub are looked for among all LoRAs."""
    families: Sequence[SearchFamily | None] = _SD3 if wanted.family == "sd3" else (wanted.family,)
    bases = [base for family in families if family for base in bases_of(family)[:BASES_ASKED]]
    licence = [f"license:{wanted.licence.casefold()}"] if wanted.licence else []
    by_base = [(f"base_model:adapter:{base}", "lora", *licence) for base in bases] or [("lora", *licence)]
    return [Question(filters, wanted.query, _SORTS[wanted.sort]) for filters in by_base]


def _repo_of(card: LoraCard) -> str:
    return LoraRef.parse(card.ref).name


def _facts_key(repo: str, revision: str | None) -> str:
    return f"repo {repo.casefold()}@{revision or ''}"


def _pin_key(repo: str) -> str:
    return f"pin {repo.casefold()}"


def _trim(kept: OrderedDict[Any, Any], most: int) -> None:
    while len(kept) > most:
        kept.popitem(last=False)
