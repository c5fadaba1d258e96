"""Pools remove workers that do not answer."""

import pytest

from services.contracts.models import MINIATURE
from services.training.pool import UnresponsiveWorkers


def test_a_worker_that_is_unresponsive_for_long_is_removed() -> None:
    now = 0.0
    unresponsive = UnresponsiveWorkers(10, lambda: now)
    assert unresponsive.update(["a", "b"], {"a", "b"}) == []
    now = 100.0
    assert unresponsive.update(["a", "b"], {"a"}) == [], "it has only just fallen silent"
    now = 109.0
    assert unresponsive.update(["a", "b"], {"a"}) == []
    now = 110.0
    assert unresponsive.update(["a", "b"], {"a"}) == ["b"]


def test_an_answer_resets_the_time_without_answers() -> None:
    now = 0.0
    unresponsive = UnresponsiveWorkers(10, lambda: now)
    unresponsive.update(["a"], set())
    now = 9.0
    unresponsive.update(["a"], {"a"})
    now = 18.0
    assert unresponsive.update(["a"], set()) == []
    now = 27.0
    assert unresponsive.update(["a"], set()) == []
    now = 28.0
    assert unresponsive.update(["a"], set()) == ["a"]


def test_a_worker_of_another_version_or_spec_is_another_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from services.training import ray_pool
    from services.training.factory import WorkerSpec

    spec = WorkerSpec(store="memory:", pool="miniature", model=MINIATURE["miniature"])
    today = ray_pool.fingerprint(spec)
    assert ray_pool.fingerprint(spec.model_copy()) == today
    assert ray_pool.fingerprint(spec.model_copy(update={"threads": 2})) != today
    monkeypatch.setattr(ray_pool, "__version__", "99.0")
    assert ray_pool.fingerprint(spec) != today
