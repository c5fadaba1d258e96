"""Virtual time, crashes and pauses."""

import random
from datetime import timedelta
from functools import partial

import pytest

from chaos.simulation.nemesis import Faults
from chaos.simulation.process import START, Killed
from chaos.simulation.world import World
from chaos.simulation.writers import race


def _story(seed: int) -> tuple[object, ...]:
    with World(seed) as world:
        _, bucket = race(world, Faults.drawn(random.Random(seed)))
        return world.schedule(), bucket.journal, world.now


def test_a_seed_decides_everything() -> None:
    stories = [_story(seed) for seed in (1, 2, 3)]
    assert [_story(seed) for seed in (1, 2, 3)] == stories
    assert len({story[0] for story in stories}) == 3


def test_tasks_run_in_the_order_of_their_times(world: World) -> None:
    process = world.process("a", rate=1.0)
    seen: list[tuple[str, float]] = []

    def work(name: str, pause: float) -> None:
        for _ in range(2):
            world.sleep(pause)
            seen.append((name, world.now))

    process.spawn(lambda: work("slow", 3.0))
    process.spawn(lambda: work("fast", 1.0))
    assert not world.run()
    assert seen == [("fast", 1.0), ("fast", 2.0), ("slow", 3.0), ("slow", 6.0)]


def test_calls_due_at_the_same_time_come_in_an_order_by_the_seed() -> None:
    orders: set[tuple[int, ...]] = set()
    for seed in range(50):
        with World(seed) as world:
            order: list[int] = []
            for number in range(3):
                world.process("a").spawn(partial(order.append, number))
            world.run()
            orders.add(tuple(order))
    assert len(orders) == 6


def test_clocks_of_hosts_are_off_and_drift(world: World) -> None:
    process = world.process("a", offset=-7200.0, rate=1.001)
    begun = process.clock()
    process.spawn(lambda: process.sleep(100.1))
    world.run()
    assert world.now == pytest.approx(100.0)
    assert process.clock() - begun == pytest.approx(100.1)
    assert process.wall() == START + timedelta(seconds=100.1 - 7200)


def test_a_run_ends_at_its_time_or_condition(world: World) -> None:
    process = world.process("a", rate=1.0)
    ticks: list[float] = []

    def tick() -> None:
        while True:
            world.sleep(1.0)
            ticks.append(world.now)

    process.spawn(tick)
    assert not world.run(until=2.5)
    assert (world.now, ticks) == (2.5, [1.0, 2.0])
    assert world.run(done=lambda: len(ticks) == 4)
    assert world.now == 4.0


def test_an_error_of_a_task_ends_the_run(world: World) -> None:
    process = world.process("a")
    process.spawn(lambda: 1 / 0, "divides")
    with pytest.raises(ZeroDivisionError):
        world.run()
    assert "divides ZeroDivisionError" in world.schedule()


def test_a_crash_ends_all_tasks_of_its_process_and_no_other(world: World) -> None:
    process, other = world.process("a", rate=1.0), world.process("b", rate=1.0)
    seen: list[str] = []

    def work(name: str) -> None:
        try:
            world.sleep(10.0)
            seen.append(f"{name} went on")
        except Exception:
            seen.append(f"{name} handled it")
        finally:
            try:
                world.sleep(0.0)
            except Killed:
                seen.append(f"{name} ended")
                raise

    process.spawn(lambda: work("first"))
    process.spawn(lambda: work("second"))
    other.spawn(lambda: world.sleep(20.0))
    process.on_crash.append(lambda: seen.append("told"))
    world.after(5.0, world.crash, process)
    world.run()
    assert sorted(seen) == ["first ended", "second ended", "told"]
    assert world.now == 20.0
    assert not process.alive
    assert not process.tasks
    with pytest.raises(Killed):
        process.spawn(lambda: None)


def test_a_task_crashes_its_own_process(world: World) -> None:
    process = world.process("a")
    seen: list[str] = []

    def work() -> None:
        world.crash(process)
        seen.append("went on")

    process.spawn(work)
    process.spawn(lambda: world.sleep(1.0))
    world.run()
    assert seen == []


def test_a_paused_process_continues_later(world: World) -> None:
    process, other = world.process("a", rate=1.0), world.process("b", rate=1.0)
    seen: list[tuple[str, float]] = []

    def work(name: str) -> None:
        world.sleep(1.0)
        seen.append((name, world.now))

    process.spawn(lambda: work("paused"))
    other.spawn(lambda: work("other"))
    world.after(0.5, world.pause, process, 100.0)
    world.run()
    assert seen == [("other", 1.0), ("paused", 100.5)]


def test_a_task_that_pauses_its_process_stops_there(world: World) -> None:
    process = world.process("a")

    def work() -> float:
        world.pause(process, 60.0)
        return world.now

    assert world.perform(process, work) == 60.0


def test_a_paused_process_can_be_killed(world: World) -> None:
    process = world.process("a")
    process.spawn(lambda: world.sleep(1.0))
    world.after(0.5, world.pause, process, 100.0)
    world.after(2.0, world.crash, process)
    world.run(until=3.0)
    assert not process.tasks


def test_only_tasks_wait(world: World) -> None:
    with pytest.raises(RuntimeError, match="spawn one"):
        world.sleep(1.0)
