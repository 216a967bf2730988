"""Turns: one job at a time draws, the others wait in a fair line, and nobody fills it."""

from __future__ import annotations

import contextvars
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from core.bugs import in_words
from core.errors import Cancelled, TooBusy
from core.line import Line
from core.messages import Done, Engine, Failed, Job, Message, Progress, StopFlag
from core.request import GenerationRequest
from core.timings import Timings
from lora_catalog.visitor import Visitor

_LOOK = 0.1  # seconds between two looks at a stop flag while waiting: a quarter of a step on a GPU
_TOLD_AGAIN, _LATER_BY = 0.5, 0.1  # seconds between two words to one who waits, and more of them for each place


@dataclass(frozen=True)
class Caps:
    """How many jobs there may be at once, from their first download to their last step.

    `waiting` are visitors, beside the one whose job draws. Whoever has a job already gets another only while there are
    less than half as many jobs: so nobody takes the place of one who has none.
    """

    visitor: int = 4
    address: int = 16
    waiting: int = 64


@dataclass(frozen=True)
class Standing:
    """For those who watch: jobs in line, jobs that draw (one at most), and jobs drawn so far."""

    waiting: int
    drawing: int
    drawn: int


class Turn:
    """One job in line, then drawing: `begin` is called, and must return at once, when it may."""

    def __init__(
        self, visitor: Visitor, request: GenerationRequest, begin: Callable[[Turn], None], clock: Callable[[], float]
    ) -> None:
        self.visitor, self.request, self._begin, self._clock = visitor, request, begin, clock
        self.joined, self.began, self.ended = clock(), 0.0, 0.0
        self.granted = threading.Event()

    def grant(self) -> None:
        """Its turn has come."""
        self.began = self._clock()
        self.granted.set()

    def begin(self) -> None:
        """Tells whoever waits for it."""
        self._begin(self)

    @property
    def waited(self) -> float:
        """Seconds in line."""
        return (self.began or self.ended or self._clock()) - self.joined

    @property
    def drew(self) -> float:
        """Seconds that it held the engine."""
        return (self.ended or self._clock()) - self.began if self.granted.is_set() else 0.0


class Turns:
    """Hands out the one engine. Safe to use from several threads.

    Jobs of a visitor come one after the other; between visitors of an address, and between addresses, turns go round,
    so that whoever sends many delays each of the others by one job. Visitors of this machine itself (whose `address` is
    empty) are told apart by their ids alone.
    """

    def __init__(self, caps: Caps | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._caps, self._clock = caps or Caps(), clock
        self._lock = threading.Lock()
        # Python may collect a run that nobody reads any more in any thread at any time, also in one that holds the
        # lock, or in one that a holder waits for: what such a run does at its end never waits for the lock.
        self._leaving: deque[Callable[[], None]] = deque()
        self._granted: deque[Turn] = deque()  # to be begun without the lock
        self._line: Line[Turn] = Line()
        self._order: list[Turn] | None = None  # computed when somebody asks, forgotten when somebody moves
        self._holder: Turn | None = None
        self._visitors: Counter[tuple[str, str]] = Counter()
        self._addresses: Counter[str] = Counter()
        self.timings = Timings()
        self._drawn = 0

    @contextmanager
    def _held(self) -> Iterator[None]:
        try:
            with self._lock:
                yield
        finally:
            self._settle()

    def _settle(self) -> None:
        """What came while somebody held the lock: done by whoever lets go of it."""
        while self._leaving and self._lock.acquire(blocking=False):
            try:
                while self._leaving:
                    self._leaving.popleft()()
            finally:
                self._lock.release()
        while self._granted:
            with suppress(IndexError):  # another thread was faster
                self._granted.popleft().begin()

    def standing(self) -> Standing:
        """As it is now."""
        with self._held():
            return Standing(len(self._ordered()), int(self._holder is not None), self._drawn)

    @contextmanager
    def place(self, visitor: Visitor) -> Iterator[Place]:
        """Counts as one job of the visitor while the block runs. Raises TooBusy at once where there are too many."""
        self.enter(visitor)
        try:
            yield Place(self, visitor)
        finally:
            self.leave(visitor)

    def refusal(self, visitor: Visitor) -> str | None:
        """Why `enter` would raise TooBusy now."""
        with self._held():
            return self._refusal(visitor)

    def enter(self, visitor: Visitor) -> None:
        """One job more of a visitor. Raises TooBusy."""
        who = (visitor.address, visitor.id)
        with self._held():
            refusal = self._refusal(visitor)
            if refusal:
                raise TooBusy(refusal)
            self._visitors[who] += 1
            self._addresses[visitor.address] += 1

    def leave(self, visitor: Visitor) -> None:
        """One job less."""

        def left() -> None:
            self._visitors[(visitor.address, visitor.id)] -= 1
            self._addresses[visitor.address] -= 1
            self._visitors += Counter()  # drops those who have none
            self._addresses += Counter()

        self._leaving.append(left)
        self._settle()

    def _refusal(self, visitor: Visitor) -> str | None:
        own = self._visitors[(visitor.address, visitor.id)]
        total, most = self._addresses.total(), self._caps.waiting + 1
        if own >= self._caps.visitor:
            return f"You have {own} pictures under way already: wait until one is done, or cancel one."
        if visitor.address and self._addresses[visitor.address] >= self._caps.address:
            return "Too many pictures of your network are under way already: try again when one of them is done."
        if own and total >= most // 2:
            return "You have a picture under way already, and many others wait: try again when it is done."
        if len(self._visitors) >= most:
            seconds = self._left_of_holder()
            soon = "in a moment" if seconds is None else f"in {spelt(max(1.0, seconds))}"
            return f"All {self._caps.waiting} places in the line are taken: try again {soon}."
        return None

    def join(
        self, visitor: Visitor, request: GenerationRequest, begin: Callable[[Turn], None] = lambda _: None
    ) -> Turn:
        """A turn in line; granted at once where nobody draws. It ends with `give_up`, or once granted with `end`."""
        turn = Turn(visitor, request, begin, self._clock)
        with self._held():
            self._line.join(visitor.address, visitor.id, turn)
            self._moved()
        return turn

    def give_up(self, turn: Turn) -> None:
        """Leaves the line; does nothing once the turn has come."""

        def given_up() -> None:
            if not turn.granted.is_set():
                turn.ended = self._clock()
                self._line.leave(turn.visitor.address, turn.visitor.id, turn)
                self._moved()

        self._leaving.append(given_up)
        self._settle()

    def end(self, turn: Turn) -> None:
        """The engine is free: the next one draws."""
        with self._held():
            turn.ended = self._clock()
            self._holder = None
            self._moved()

    def learn(self, request: GenerationRequest, seconds: float) -> None:
        """A job was drawn in so many seconds."""
        with self._held():
            self._drawn += 1
            self.timings.note(request, seconds)

    def told(self, turn: Turn) -> tuple[int, float | None]:
        """The turn's place in line, 1 for the next, and the seconds until it may begin; 0 and 0 once it may."""
        with self._held():
            order = self._ordered()
            if turn.granted.is_set():
                return 0, 0.0
            ahead = order.index(turn)
            needed = [self._left_of_holder(), *(self._needed(other.request) for other in order[:ahead])]
            known = [seconds for seconds in needed if seconds is not None]
            return ahead + 1, sum(known) if len(known) == len(needed) else None

    def _left_of_holder(self) -> float | None:
        if self._holder is None:
            return 0.0
        needed = self._needed(self._holder.request)
        return None if needed is None else max(0.0, needed - (self._clock() - self._holder.began))

    def _needed(self, request: GenerationRequest) -> float | None:
        each = self.timings.seconds(request)
        return None if each is None else each * request.images

    def _ordered(self) -> list[Turn]:
        if self._order is None:
            self._order = self._line.order()
        return self._order

    def _moved(self) -> None:
        self._order = None
        if self._holder is None:
            self._holder = self._line.take()
            if self._holder is not None:
                self._holder.grant()
                self._granted.append(self._holder)

    def now(self) -> float:
        """By this line's clock."""
        return self._clock()


class _Either:
    """A stop flag: somebody's own, or that nobody listens any more."""

    def __init__(self, stop: StopFlag, abandoned: StopFlag) -> None:
        self._flags = (stop, abandoned)

    def is_set(self) -> bool:
        return any(flag.is_set() for flag in self._flags)


class Place:
    """One job of a visitor among all: it draws as often as it needs to, each time in turn."""

    def __init__(self, turns: Turns, visitor: Visitor) -> None:
        self._turns, self._visitor = turns, visitor
        self.turn: Turn | None = None  # the newest

    def draw(self, engine: Engine, job: Job, stop: StopFlag) -> Iterator[Message]:
        """Tells of the place in line until the turn comes, then what the engine tells.

        Raises Cancelled where a stop comes before. Closing the iterator leaves the line at once, or stops the engine
        within a step. The engine is run in a thread of its own, so that the next turn begins when it is free, however
        slowly this iterator is read.
        """
        told: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        abandoned = threading.Event()
        where = contextvars.copy_context()  # spaces finds in it who asks

        def run(turn: Turn) -> None:
            try:
                for message in engine.run(job, _Either(stop, abandoned)):
                    if isinstance(message, Done):
                        self._turns.learn(job.request, message.seconds)
                    told.put(message)
            except Exception as error:  # noqa: BLE001 (an engine raises nothing but bugs)
                told.put(Failed(in_words(error, job.id)))
            finally:
                self._turns.end(turn)
                told.put(None)

        def begin(turn: Turn) -> None:
            try:
                threading.Thread(target=where.run, args=(run, turn), name="turn", daemon=True).start()
            except RuntimeError as error:  # the system gives no more threads: the others' turns must come all the same
                told.put(Failed(in_words(error, job.id)))
                self._turns.end(turn)
                told.put(None)

        turn = self.turn = self._turns.join(self._visitor, job.request, begin)
        try:
            yield from self._awaited(turn, stop)
            while (message := told.get()) is not None:
                yield message
        finally:
            abandoned.set()
            self._turns.give_up(turn)

    def _awaited(self, turn: Turn, stop: StopFlag) -> Generator[Progress, None, None]:
        said, again = "", self._turns.now()
        while not turn.granted.is_set():
            if stop.is_set():
                raise Cancelled("Cancelled before it began.")
            if self._turns.now() >= again:
                place, seconds = self._turns.told(turn)
                new = in_line(place, seconds)
                if place and new != said:
                    said, again = new, self._turns.now() + _TOLD_AGAIN + _LATER_BY * place
                    yield Progress(said)
                    continue
            turn.granted.wait(_LOOK)
        if said:
            yield Progress("Your turn")


def in_line(place: int, seconds: float | None) -> str:
    """Such as “3rd in line, about 12 s”."""
    said = f"{place}{_ordinal(place)} in line"
    return said if seconds is None or seconds < 1 else f"{said}, about {spelt(seconds)}"


def spelt(seconds: float) -> str:
    """As exact as an estimate is."""
    if seconds < 10:
        return f"{seconds:.0f} s"
    return f"{5 * round(seconds / 5)} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _ordinal(number: int) -> str:
    if number % 100 in (11, 12, 13):
        return "th"
    return {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
