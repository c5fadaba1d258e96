"""Engines are replaced and taken away under load, and no request fails."""

import itertools
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
import pytest
from chaos.service.processes import processes

from services.local.service import LocalService

from .conftest import SECONDS, Caller, caller_of, plan

pytestmark = pytest.mark.ray

PATH = "/v1/images/generations"

CALLERS = 2
"""That ask again as soon as they have an answer: one for images, one for streams."""

LONGEST = 330
"""Seconds that a caller waits: the API itself answers after 300."""


@dataclass
class Load:
    """Answers so far, and those of them that are no images."""

    answers: int = 0
    failures: list[str] = field(default_factory=list[str])


@pytest.fixture
def models(tmp_path: Path) -> Path:
    path = tmp_path / "models.json"
    write(path, gpus=1, waiting=32)
    return path


@pytest.fixture
def caller(tmp_path: Path, bundles: dict[str, bytes], models: Path) -> Iterator[Caller]:
    """Return a client of a service whose node claims to have two GPUs."""
    service = LocalService(plan(tmp_path / "store").model_copy(update={"models": models}))
    node = service.node.command
    service.node.command = replace(node, arguments=[*node.arguments, "--num-gpus=2"])
    with service:
        service.wait_until_ready(SECONDS)
        caller = caller_of(service, bundles)
        caller.http.timeout = httpx.Timeout(LONGEST)
        yield caller
        caller.http.close()


def write(models: Path, *, gpus: int, waiting: int, count: int = 2) -> None:
    """Offer the miniature, with so many engines."""
    generation = {
        "batch_size": 2,
        "queue_size": waiting,
        "min_engines": count,
        "max_engines": count,
    }
    changed = {"device": "cpu", "gpus": gpus, "generation": generation}
    settings = {"weights": "miniature", "recipe": "miniature"} | changed
    new = models.with_suffix(".new")
    new.write_text(json.dumps({"miniature": settings}))
    new.rename(models)


def bring_up_again(service: LocalService) -> None:
    """Deploy the endpoint again, with the models as they are now."""
    endpoint = service.engines
    ready = endpoint.output().count("\nready\n")
    assert endpoint.pid
    os.kill(endpoint.pid, signal.SIGTERM)
    end = time.monotonic() + SECONDS
    while endpoint.output().count("\nready\n") == ready:
        assert time.monotonic() < end, endpoint.tail()
        time.sleep(0.2)


def engines(service: LocalService) -> set[int]:
    return {one.pid for one in processes(service) if "ServeReplica" in one.command}


def most_at_once(caller: Caller) -> str:
    """Return the largest batch that an engine reports for ten concurrent images."""
    answer = caller.http.post(PATH, json={"prompt": "a dog", "n": 10, "steps": 1})
    return "generated" if answer.status_code == 200 else str(answer.json()["detail"])


def trouble(http: httpx.Client, number: int) -> str:
    """Request an image and return what is wrong with the response, or "" if it has images.

    Every other request is a stream, and some take ten times as long as others.
    """
    stream = number % 2 == 1
    body = {"prompt": "a red dog", "seed": number, "steps": 60 if number % 8 > 5 else 6}
    try:
        answer = http.post(PATH, json={**body, "stream": stream})
    except httpx.HTTPError as error:
        return repr(error)
    generated = "event: image_generation.completed" if stream else '"b64_json"'
    if answer.status_code == 200 and generated in answer.text:
        return ""
    return f"{answer.status_code}: {answer.text[-500:]}"


@contextmanager
def load(caller: Caller) -> Iterator[Load]:
    """Keep requesting images until the context is left."""
    found, ended, lock = Load(), threading.Event(), threading.Lock()

    def keep_asking(first: int) -> None:
        for number in itertools.count(first, CALLERS):
            if ended.is_set():
                return
            wrong = trouble(caller.http, number)
            with lock:
                found.answers += 1
                found.failures += [f"{time.strftime('%X')} {wrong}"] if wrong else []

    with ThreadPoolExecutor(CALLERS) as pool:
        running = [pool.submit(keep_asking, first) for first in range(CALLERS)]
        try:
            yield found
        finally:
            ended.set()
    for each in running:
        each.result()


def ask_on(caller: Caller, loaded: Load) -> None:
    """Wait for so many more answers that every caller has had some."""
    until = loaded.answers + 3 * CALLERS
    caller.wait_for(lambda: loaded.answers > until)


def test_engines_are_replaced_and_taken_away_under_load_and_no_request_fails(
    caller: Caller, models: Path
) -> None:
    """First each in its place, as on a GPU of its own; then one beside two, which go."""
    service = caller.service
    assert most_at_once(caller) == "generated"
    with load(caller) as loaded:
        for gpus, count in ((1, 2), (0, 1)):
            ask_on(caller, loaded)
            before = engines(service)
            write(models, gpus=gpus, waiting=8 + 2 * gpus, count=count)
            bring_up_again(service)
            caller.wait_for(lambda before=before: not engines(service) & before)
            ask_on(caller, loaded)
            assert f"where {4 + gpus} of a tenant may wait" in most_at_once(caller)
            assert len(engines(service)) == count
        (stays,) = engines(service)
        write(models, gpus=0, waiting=8, count=2)
        bring_up_again(service)
        caller.wait_for(lambda: len(engines(service)) == 2)
        assert stays in engines(service), "a higher limit replaces no engine"
        ask_on(caller, loaded)
    assert loaded.failures == []
    assert loaded.answers > 20
