"""The Hub's LoRAs, the hand-picked ones among them: searched in the index, looked into by header, kept in the store."""

from __future__ import annotations

import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from huggingface_hub import ModelInfo
from pydantic import ValidationError

from lora_catalog.bases import bases_of
from lora_catalog.card import LoraCard
from lora_catalog.errors import (
    BadHeader,
    BadToken,
    Broken,
    Flagged,
    Gated,
    HubBusy,
    HubUnreachable,
    NoRoom,
    NotShown,
    RevisionGone,
    UnknownRef,
)
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
RECALLED_FRESH = 20.0  # the same for what was recalled because the Hub is down
MOST_REVISIONS = 8  # of one repo, kept on disk
FACTS_FRESH = 300.0  # seconds for which a repo's facts, and a visitor's right to its files, are not asked for again
MOST_FACTS, MOST_HEADERS = 512, 64  # kept in memory
LARGEST_PICTURE = 8_000_000  # bytes
BASES_ASKED = 4  # of a family's base models, the best known
_SD3: tuple[SearchFamily, ...] = ("sd3.5-large", "sd3.5-medium", "sd3-medium")
# Licences with an id of the Hub's own: https://huggingface.co/docs/hub/repositories-licenses. The rest stand there as
# "other", with their name beside it.
_HUB_LICENCE = re.compile(
    r"(apache-2|mit$|(big\w+-|creativeml-)?openrail|cc|[al]?gpl|bsd|llama|gemma|afl|artistic|bsl|c-uda|ecl|epl|eupl|isc|"
    r"lppl|mpl|ms-pl|ncsa|odc|odbl|ofl|osl|pddl|postgresql|unlicense|wtfpl|zlib|etalab|deepfloyd|h-research|other|unknown)"
)
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
        self._worn_out: set[str] = set()  # lent tokens that the Hub refuses
        self._facts: OrderedDict[tuple[str, str | None, str | None], tuple[float, RepoFacts]] = OrderedDict()
        self._rights: OrderedDict[tuple[str, str, str], float] = OrderedDict()
        self._headers: OrderedDict[LoraRef, Header] = OrderedDict()

    def search(self, wanted: Search, skip: int, limit: int, visitor: Visitor) -> Found:
        """From the index; the Hub is asked behind it, and waited for only where the index knows nothing yet."""
        questions = _questions(wanted)
        try:
            self._begin()
            under_way = self._refresher.ask(questions, skip + limit, self._patience)
            cards = self._index.search(wanted, skip, limit)
            return Found(cards, self._refresher.note(questions), under_way)
        except NoRoom as error:  # of the index: the other sources' cards are found all the same
            return Found((), str(error))

    def pin(self, ref: LoraRef, visitor: Visitor) -> LoraRef:
        """At the commit that its revision names now; a curated one at the commit of its first use."""
        facts = self._facts_of(ref, visitor)
        file = _unflagged(facts, facts.file(ref.file))
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
            header = self._header_there(facts, file, self._token(visitor))
        with self._lock:
            self._headers[ref] = header
            _trim(self._headers, MOST_HEADERS)
        return header

    def _header_there(self, facts: RepoFacts, file: RepoFile, token: str | None) -> Header:
        """One ranged request, or two where the header is longer than most."""
        if file.size == 0:
            raise BadHeader(file.name, "it is empty")
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
        card = self._known_card(ref)
        if card is None:
            raise UnknownRef(str(ref))
        return None if card.preview is None else self._api.picture(ref.name, card.preview, LARGEST_PICTURE)

    def fetch(self, ref: LoraRef, visitor: Visitor) -> Fetching:
        ref, facts, file = self._readable(ref, visitor)
        held = self._store.held(str(ref))
        if held is None:
            chunks = partial(self._api.chunks, facts.repo, facts.commit, file.name, self._token(visitor))
            held = yield from self._store.fetch(str(ref), file.name, file.sha256, file.size, chunks)
        return FetchedLora(ref, held.path, held.sha256, self.card(ref, visitor), held.in_use)

    # Who may see what, at which commit ------------------------------------------------------------------------------

    def _readable(self, ref: LoraRef, visitor: Visitor) -> tuple[LoraRef, RepoFacts, RepoFile]:
        """The pinned ref, its repo and its file, which this visitor may read. Raises HubError else."""
        facts = self._facts_of(ref, visitor)
        file = _unflagged(facts, facts.file(ref.file))
        if not facts.open_to_all:
            self._check_right(facts, file, visitor)
        return LoraRef("hub", facts.repo, facts.commit, file.name), facts, file

    def _check_right(self, facts: RepoFacts, file: RepoFile, visitor: Visitor) -> None:
        token = self._token(visitor)
        if token is None:
            if facts.gated:
                raise Gated(facts.repo, f"{self._api.endpoint}/{facts.repo}", has_token=False)
            raise NotShown(facts.repo, has_token=False)
        key = (facts.repo, facts.commit, token)
        with self._lock:
            if self._clock() - self._rights.get(key, 0.0) < FACTS_FRESH:
                return
        self._api.may_read(facts.repo, facts.commit, file.name, token)
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
            facts = self._asked_facts(ref.name, None, visitor)  # its author rewrote history: pinned anew
            self._pin_for_good(facts)
            return facts

    def _asked_facts(self, repo: str, revision: str | None, visitor: Visitor) -> RepoFacts:
        token = self._token(visitor)
        key = (repo.casefold(), revision, token)
        with self._lock:
            until, known = self._facts.get(key, (0.0, None))
        if known is not None and self._clock() < until:
            return known
        try:
            facts = facts_of(self._api.repo(repo, revision, token))
        except BadToken:
            if not visitor.lent or token is None:
                raise
            with self._lock:
                self._worn_out.add(token)  # the owner's, which this visitor never gave: without it, what all may see
            return self._asked_facts(repo, revision, visitor)
        except (HubUnreachable, HubBusy):
            recalled = self._recalled(repo, revision)
            if recalled is None:
                raise
            self._keep(key, recalled, RECALLED_FRESH)
            return recalled
        except NotShown:
            if token is None:
                self._forget(repo, card=True)
            raise
        self._keep(key, facts, FACTS_FRESH)
        self._remember(facts, revision)
        return facts

    def _keep(self, key: tuple[str, str | None, str | None], facts: RepoFacts, seconds: float) -> None:
        repo, revision, token = key
        with self._lock:
            for name in {revision, facts.commit}:
                self._facts[repo, name, token] = (self._clock() + seconds, facts)
            _trim(self._facts, MOST_FACTS)

    def _remember(self, facts: RepoFacts, revision: str | None) -> None:
        """Keeps on disk what anyone may see, for when the Hub is down; of a repo that was closed, nothing."""
        if not facts.open_to_all:
            self._forget(facts.repo, card=facts.private)
            return
        value = facts.model_dump(mode="json")
        now = {revision or "": value, facts.commit: value}
        before = {name: kept for name, kept in self._kept_facts(facts.repo).items() if name not in now}
        newest = dict(list((before | now).items())[-MOST_REVISIONS:])
        with suppress(NoRoom):
            self._index.remember(self._facts_key(facts.repo), newest, self._clock())

    def _recalled(self, repo: str, revision: str | None) -> RepoFacts | None:
        """What was kept of a repo; None also for what another version wrote and this one cannot read."""
        try:
            return RepoFacts.model_validate(self._kept_facts(repo).get(revision or ""))
        except ValidationError:
            return None

    def _kept_facts(self, repo: str) -> dict[str, Any]:
        try:
            kept = self._index.recall(self._facts_key(repo))
        except NoRoom:
            kept = None
        return kept.value if kept is not None and isinstance(kept.value, dict) else {}

    def _forget(self, repo: str, card: bool) -> None:
        """Drops all that was kept of a repo that not everyone may read, and its card if not everyone may see it."""
        with suppress(NoRoom):
            if card:
                self._index.forget(str(LoraRef("hub", repo)))
            self._index.remember(self._facts_key(repo), {}, self._clock())

    def _facts_key(self, repo: str) -> str:
        return f"{self._api.endpoint} repo {repo.casefold()}"

    def _token(self, visitor: Visitor) -> str | None:
        return None if visitor.lent and visitor.token in self._worn_out else visitor.token

    def _known_card(self, ref: LoraRef) -> LoraCard | None:
        try:
            return self._index.card(str(ref)) or self._index.card(str(LoraRef("hub", ref.name)))
        except NoRoom:
            return None

    # Curated cards --------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Puts the curated cards into the index, where it does not hold them yet."""
        if self._begun:
            return
        all_curated = [card for cards in self._curated.values() for card in cards]
        kept = {card.ref: self._index.card(card.ref) for card in all_curated}
        now = self._clock()
        self._index.put([with_facts(c, k, k.checked) if (k := kept[c.ref]) else c for c in all_curated], now)
        self._begun = True

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
        try:
            kept = self._index.recall(_pin_key(ref.name))
        except NoRoom:
            return None
        return kept.value if kept is not None and isinstance(kept.value, str) else None

    def _confirm(self, facts: RepoFacts, file: RepoFile) -> None:
        """Remembers the commit of a curated LoRA's first use, and that the Hub has it."""
        known = self._curated_card(facts.repo, file.name)
        if known is None:
            return
        with suppress(NoRoom):
            self._index.put([with_facts(known, facts.card, checked=True)], self._clock())
            if self._index.recall(_pin_key(facts.repo)) is None:
                self._pin_for_good(facts)

    def _pin_for_good(self, facts: RepoFacts) -> None:
        with suppress(NoRoom):
            self._index.remember(_pin_key(facts.repo), facts.commit, self._clock(), keep=True)


def _unflagged(facts: RepoFacts, file: RepoFile) -> RepoFile:
    """The file, unless the Hub's own scan warns of it. Raises Flagged."""
    if file.verdict is not None:
        raise Flagged(f"{facts.repo}:{file.name}", file.verdict)
    return file


def _questions(wanted: Search) -> list[Question]:
    """One for each base model of the family; families without one on the Hub are looked for among all LoRAs."""
    families: Sequence[SearchFamily | None] = _SD3 if wanted.family == "sd3" else (wanted.family,)
    bases = [base for family in families if family for base in bases_of(family)[:BASES_ASKED]]
    named = (wanted.licence or "").casefold()
    licence = [f"license:{named if _HUB_LICENCE.match(named) else 'other'}"] if named else []
    by_base = [(f"base_model:adapter:{base}", "lora", *licence) for base in bases] or [("lora", *licence)]
    return [Question(filters, wanted.query, _SORTS[wanted.sort]) for filters in by_base]


def _repo_of(card: LoraCard) -> str:
    return LoraRef.parse(card.ref).name


def _pin_key(repo: str) -> str:
    return f"pin {repo.casefold()}"


def _trim(kept: OrderedDict[Any, Any], most: int) -> None:
    while len(kept) > most:
        kept.popitem(last=False)
