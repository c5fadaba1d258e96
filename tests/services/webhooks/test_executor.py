"""The executor is fair: no tenant's tasks wait for those of a slow one."""

import threading

from services.webhooks.executor import FairExecutor


def test_each_task_runs_exactly_once() -> None:
    done: list[str] = []
    executor: FairExecutor[str] = FairExecutor(done.append, num_threads=4, max_per_tenant=2)
    assert executor.replace_pending({"a": ["a1", "a2", "a3"], "b": ["b1"], "c": []}) == 4
    assert executor.wait(10)
    executor.close()
    assert sorted(done) == ["a1", "a2", "a3", "b1"]


def test_a_slow_tenant_holds_only_its_share_of_the_threads() -> None:
    may_run, slow_begun, done = threading.Event(), threading.Semaphore(0), list[str]()
    quick = threading.Semaphore(0)

    def do(one: str) -> None:
        if one.startswith("slow"):
            slow_begun.release()
            assert may_run.wait(20)
        done.append(one)
        if one.startswith("quick"):
            quick.release()

    executor: FairExecutor[str] = FairExecutor(do, num_threads=4, max_per_tenant=3)
    executor.replace_pending({"slow": [f"slow{i}" for i in range(50)]})
    for _ in range(3):
        assert slow_begun.acquire(timeout=10)
    executor.replace_pending(
        {"slow": [f"slow{i}" for i in range(50)], "quick": [f"quick{i}" for i in range(50)]}
    )
    for _ in range(50):
        assert quick.acquire(timeout=10)
    assert not slow_begun.acquire(blocking=False)  # It has its three, and no more.
    may_run.set()
    assert executor.wait(20)
    executor.close()
    assert sorted(done) == sorted(
        [f"{tenant}{i}" for tenant in ("slow", "quick") for i in range(50)]
    )


def test_running_tasks_are_not_repeated_and_pending_ones_are_replaced() -> None:
    may_run, begun, done = threading.Event(), threading.Semaphore(0), list[str]()

    def do(one: str) -> None:
        begun.release()
        assert may_run.wait(20)
        done.append(one)

    executor: FairExecutor[str] = FairExecutor(do, num_threads=1, max_per_tenant=1)
    assert executor.replace_pending({"a": ["a1", "a2"]}) == 2
    assert begun.acquire(timeout=10)
    assert executor.replace_pending({"a": ["a1", "a3"]}) == 1
    may_run.set()
    assert executor.wait(20)
    assert done == ["a1", "a3"]
    executor.close()


def test_no_task_starts_after_close() -> None:
    may_run, begun, done = threading.Event(), threading.Event(), list[str]()

    def do(one: str) -> None:
        begun.set()
        assert may_run.wait(20)
        done.append(one)

    executor: FairExecutor[str] = FairExecutor(do, num_threads=1, max_per_tenant=1)
    executor.replace_pending({"a": ["a1", "a2"]})
    assert begun.wait(10)
    closing = threading.Thread(target=executor.close)
    closing.start()
    may_run.set()
    closing.join(20)
    assert done == ["a1"]
    executor.replace_pending({"a": ["a2"]})
    assert not executor.wait(0)
    assert done == ["a1"]
