"""DatasetSync: sends the journal's records to a dataset of the Hub, none lost and none twice, from a thread of its own.

Each record goes through the same steps: sealed in a shard (its bytes on the disk first, then the journal's word for
it), committed, seen on the Hub, noted as being there, its bytes dropped. A crash leaves it before one of these steps,
and every step may be taken again: a shard's bytes and name never change.
"""

from __future__ import annotations

import json
import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

import httpx2

from core.errors import JournalRefused
from core.records.card import DATASET_CARD
from core.records.dataset import CARD, Gone, HubDataset, HubFault, HubRefuses, Overtaken, Upload
from core.records.erasing import Erasing
from core.records.journal import Journal
from core.records.pace import EVERY, LONGEST_ASKED, PER_HOUR, Pace, Patience
from core.records.sealed import SealedFolder
from core.records.shards import shard_of
from core.records.status import NoSync, Sync, SyncStatus, told

MOST_ROWS = 1000  # of a shard
MOST_BYTES = 32_000_000  # of a shard, before it is packed
MOST_SHARDS = 50  # of a commit; the Hub takes 100 files
MOST_SENT = 128_000_000  # bytes of a commit, unless one shard has more
ROOM = 8000  # files in a folder, of the Hub's 10,000: later shards go to a folder per day
LOOKS_AGAIN = 100  # shards until the folder is looked at again: other writers fill it too
IDLE = 2.0  # seconds between two looks into the journal
ANOTHER_SENDS = 5.0  # seconds until we see whether it still does
TRIES_AT_THE_END = 3
_LAST = "dataset last"
_UNDER_WAY = "dataset under way"

log = logging.getLogger(__name__)


class DatasetSync:
    """One sender for one journal: others on the same folder wait until it ends. `clock` gives seconds of the epoch.

    Nothing is raised: what goes wrong is said by `status`, and once in the log.
    """

    def __init__(
        self, journal: Journal, dataset: HubDataset, folder: Path, clock: Callable[[], float] = time.time, *,
        every: float = EVERY, per_hour: int = PER_HOUR, chance: random.Random | None = None,
    ) -> None:  # fmt: skip
        self.repo: str | None = dataset.repo
        self._journal, self._dataset, self._clock = journal, dataset, clock
        self._folder = SealedFolder(folder)
        self._pace = Pace(journal, clock, every, per_hour)
        self._patience = Patience(chance or random.Random())
        self._erasing = Erasing(journal, dataset, self._folder, self._pace, clock)
        self._swept, self._room, self._to_look = False, ROOM, 0
        self._without_card: str | None = None  # the commit that was seen to have none
        self._trouble, self._again, self._silent_until = "", 0.0, 0.0
        self._ended, self._hurry, self._wake, self._flushed = (threading.Event() for _ in range(4))
        self._thread = threading.Thread(target=self._run, name="dataset-sync", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def flush(self, seconds: float) -> bool:
        """Sends what is left at once, within `seconds`; whether nothing is left. The Hub's own limits hold even so."""
        if self._thread.is_alive():
            self._flushed.clear()
            self._hurry.set()
            self._wake.set()
            self._flushed.wait(seconds)
            self._hurry.clear()
        try:
            return not self._pending()
        except JournalRefused:
            return False

    def close(self) -> None:
        """Sends no more. A request that is under way may still reach the Hub; the next start finds out."""
        self._ended.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(IDLE)
        if not self._thread.is_alive():
            self._folder.let_go()

    def status(self) -> SyncStatus:
        try:
            counts, last = self._journal.counts(), self._journal.remembered(_LAST)
        except JournalRefused as error:
            return SyncStatus(0, 0, None, str(error))
        now, at = self._clock(), float(last) if last else None
        ago = None if at is None else max(0.0, now - at)
        said = told(counts.here, counts.on_hub, ago, self._trouble, max(0.0, self._again - now))
        return SyncStatus(counts.here, counts.on_hub, None if at is None else datetime.fromtimestamp(at, UTC), said)

    def turn(self) -> float:
        """Does what is due now; gives the seconds until there may be more to do."""
        try:
            self._tidy()
            wait = self._silent_until - self._clock()
            return wait if 0 < wait <= LONGEST_ASKED + 1 else self._send_what_is_due()
        except HubFault as fault:
            return self._met(fault)
        except JournalRefused as error:
            return self._met(HubFault(error.reason))
        except OSError:
            log.exception("the folder of sealed shards cannot be used")
            return self._met(HubFault("this machine's disk takes no more, or is faulty"))
        except Exception:  # a bug must not end the thread: it is logged, and what was to be sent stays
            log.exception("the records could not be sent")
            return self._met(HubFault("a fault of LoRA Loom, which its log describes"))

    def _run(self) -> None:
        tries = TRIES_AT_THE_END
        while not self._ended.is_set():
            hurried = self._hurry.is_set()
            wait = self.turn()
            if hurried:
                tries -= bool(self._trouble)
                if not tries or self._silent_until > self._clock() or (not self._trouble and wait >= IDLE):
                    self._flushed.set()
                wait = min(wait, IDLE / 4)
            else:
                tries = TRIES_AT_THE_END
            self._rest(wait)

    def _rest(self, wait: float) -> None:
        """Until there may be more to send, or somebody wakes us; what is deleted meanwhile goes all the same."""
        until = time.monotonic() + wait
        while (left := until - time.monotonic()) > 0 and not self._wake.wait(min(left, IDLE)):
            with suppress(Exception):  # the next turn meets it too, and says it
                self._tidy()
        self._wake.clear()

    def _tidy(self) -> None:
        """Leaves in the folder only what waits to be sent, without what people deleted; asks nobody."""
        if not self._folder.hold():
            raise HubFault("another LoRA Loom in this data folder sends the records", ANOTHER_SENDS)
        if not self._swept:
            self._folder.sweep(self._journal.sealed())
            self._swept = True
        if erasures := self._journal.erasures():
            unsent = set(self._journal.sealed()).difference(self._under_way())
            for shard in unsent.intersection(shard for shard, _ in erasures):
                self._erasing.before_sending(shard)

    def _send_what_is_due(self) -> float:
        if not self._due():
            return self._all_is_well(IDLE)
        if self._to_look <= 0:
            self._look()
        if left := self._journal.sealed()[:MOST_SHARDS]:  # of an earlier try, whose end nobody knows
            self._confirm(left)
        together = self._hurry.is_set()
        for due, commit in (
            (lambda: self._without_card, self._introduce),
            (self._pending, lambda: self._send(self._journal.sealed()[:MOST_SHARDS] or self._seal())),
            (self._erasing.due, self._erasing.step),
        ):
            if due():
                if wait := self._pace.wait(together):
                    return self._held_up(wait)
                commit()
                together = True  # the hour's budget holds for each, the time between two for the first
        return self._all_is_well(0.0)

    def _held_up(self, wait: float) -> float:
        self._again = self._clock() + wait
        if wait > EVERY:
            self._trouble = "the commits that an hour may have are made"
        return wait

    def _all_is_well(self, wait: float) -> float:
        self._patience.renew()
        self._trouble = ""
        return wait

    def _due(self) -> bool:
        return self._pending() or self._erasing.due()

    def _pending(self) -> bool:
        return bool(self._journal.sealed() or self._journal.unsealed(1, 1))

    def _look(self) -> None:
        """Makes the repo where it is not there, and sees how full its folder is and whether it has a card."""
        look = self._dataset.look()
        if look is None:
            self._dataset.create()
            look = self._dataset.look()
        if look is None:
            raise HubRefuses(f"the token may not see the dataset {self._dataset.repo}: give another as HF_TOKEN")
        self._without_card = None if CARD in look.files else look.commit
        self._room = ROOM - sum(file.startswith("data/") and file.count("/") == 1 for file in look.files)
        self._to_look = LOOKS_AGAIN

    def _introduce(self) -> None:
        """Commits the card."""
        parent, self._without_card = self._without_card, None
        self._pace.note()
        try:
            card = DATASET_CARD.format(repo=self._dataset.repo)
            self._dataset.commit("Say what this dataset holds", card=card, parent=parent)
        except HubFault as fault:
            self._to_look = 0
            if not isinstance(fault, Overtaken):  # by another writer, and most likely by its card
                raise

    def _seal(self) -> list[str]:
        """New shards of what is in none, as many as fit into a commit."""
        sealed: list[str] = []
        size = 0
        while len(sealed) < MOST_SHARDS and size < MOST_SENT:
            records = self._journal.unsealed(MOST_ROWS, MOST_BYTES)
            if not records:
                break
            shard = shard_of(records)
            day = "" if self._room > 0 else f"{datetime.fromtimestamp(self._clock(), UTC):%Y-%m-%d}/"
            path = f"data/{day}{shard.name}"
            self._folder.write(path, shard.data)
            self._journal.seal(path, [record.id for record in records])
            self._room, self._to_look = self._room - 1, self._to_look - 1
            sealed.append(path)
            size += len(shard.data)
        return sealed

    def _send(self, sealed: Sequence[str]) -> None:
        """One commit of the oldest shards, as many as fit into it."""
        under_way = [path for path in self._under_way() if path in sealed]
        uploads: list[Upload] = []
        for shard in sealed:
            upload = self._upload(shard, shard in under_way)
            if uploads and upload and sum(each.size for each in uploads) + upload.size > MOST_SENT:
                break
            uploads += [upload] if upload else []
        if not uploads:
            return
        paths = [upload.path for upload in uploads]
        self._dataset.store(uploads)
        self._journal.remember(_UNDER_WAY, json.dumps([*{*under_way, *paths}]))
        self._pace.note()
        self._dataset.commit("Add records", uploads)
        self._confirm(paths)
        if set(paths) & set(self._journal.sealed()):
            raise HubFault("the Hub does not show yet what was sent")

    def _confirm(self, shards: Sequence[str]) -> None:
        """Notes those that stand on the Hub with the bytes that their names begin the sha256 of, and drops ours."""
        held = self._dataset.held(shards)
        for shard in shards:
            if held.get(shard, "").startswith(PurePosixPath(shard).stem):
                self._journal.on_hub(shard)
                self._journal.remember(_LAST, str(self._clock()))
                self._folder.drop(shard)

    def _upload(self, shard: str, under_way: bool) -> Upload | None:
        """The shard as it is to be sent: without what was deleted since, unless a commit may still bring it whole."""
        upload = self._folder.upload(shard)
        if upload is None:
            log.warning("The bytes of a sealed shard are gone: its records are sealed anew.")
            self._journal.erased(shard, (), None)
        elif not under_way:
            new = self._erasing.before_sending(shard)
            return None if new is None else self._folder.upload(new)
        return upload

    def _under_way(self) -> list[str]:
        """Shards that a commit has been tried with."""
        return list(json.loads(self._journal.remembered(_UNDER_WAY) or "[]"))

    def _met(self, fault: HubFault) -> float:
        """Says what came between, and gives the seconds until it is worth another try."""
        if isinstance(fault, Gone):
            self._to_look = 0
        refused = isinstance(fault, HubRefuses)
        asked = LONGEST_ASKED if refused else fault.wait
        wait = self._patience.after(asked)
        now = self._clock()
        if asked is not None:
            self._silent_until = now + wait
        if str(fault) != self._trouble:  # once, however often it is met
            log.log(logging.ERROR if refused else logging.WARNING, "The records wait here: %s.", fault)
        self._trouble, self._again = str(fault), now + wait
        return wait


def dataset_sync(
    journal: Journal, repo: str | None, folder: Path, endpoint: str, token: str | None, client: httpx2.Client
) -> Sync:
    """What sends the journal's records to `repo`, or says why nothing is sent. `folder` is for sealed shards."""
    clear = SealedFolder(folder).clear
    if repo is None:
        return NoSync(journal, clear=clear)
    if token is None:
        why_not = f"nothing goes to the dataset {repo}: set HF_TOKEN to a token that may write to it"
        return NoSync(journal, repo, why_not, clear)
    return DatasetSync(journal, HubDataset(repo, endpoint, token, client), folder)
