"""Errors of engines: rejections, and engines that are slow, absent or broken."""

import time
from typing import Any

import pytest
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from stub_engine import StubEngine

from dti_engine.errors import DTIError, TokenError
from services.engine_client import rebuild_error
from services.errors import QueueFullError, ServiceError


@pytest.mark.parametrize(
    ("name", "status", "told"),
    [
        ("UnknownJobError", 404, True),
        ("InvalidIdError", 404, True),
        ("DeletedError", 410, True),
        ("TokenError", 422, True),
        ("ConfigurationError", 422, True),
        ("ArtifactMismatchError", 422, True),
        ("AntipodalError", 422, True),
        ("UnsafeImageError", 422, True),
        ("QueueFullError", 429, True),
        ("NoEngineError", 503, True),
        ("DeadlineExceededError", 504, True),
        ("UnavailableError", 503, False),
        ("GenerationFailedError", 500, False),
        ("ArtifactFormatError", 500, False),
        ("UnknownKeyError", 500, False),
        ("Unheard", 500, False),
        ("DTIError", 500, False),
    ],
)
def test_an_engine_error_becomes_the_problem_of_its_class(
    image_site: Any, engine: StubEngine, name: str, status: int, told: bool
) -> None:
    engine.failures = {1: (name, "what was wrong")}
    on_the_way = image_site.generate(n=3)
    engine.reject(422, name, "what was wrong")
    at_once = image_site.generate(n=3)
    for answer in (on_the_way, at_once):
        assert answer.status_code == status, answer.text
        assert ("what was wrong" in answer.text) is told
        assert ("Retry-After" in answer.headers) is (status in (429, 503))
        assert answer.json()["error"]["message"]


def test_retry_after_is_the_one_of_the_engine(image_site: Any, engine: StubEngine) -> None:
    engine.reject(429, "QueueFullError", "full", 7.2)
    assert image_site.generate().headers["Retry-After"] == "8"


def test_an_engine_error_is_rebuilt_with_its_class() -> None:
    full = rebuild_error("QueueFullError", "full", 3)
    assert (type(full), str(full), full.retry_after_s) == (QueueFullError, "full", 3)
    assert type(rebuild_error("TokenError", "x")) is TokenError
    for name in ("", "Annotated", "Self", "DTIErrors", "UnknownKeyError"):
        assert type(rebuild_error(name, "x")) is ServiceError
    assert isinstance(rebuild_error("DTIError", "x"), DTIError)


def test_a_missing_engine_is_a_503_with_retry_after(site: Any, new_image_site: Any) -> None:
    answer = site.generate()
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "60"
    assert "no endpoint is running" in answer.json()["error"]["message"]
    elsewhere = new_image_site(engines_url="http://127.0.0.1:9/engines")
    answer = elsewhere.generate()
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")


@pytest.mark.parametrize(
    ("status", "expected"), [(404, 503), (502, 503), (503, 503), (500, 500), (400, 500)]
)
def test_the_text_of_a_proxy_is_not_shown(
    image_site: Any, engine: StubEngine, status: int, expected: int
) -> None:
    engine.response = PlainTextResponse("no replica of acme", status)
    answer = image_site.generate()
    assert answer.status_code == expected
    assert "replica" not in answer.text


def test_an_engine_that_dies_during_a_request_is_a_503(image_site: Any, engine: StubEngine) -> None:
    engine.dies = True
    answer = image_site.generate(n=2)
    assert answer.status_code == 503
    assert answer.headers["Retry-After"]
    engine.dies = False
    assert image_site.generate(n=2).status_code == 200


@pytest.mark.parametrize(
    ("lines", "status"),
    [(b"", 503), (b'{"event": "image"', 503), (b"{}\n", 500), (b"\xff\n", 500)],
)
def test_a_malformed_engine_response_is_an_error(
    image_site: Any, engine: StubEngine, lines: bytes, status: int
) -> None:
    engine.response = StreamingResponse(iter([lines]))
    assert image_site.generate().status_code == status


def test_a_request_times_out_after_timeout_s(
    image_site: Any, engine: StubEngine, parts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.engine_client._GRACE_S", 0.0)
    engine.may_finish.clear()
    began = time.monotonic()
    answer = image_site.generate(timeout_s=0.5)
    assert answer.status_code == 504
    assert time.monotonic() - began < 10
    parts.until(lambda: engine.disconnects == 1)


def test_a_silent_engine_times_out(
    image_site: Any, engine: StubEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.engine_client._GRACE_S", 0.0)

    async def never() -> Any:
        import asyncio

        await asyncio.sleep(5)
        yield b""

    engine.response = StreamingResponse(never())
    assert image_site.generate(timeout_s=0.3).status_code == 504


def test_a_wrong_engine_secret_is_an_internal_error(image_site: Any, engine: StubEngine) -> None:
    body = {"error": "UnknownKeyError", "detail": "give DTI_ENGINE_SECRET to both"}
    engine.response = JSONResponse(body, 401)
    answer = image_site.generate()
    assert answer.status_code == 500
    assert "SECRET" not in answer.text
