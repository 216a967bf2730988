"""Turns: fair, capped, one at a time, and nothing is left of those who go."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import BadRequest, Cancelled, TooBusy
from core.messages import Done, Failed, Job, Message, Progress, StopFlag
from core.request import GenerationRequest, request_from
from core.turns import Caps, Standing, Turn, Turns, in_line
from lora_catalog.visitor import Visitor

ANN, BOB = Visitor("ann"), Visitor("bob")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def asked(steps: int = 20, **fields: object) -> GenerationRequest:
    return request_from({"prompt": "x", "steps": steps, **fields}, "pocket-sd3")


class Stub:
    """An engine that counts who uses it at once; `held` it waits in each run for a `go`."""

    def __init__(self, held: bool = False) -> None:
        self.running, self.most, self.drawn = 0, 0, [""]
        self.go = threading.Semaphore(0 if held else 1000)

    def availability(self, key: str) -> str | None:
        return None

    def run(self, job: Job, stop: StopFlag) -> Iterator[Message]:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            yield Progress("Drawing", 1, 2)
            assert self.go.acquire(timeout=10)
            if stop.is_set():
                yield Failed(Cancelled("Cancelled."))
                return
            self.drawn.append(job.request.prompt)
            yield Done((), (), None, seconds=2.0)
        finally:
            self.running -= 1


def end(turns: Turns, turn: Turn) -> None:
    """However far it came."""
    if turn.granted.is_set():
        turns.end(turn)
    else:
        turns.give_up(turn)


def order_of(turns: Turns, first: Turn, *others: Turn) -> list[str]:
    """Ends the turns as they come, and says whose they were."""
    left, order = [first, *others], []
    while left:
        (holder,) = [turn for turn in left if turn.granted.is_set()]
        order.append(holder.visitor.id)
        turns.end(holder)
        left.remove(holder)
    return order


def test_a_flooder_delays_another_visitor_by_one_job() -> None:
    turns = Turns()
    flood = [turns.join(ANN, asked()) for _ in range(4)]
    late = turns.join(BOB, asked())
    assert turns.told(late)[0] == 1
    assert order_of(turns, *flood, late) == ["ann", "bob", "ann", "ann", "ann"]


def test_many_visitors_of_one_address_delay_another_address_by_one_job() -> None:
    turns = Turns()
    crowd = [turns.join(Visitor(str(number), address="192.0.2.1"), asked()) for number in range(10)]
    late = turns.join(Visitor("late", address="192.0.2.2"), asked())
    assert turns.told(late)[0] == 1
    assert order_of(turns, *crowd, late).index("late") == 1


def test_a_visitors_own_jobs_come_in_their_order() -> None:
    turns = Turns()
    jobs = [turns.join(ANN, asked(steps)) for steps in (1, 2, 3)]
    for job in jobs:
        assert job.granted.is_set()
        turns.end(job)


def test_a_visitor_may_have_four_jobs_and_the_fifth_is_refused_with_the_next_step() -> None:
    turns = Turns()
    for _ in range(4):
        turns.enter(ANN)
    with pytest.raises(TooBusy, match=r"4 pictures under way already: wait until one is done, or cancel one\."):
        turns.enter(ANN)
    turns.enter(BOB)
    turns.leave(ANN)
    turns.enter(ANN)


def test_an_address_has_a_cap_of_its_own_but_not_this_machine() -> None:
    turns = Turns(Caps(visitor=1, address=3, waiting=20))
    for number in range(3):
        turns.enter(Visitor(f"{number}", address="192.0.2.1"))
        turns.enter(Visitor(f"{number}"))
    with pytest.raises(TooBusy, match="network"):
        turns.enter(Visitor("3", address="192.0.2.1"))
    turns.enter(Visitor("3"))


def test_all_places_can_be_taken_and_the_last_half_is_for_those_who_have_none() -> None:
    turns = Turns(Caps(waiting=8))
    for _ in range(4):
        turns.enter(ANN)
    with pytest.raises(TooBusy, match="4 pictures"):
        turns.enter(ANN)
    turns.enter(BOB)
    with pytest.raises(TooBusy, match="many others wait"):
        turns.enter(BOB)
    for number in range(7):
        turns.enter(Visitor(f"{number}"))
    with pytest.raises(TooBusy, match=r"All 8 places in the line are taken: try again in .+\."):
        turns.enter(Visitor("one more"))


def test_sixty_four_visitors_and_a_flooder_all_get_a_place() -> None:
    turns = Turns()
    for number in range(64):
        turns.enter(Visitor(f"{number}"))
    turns.enter(Visitor("flooder"))


def test_the_estimate_scales_what_was_measured_by_steps_pixels_pictures_and_guidance() -> None:
    clock = Clock()
    turns = Turns(clock=clock)
    turns.learn(asked(steps=10), 2.0)
    drawing = turns.join(ANN, asked(steps=10))
    turns.join(ANN, asked(steps=10, images=3))
    last = turns.join(ANN, asked(steps=10, width=256, height=256, guidance=1.0))
    clock.now += 0.5
    assert turns.told(last) == (2, 1.5 + 6.0)
    turns.end(drawing)
    assert turns.told(last) == (1, 6.0)
    behind = turns.join(ANN, asked())
    assert turns.told(behind) == (2, 6.0 + 4.0)  # four times the pixels, half the forwards


def test_before_anything_was_drawn_the_place_is_told_alone() -> None:
    turns = Turns()
    turns.join(ANN, asked())
    assert turns.told(turns.join(BOB, asked())) == (1, None)
    assert (in_line(1, None), in_line(2, 0.2), in_line(3, 12.0)) == (
        "1st in line",
        "2nd in line",
        "3rd in line, about 10 s",
    )
    assert (in_line(11, 7.6), in_line(21, 200.0)) == ("11th in line, about 8 s", "21st in line, about 3 min")


def draw(turns: Turns, engine: Stub, visitor: Visitor, stop: threading.Event | None = None) -> Iterator[Message]:
    with turns.place(visitor) as place:
        yield from place.draw(engine, Job(asked()), stop or threading.Event())


def test_who_waits_hears_of_the_place_anew_when_it_changes() -> None:
    turns, engine = Turns(), Stub(held=True)
    first, second, third = (draw(turns, engine, Visitor(name)) for name in "abc")
    next(first)
    assert next(second) == Progress("1st in line")
    assert next(third) == Progress("2nd in line")
    engine.go.release()
    assert list(first) == [Done((), (), None, seconds=2.0)]
    assert next(second) == Progress("Your turn")
    next(second)
    told = next(third)
    assert isinstance(told, Progress)
    assert told.stage.startswith("1st in line, about ")


def test_who_leaves_the_line_is_gone_at_once() -> None:
    turns, engine = Turns(), Stub(held=True)
    first, second, third = (draw(turns, engine, Visitor(name)) for name in "abc")
    next(first), next(second), next(third)
    second.close()  # type: ignore[attr-defined]
    assert turns.standing() == Standing(waiting=1, drawing=1, drawn=0)
    engine.go.release(2)
    list(first)
    assert isinstance(list(third)[-1], Done)
    assert turns.standing() == Standing(waiting=0, drawing=0, drawn=2)


def test_a_stop_flag_ends_the_waiting() -> None:
    turns, engine, stop = Turns(), Stub(held=True), threading.Event()
    first, second = draw(turns, engine, ANN), draw(turns, engine, BOB, stop)
    next(first), next(second)
    stop.set()
    with pytest.raises(Cancelled):
        next(second)
    assert turns.standing().waiting == 0


def test_an_engine_that_raises_gives_its_turn_back() -> None:
    class Broken(Stub):
        def run(self, job: Job, stop: StopFlag) -> Iterator[Message]:
            raise BadRequest("prompt", "no")

    turns = Turns()
    (told,) = draw(turns, Broken(), ANN)
    assert isinstance(told, Failed)
    assert str(told.error) == "no"
    assert turns.standing() == Standing(0, 0, 0)


def test_the_next_turn_begins_when_the_engine_is_free_not_when_its_reader_comes_back() -> None:
    turns, engine = Turns(), Stub()
    slow, next_one = draw(turns, engine, ANN), draw(turns, engine, BOB)
    next(slow)
    assert isinstance(list(next_one)[-1], Done)


def test_who_is_closed_while_drawing_holds_the_turn_until_the_engine_has_stopped() -> None:
    turns, engine = Turns(), Stub(held=True)
    closed, other = draw(turns, engine, ANN), draw(turns, engine, BOB)
    next(closed)
    closed.close()  # type: ignore[attr-defined]
    assert next(other) == Progress("1st in line")
    assert turns.standing() == Standing(waiting=1, drawing=1, drawn=0)
    engine.go.release(2)
    assert isinstance(list(other)[-1], Done)
    assert (engine.most, turns.standing().drawn) == (1, 1)


def test_a_crowd_of_threads_draws_one_at_a_time_and_everybody_gets_a_picture() -> None:
    turns, engine = Turns(), Stub()
    ends: list[Message] = []
    crowd = [
        threading.Thread(target=lambda name=name: ends.append(list(draw(turns, engine, Visitor(name)))[-1]))
        for name in map(str, range(40))
    ]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join(30)
    assert (engine.most, len(ends), turns.standing()) == (1, 40, Standing(0, 0, 40))


MOVES = st.lists(
    st.tuples(st.sampled_from(["enter", "enter", "join", "done", "leave"]), st.integers(0, 5), st.integers(0, 2)),
    max_size=80,
)


@settings(max_examples=150, deadline=None)
@given(MOVES)
def test_whatever_visitors_do_the_caps_hold_one_draws_and_nobody_starves(moves: list[tuple[str, int, int]]) -> None:
    caps = Caps(visitor=3, address=4, waiting=7)
    turns = Turns(caps, Clock())
    places: Counter[Visitor] = Counter()
    jobs: list[Turn] = []
    for move, name, where in moves:
        visitor = Visitor(str(name), address=("", "192.0.2.1", "192.0.2.2")[where])
        who = Visitor(f"{visitor.address}/{name}")
        own = [turn for turn in jobs if (turn.visitor.address, turn.visitor.id) == (visitor.address, visitor.id)]
        if move == "enter":
            try:
                turns.enter(visitor)
                places[who] += 1
            except TooBusy as error:
                assert str(error).endswith(".")
        elif move == "join" and places[who] > len(own):
            jobs.append(turns.join(visitor, asked()))
        elif move == "leave" and own:  # whichever: waiting or drawing
            end(turns, own[-1])
            jobs.remove(own[-1])
            turns.leave(visitor)
            places[who] -= 1
        elif move == "done":
            for turn in [turn for turn in jobs if turn.granted.is_set()]:
                turns.end(turn)
                jobs.remove(turn)
        holders = [turn for turn in jobs if turn.granted.is_set()]
        assert len(holders) == min(1, len(jobs))
        assert turns.standing() == Standing(len(jobs) - len(holders), len(holders), 0)
        assert max(places.values(), default=0) <= caps.visitor
        assert len(+places) <= caps.waiting + 1
        assert places.total() <= caps.waiting + 1 + caps.waiting // 2
        for address in ("192.0.2.1", "192.0.2.2"):
            assert sum(n for who, n in places.items() if who.id.startswith(f"{address}/")) <= caps.address
    # From here on nobody joins: between two turns of one address every other address that waits has had one.
    while waiting := [turn for turn in jobs if not turn.granted.is_set()]:
        (holder,) = [turn for turn in jobs if turn.granted.is_set()]
        promised = {turns.told(turn)[0]: turn for turn in waiting}
        assert sorted(promised) == list(range(1, len(waiting) + 1))
        order = [promised[place].visitor for place in sorted(promised)]
        for one, after in pairwise(i for i, who in enumerate(order) if who.address == order[0].address):
            between = [who.address for who in order[one + 1 : after]]
            assert len(between) == len(set(between))
            assert {who.address for who in order[after:]} - {order[0].address} <= set(between)
        turns.end(holder)
        jobs.remove(holder)
        assert promised[1].granted.is_set()  # whoever was told to be the next is


def finished(work: Callable[[], object]) -> bool:
    """Whether it comes to an end; a deadlock must fail a test, not hold it."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(timeout=10)
    return not thread.is_alive()


def test_a_job_that_begins_finds_the_line_open() -> None:
    """A new thread may collect, as it starts, a run that nobody reads, which then leaves the line."""
    turns = Turns()
    seen: list[Standing] = []
    assert finished(lambda: turns.join(ANN, asked(), lambda _: seen.append(turns.standing())))
    assert seen == [Standing(waiting=0, drawing=1, drawn=0)]


def test_a_run_that_is_collected_while_its_thread_moves_the_line_leaves_it_all_the_same() -> None:
    """Python runs the end of a forgotten generator wherever it likes: here in the middle of another's end."""

    class Collecting(Clock):
        def __call__(self) -> float:
            while leaving:
                leaving.pop()()
            return self.now

    leaving: list[Callable[[], object]] = []
    turns = Turns(clock=Collecting())
    first = turns.join(ANN, asked())
    turns.enter(BOB)
    gone, last = turns.join(BOB, asked()), turns.join(Visitor("cleo"), asked())
    leaving += [lambda: turns.give_up(gone), lambda: turns.leave(BOB)]
    assert finished(lambda: turns.end(first))
    assert (gone.granted.is_set(), last.granted.is_set()) in [(True, False), (False, True)]
    turns.end(gone if gone.granted.is_set() else last)
    assert turns.standing().waiting == 0
    for _ in range(4):  # all four places of Bob's are free again
        turns.enter(BOB)


def test_a_system_without_threads_ends_that_turn_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    turns = Turns()
    with turns.place(ANN) as place, monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refused)
        (said,) = place.draw(Stub(), Job(asked(), ()), threading.Event())
    assert isinstance(said, Failed)
    with turns.place(BOB) as place:
        assert isinstance(list(place.draw(Stub(), Job(asked(), ()), threading.Event()))[-1], Done)
