"""The scheduler: which objects are described in a frame, and how many, on a simulated machine and clock."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from osprey_ros.scene.scheduler import Batch, Candidate, CostModel, Scheduler
from osprey_ros.system.cancellation import PolledToken

STEPS = 8  # of each batch


class Machine:
    """Spends ``fixed_cost`` seconds before the first batch of a frame, and ``start`` + ``each`` per object in a batch.

    Half of that goes to the first step of a batch. ``pace`` multiplies everything, with noise of ``noise``.
    """

    def __init__(self, fixed_cost: float = 0.02, start: float = 0.02, each: float = 0.005, noise: float = 0.0) -> None:
        self.fixed_cost, self.start, self.each, self.noise = fixed_cost, start, each, noise
        self.now, self.pace = 0.0, 1.0
        self.batches: list[list[int]] = []
        self._rng = np.random.default_rng(3)
        self._fresh = True

    def clock(self) -> float:
        return self.now

    def look(self, seconds: float) -> float:
        """A frame begins: what comes before the words takes this long. Returns when it began."""
        started, self._fresh = self.now, True
        self.now += seconds * self.pace
        return started

    def run(self, scheduler: Scheduler, *arguments: Any, **settings: Any) -> dict[int, str]:
        """Describe the batches of a frame; return what the scheduler skipped."""
        for batch in scheduler.batches(*arguments, **settings):
            self.describe(batch)
        return scheduler.skipped

    def describe(self, batch: Batch) -> None:
        self.batches.append(list(batch.track_ids))
        pace = self.pace * (1 + self.noise * abs(float(self._rng.normal())))
        batch.fixed_cost, self._fresh = self.fixed_cost * pace * self._fresh, False
        self.now += batch.fixed_cost
        seconds = (self.start + self.each * len(batch.track_ids)) * pace
        for step in range(STEPS):
            if batch.cancel is not None and batch.cancel.canceled:
                return
            self.now += seconds / 2 if step == 0 else seconds / 2 / (STEPS - 1)
        batch.described = frozenset(batch.track_ids)


def _new(count: int) -> list[Candidate]:
    return [Candidate(row, new=True, importance=1 - row / count) for row in range(count)]


def test_asked_for_comes_before_new_before_stale_and_large_before_small() -> None:
    machine = Machine()
    candidates = [
        Candidate(0, importance=0.1),
        Candidate(1, importance=0.9),
        Candidate(2, new=True, importance=0.1),
        Candidate(3, new=True, importance=0.2),
        Candidate(4, requested=True, importance=0.0),
        Candidate(5, importance=0.05, waited=25),  # 25 frames are worth more than being new
    ]
    assert machine.run(Scheduler(machine.clock), candidates, 0.0) == {}
    assert machine.batches == [[4, 5, 3, 2, 1, 0]]


def test_no_one_waits_for_ever() -> None:
    """New objects come in every frame and fill it; a stale one gets its turn, and one that was asked for before it."""
    machine = Machine()
    scheduler = Scheduler(machine.clock)
    waited = {98: 0, 99: 0}
    first: dict[int, int] = {}
    for frame in range(40):
        candidates = [Candidate(row, new=True, importance=0.9) for row in range(3)]
        candidates += [Candidate(row, requested=row == 98, waited=n) for row, n in waited.items() if row not in first]
        left = machine.run(scheduler, candidates, machine.look(0.0), max_objects=3)
        assert all(
            reason == "3 objects with a higher priority in this frame (max_regions 3)" for reason in left.values()
        )
        for row in waited:
            first.setdefault(row, frame) if row not in left and row not in first else None
            waited[row] += 1
    assert first[98] == 0
    assert 10 <= first[99] <= 25


def test_a_budget_holds_and_all_get_their_turn() -> None:
    machine = Machine(noise=0.1)
    scheduler = Scheduler(machine.clock)
    seconds, needed = [], []
    for _ in range(30):  # rounds with thirty new objects each
        waiting = {row: 0 for row in range(30)}
        frames = 0
        while waiting:
            frames += 1
            started = machine.look(0.06)
            candidates = [Candidate(row, new=True, waited=n) for row, n in waiting.items()]
            left = machine.run(scheduler, candidates, started, budget=0.150)
            seconds.append(machine.now - started)
            assert set(left.values()) <= {"no time left in this frame (time_budget 0.15 s)"}
            waiting = {row: waiting[row] + 1 for row in left}
        needed.append(frames)
    assert np.quantile(seconds, 0.95) <= 1.1 * 0.150
    # There is room for ten at best; noise, and the margin for it, cost some.
    assert np.median(needed) <= 6


def test_a_budget_is_used_as_far_as_it_goes() -> None:
    machine = Machine()
    scheduler = Scheduler(machine.clock)
    counts = []
    for _ in range(12):
        started = machine.look(0.06)
        counts.append(40 - len(machine.run(scheduler, _new(40), started, budget=0.150)))
    assert 9 <= counts[-1] <= 10  # which is what 0.15 - 0.06 - 0.02 - 0.02 s are room for
    assert machine.batches[-1][0] == 0  # the largest first


def test_a_machine_that_becomes_slower_is_noticed() -> None:
    machine = Machine()
    scheduler = Scheduler(machine.clock)
    for _ in range(20):
        machine.run(scheduler, _new(40), machine.look(0.06), budget=0.150)
    machine.pace = 1.5  # 0.09 + 0.03 before the batch: 0.03 s are left, and no batch is shorter than 0.0375
    over = []
    described = 0
    for _ in range(100):
        started = machine.look(0.06)
        described += 40 - len(machine.run(scheduler, _new(40), started, budget=0.150))
        over.append(machine.now - started > 1.1 * 0.150)
    assert described >= 3  # rarely, but words come
    assert np.mean(over) <= 0.1


def test_one_slow_wave_does_not_silence_for_good() -> None:
    machine = Machine()
    scheduler = Scheduler(machine.clock)
    machine.pace = 40.0
    machine.run(scheduler, _new(4), machine.look(0.0), budget=0.150)
    machine.pace = 1.0
    frames = 0
    while len(machine.run(scheduler, _new(4), machine.look(0.06), budget=0.150)):
        frames += 1
        assert frames < 30
    assert frames > 0  # it was believed at first


def test_a_budget_that_is_over_before_the_words_lets_one_object_through_now_and_then() -> None:
    machine = Machine()
    scheduler = Scheduler(machine.clock)
    described = []
    for frame in range(100):
        left = machine.run(scheduler, _new(5), machine.look(0.2), budget=0.1)
        described += [frame] * (5 - len(left))
    assert described == [24, 49, 74, 99]


def test_what_takes_longer_than_the_budget_before_the_first_word_is_tried_rarely() -> None:
    machine = Machine(fixed_cost=0.3)
    scheduler = Scheduler(machine.clock)
    over, described = [], 0
    for _ in range(200):
        started = machine.look(0.02)
        described += 5 - len(machine.run(scheduler, _new(5), started, budget=0.1))
        over.append(machine.now - started > 0.11)
    assert described >= 5
    assert np.mean(over) <= 0.15


def test_stopping_says_so() -> None:
    machine = Machine()
    scheduler = Scheduler(machine.clock)
    for budget in (0.0, 1.0):
        asked: list[int] = []
        stop = PolledToken(lambda a=asked: len(a.append(0) or a) > 2)
        left = machine.run(scheduler, _new(3), machine.now, budget, cancel=stop)
        assert left == dict.fromkeys(range(3), "stopped")
    assert not scheduler.costs.known  # what was stopped says nothing of what batches take


def test_no_one_to_describe_costs_nothing() -> None:
    machine = Machine()
    assert machine.run(Scheduler(machine.clock), [], 0.0, budget=0.1) == {}
    assert machine.now == 0


@pytest.mark.parametrize("sizes", [(4,) * 12, (1, 9) * 6, (1, 2, 3, 5, 8, 13)])
def test_costs_are_learned_from_waves(sizes: tuple[int, ...]) -> None:
    costs = CostModel()
    assert not costs.known
    for size in sizes:
        costs.record(size, 0.02, 0.02 + 0.005 * size)
    for size in sizes:
        assert costs.seconds(size) == pytest.approx(0.04 + 0.005 * size, rel=0.1)
        assert costs.seconds(size, first=False) == pytest.approx(0.02 + 0.005 * size, rel=0.15)
    assert costs.fitting(costs.seconds(sizes[0]) + 1e-9) == sizes[0]
    assert costs.fitting(0.01) == 0
    assert costs.seconds(100) > costs.seconds(50) > costs.seconds(10)


def _crops_of_a_frame(scheduler: Scheduler, machine: Machine, budget: float, objects: int, each: float) -> list[int]:
    """Describe a frame in which crops of all objects are wanted; return the objects that got one."""
    got: list[int] = []
    for batch in scheduler.batches(_new(objects), machine.look(0.01), budget, crops=range(objects)):
        batch.crop_cost = each * len(batch.crops)
        machine.now += batch.crop_cost
        machine.describe(batch)
        got += sorted(batch.crops)
    return got


def test_without_a_budget_all_wanted_crops_are_made() -> None:
    machine = Machine()
    scheduler = Scheduler(machine.clock)
    assert _crops_of_a_frame(scheduler, machine, 0.0, 7, 0.02) == list(range(7))
    assert _crops_of_a_frame(scheduler, machine, 0.0, 7, 0.02) == list(range(7))


def test_crops_take_the_time_that_decoding_leaves() -> None:
    machine = Machine()
    scheduler = Scheduler(machine.clock)
    counts, over = [], 0
    for _ in range(40):
        started = machine.now
        counts.append(len(_crops_of_a_frame(scheduler, machine, 0.25, 8, 0.02)))
        over += machine.now - started > 0.25 + 1e-9
        assert not scheduler.skipped
    # 0.25 s less 0.01 of encoding, 0.04 + 8 * 0.005 of decoding leaves time for 8 crops; estimates are careful.
    assert counts[0] <= 1  # little is known
    assert min(counts[5:]) >= 5
    assert over == 0
    # Captions come first: where their time is over, so are the crops.
    assert len(_crops_of_a_frame(scheduler, machine, 0.1, 8, 0.02)) <= 1


def test_crops_that_were_slow_once_are_tried_again() -> None:
    machine = Machine()
    scheduler = Scheduler(machine.clock)
    _crops_of_a_frame(scheduler, machine, 0.5, 4, 0.02)  # the decode is learned
    _crops_of_a_frame(scheduler, machine, 0.5, 4, 0.4)  # the engine for crops is loaded
    found = [len(_crops_of_a_frame(scheduler, machine, 0.5, 4, 0.02)) for _ in range(30)]
    assert found[-1] == 4
    assert scheduler.costs.seconds(4) < 0.12  # the time of crops is not that of captions
