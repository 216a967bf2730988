"""Erasing: what people deleted leaves the dataset's shards, and then its history, at most once a day."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath

from core.records.dataset import HubDataset, HubFault
from core.records.journal import Journal
from core.records.pace import Pace
from core.records.sealed import SealedFolder
from core.records.shards import without

DAY = 86400.0  # seconds
MOST_AT_ONCE = 20  # shards of one commit
_LAST = "dataset squashed"
_OWED = "dataset squash owed"
_REPLACING = "dataset replacing"

log = logging.getLogger(__name__)

Erasure = tuple[str, tuple[str, ...]]  # a shard, and the ids of the rows that are to leave it


class Erasing:
    """Rewrites shards without the rows that are to go. A crash between any two steps is made good by the next call.

    What only older commits held is out of reach after the squash; the Hub clears it away in its own time.
    """

    def __init__(
        self, journal: Journal, dataset: HubDataset, folder: SealedFolder, pace: Pace, clock: Callable[[], float]
    ) -> None:
        self._journal, self._dataset, self._folder = journal, dataset, folder
        self._pace, self._clock = pace, clock

    def due(self) -> bool:
        """Whether there is something to erase, and today's turn has not been yet."""
        if self._owed():
            return True
        last = float(self._journal.remembered(_LAST) or 0)
        today = last <= self._clock() < last + DAY  # a clock that was put back must not hold us for longer
        return not today and bool(self._wanted())

    def step(self) -> None:
        """One commit's worth of shards, or the squash where none is left. Raises HubFault."""
        if wanted := self._wanted()[:MOST_AT_ONCE]:
            if left := self._settled(wanted):
                self._replace(left)
                if self._settled(left):
                    raise HubFault("the Hub has not yet taken out what was deleted")
        else:
            self._pace.note()
            self._dataset.squash()
            self._journal.remember(_LAST, str(self._clock()))
            self._journal.remember(_OWED, "")

    def before_sending(self, shard: str) -> str | None:
        """The shard to send in place of one that never was sent; None where nobody's row is left of it."""
        ids = dict(self._journal.erasures()).get(shard)
        if ids is None:
            return shard
        try:
            data = self._folder.read(shard)
        except FileNotFoundError:  # whoever is to send it makes it again
            return shard
        new = self._without(shard, data, ids)
        self._journal.erased(shard, ids, new)
        if new != shard:
            self._folder.drop(shard)
        return new

    def _wanted(self) -> list[Erasure]:
        """Those in shards that are on the Hub; of the others, rows are taken out before they are sent, or after."""
        unsent = set(self._journal.sealed())
        return [(shard, ids) for shard, ids in self._journal.erasures() if shard not in unsent]

    def _owed(self) -> bool:
        return bool(self._journal.remembered(_OWED))

    def _replacing(self) -> dict[str, tuple[str | None, list[str]]]:
        """By shard: the one that a commit was to put in its place, and without which rows."""
        return dict(json.loads(self._journal.remembered(_REPLACING) or "{}"))

    def _settled(self, wanted: Sequence[Erasure]) -> list[Erasure]:
        """Notes in the journal what the Hub shows to be done; gives what is not."""
        replacing = self._replacing()
        held = self._dataset.held([*(shard for shard, _ in wanted), *(new for new, _ in replacing.values() if new)])
        for shard, ids in wanted:
            if shard not in held:
                new, done = replacing.get(shard, (shard, ids))
                if new is not None and new not in held:  # the owner took it away: nothing of it is to be sent again
                    new, done = shard, ids
                self._journal.erased(shard, done, new)
                self._folder.drop(new or shard)
        return [(shard, ids) for shard, ids in wanted if shard in held]

    def _replace(self, erasures: Sequence[Erasure]) -> None:
        """One commit that puts other shards in the place of these."""
        plan = {shard: self._without(shard, self._dataset.read(shard), ids) for shard, ids in erasures}
        for shard, ids in erasures:
            if plan[shard] == shard:
                self._journal.erased(shard, ids, shard)
                del plan[shard]
        if not plan:
            return
        named = dict(erasures)
        self._journal.remember(_REPLACING, json.dumps({shard: (new, named[shard]) for shard, new in plan.items()}))
        self._journal.remember(_OWED, "yes")
        uploads = [upload for new in plan.values() if new and (upload := self._folder.upload(new))]
        self._dataset.store(uploads)
        self._pace.note()
        self._dataset.commit("Take out what was deleted", uploads, deleted=list(plan))

    def _without(self, shard: str, data: bytes, ids: Sequence[str]) -> str | None:
        """Writes the shard's successor to the folder and gives its path; None where no row is left."""
        try:
            kept = without(data, ids)
        except ValueError:
            log.error("%s in the dataset is no shard of ours any more: take out of it by hand: %s", shard, ids)
            return shard
        if kept is None:
            return None
        new = str(PurePosixPath(shard).with_name(kept.name))
        self._folder.write(new, kept.data)
        return new
