"""Images of the real API, from an engine that refuses, fails and breaks off as it is told."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hosted import Hosted, hosted
from stub_engine import StubEngine

from services.client.client import Client
from services.client.errors import ClientError, OverloadedError, RefusedError, UnreachableError
from services.client.images import GeneratedImage, ImageFailure, ImageProgress
from services.storage.directory import DirectoryStore

ORDER = {"prompt": "a <rex>", "tokens": {"<rex>": "rex"}, "steps": 3, "size": "16x24"}


@pytest.fixture
def service(tmp_path: Path, engine_at: tuple[StubEngine, str]) -> Iterator[Hosted]:
    with hosted(DirectoryStore(tmp_path / "store"), engines=engine_at[1]) as service:
        yield service


def waits(service: Hosted, **how: Any) -> tuple[Client, list[str]]:
    """Return a client that does not sleep, and the times that it waits."""
    seen: list[str] = []
    client = service.client(
        sleep=lambda seconds: None, on_wait=lambda why, seconds: seen.append(why), **how
    )
    return client, seen


def test_each_seed_is_generated_with_its_steps_and_settings(
    service: Hosted, client: Client, engine: StubEngine
) -> None:
    updates = list(client.generate(ORDER, [7, 8, 20]))
    generated = {each.seed: each for each in updates if isinstance(each, GeneratedImage)}
    assert sorted(generated) == [7, 8, 20]
    assert generated[8].settings["seed"] == 8
    assert generated[8].png.startswith(b"\x89PNG")
    steps = [(each.step, each.steps) for each in updates if isinstance(each, ImageProgress)]
    assert sorted(steps) == [(1, 3)] * 3 + [(2, 3)] * 3 + [(3, 3)] * 3
    assert [len(request.images) for _, request in engine.requests] == [2, 1]
    (first, _) = engine.requests[0][1].images
    assert (first.tokens, first.width, first.height) == ({"<rex>": "rex"}, 16, 24)


def test_more_than_one_request_takes_are_several(client: Client, engine: StubEngine) -> None:
    assert (
        len(
            [each for each in client.generate(ORDER, range(23)) if isinstance(each, GeneratedImage)]
        )
        == 23
    )
    assert [len(request.images) for _, request in engine.requests] == [10, 10, 3]


@pytest.mark.parametrize(
    ("status", "error", "seconds"),
    [(429, "QueueFullError", None), (503, "NoEngineError", 3.0)],
)
def test_a_full_service_is_retried_after_the_time_that_it_names(
    service: Hosted, engine: StubEngine, status: int, error: str, seconds: float | None
) -> None:
    engine.reject(status, error, "later", seconds)
    slept: list[float] = []

    def sleep(waited: float) -> None:
        slept.append(waited)
        if len(slept) == 2:
            engine.response = None

    with service.client(sleep=sleep) as client:
        assert any(isinstance(each, GeneratedImage) for each in client.generate(ORDER, [1]))
    assert len(slept) == 2
    assert all(waited >= 1 for waited in slept)
    if seconds:
        assert slept == [seconds] * 2


def test_retries_end_after_the_timeout(service: Hosted, engine: StubEngine) -> None:
    engine.reject(503, "NoEngineError", "nothing generates", 30)
    client, seen = waits(service, retry_for_s=20)
    with client, pytest.raises(OverloadedError, match="nothing generates; try again in 30 s"):
        list(client.generate(ORDER, [1]))
    assert seen == []


def test_missing_images_are_requested_again_after_a_broken_connection(
    service: Hosted, engine: StubEngine
) -> None:
    engine.dies = True
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        engine.dies = False

    with service.client(sleep=sleep) as client:
        updates = list(client.generate(ORDER, range(4, 8)))
    assert [each.seed for each in updates if isinstance(each, GeneratedImage)] == [4, 5, 6, 7]
    assert len(slept) == 1
    assert [request.images[0].seed for _, request in engine.requests][:2] == [4, 7]


def test_other_images_are_returned_if_one_fails(client: Client, engine: StubEngine) -> None:
    engine.failures[1] = "UnsafeImageError", "it may not be shown"
    updates = list(client.generate(ORDER, range(3)))
    assert [each.seed for each in updates if isinstance(each, GeneratedImage)] == [0, 2]
    (failed,) = (each for each in updates if isinstance(each, ImageFailure))
    assert failed.seed == 1
    assert isinstance(failed.error, RefusedError)
    assert str(failed.error) == "it may not be shown"


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ({"prompt": "a", "guidance": 0.5}, "guidance"),
        ({"prompt": "a", "model": "sdxl"}, "there are miniature"),
        ({"prompt": "a", "size": "1x1"}, "width and height"),
    ],
)
def test_invalid_requests_fail_at_once(
    client: Client, engine: StubEngine, order: dict[str, Any], message: str
) -> None:
    with pytest.raises(ClientError, match=message):
        list(client.generate(order, [1]))
    assert engine.requests == []


def test_a_service_that_cannot_be_reached_is_an_error(service: Hosted) -> None:
    service.stop()
    client, _ = waits(service, first_retry_for_s=0)
    with client, pytest.raises(UnreachableError, match="is it running"):
        list(client.generate(ORDER, [1]))
