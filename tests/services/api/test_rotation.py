"""Secrets are replaced while requests run, and no request fails."""

import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from starlette.testclient import TestClient
from stub_engine import SECRET

from services.api.images.store import rotate_link_keys
from services.auth.keys import create_key, revoke_key, rotate_key
from services.contracts.generation import split_secrets
from services.inference.http import create_app as create_engine_app

_THREADS = 4


@contextmanager
def _load(request: Callable[[], int]) -> Generator[list[int]]:
    """Repeat a request in threads, and yield the list of the statuses so far."""
    stopped, statuses = threading.Event(), list[int]()

    def repeat() -> None:
        while not stopped.is_set():
            statuses.append(request())

    threads = [threading.Thread(target=repeat) for _ in range(_THREADS)]
    for thread in threads:
        thread.start()
    try:
        yield statuses
    finally:
        stopped.set()
        for thread in threads:
            thread.join(20)


def test_a_key_is_rotated_while_requests_run(site: Any, eventually: Any) -> None:
    old = site.keys["acme"]
    current = [old]

    def request() -> int:
        headers = {"Authorization": f"Bearer {current[0]}"}
        return site.client.get("/v1/models", headers=headers).status_code

    with _load(request) as statuses:
        eventually(lambda: len(statuses) > 20)
        new = rotate_key(site.store, old.split("_")[1], timedelta(hours=1))
        eventually(lambda: len(statuses) > 40)
        current[0] = new.credential
        eventually(lambda: len(statuses) > 60)
    assert set(statuses) == {200}
    revoke_key(site.store, old.split("_")[1])


def test_the_keys_of_links_are_rotated_while_links_are_followed(image_site: Any) -> None:
    image, link = image_site.keep()
    links = [link]

    def request() -> int:
        [path] = links[-1:]
        return image_site.client.get(path).status_code

    with _load(request) as statuses:
        for _ in range(3):
            count = len(statuses)
            rotate_link_keys(image_site.store)
            listed = image_site.get("/v1/images").json()["images"]
            links.append(next(each["url"] for each in listed if each["id"] == image))
            while len(statuses) < count + 10:
                time.sleep(0.001)
    assert set(statuses) == {200}


class _Engine:
    """An engine that has admitted a request as soon as it is asked to generate."""

    async def generate(self, request: Any) -> Any:
        raise AssertionError("the secret was accepted")

    async def stop(self) -> None:
        pass


@pytest.mark.parametrize(
    ("accepted", "sent", "status"),
    [
        ("old", "old", 422),
        ("old,new", "old", 422),
        ("old,new", "new", 422),
        (" new , old ", "old", 422),
        ("new", "old", 401),
        ("old,new", "old,new", 401),
        ("old,new", "", 401),
    ],
)
def test_an_engine_accepts_any_of_its_secrets(accepted: str, sent: str, status: int) -> None:
    engine: Any = _Engine()
    client = TestClient(create_engine_app(engine, accepted))
    headers = {"Authorization": f"Bearer {sent}"}
    answer = client.post("/engines/miniature/generate", content=b"{}", headers=headers)
    assert answer.status_code == status


def test_callers_send_the_first_secret(new_image_site: Any, new_site: Any, engine: Any) -> None:
    assert split_secrets(f"{SECRET}, next") == (SECRET, "next")
    assert split_secrets(SECRET) == (SECRET,)
    settings = new_image_site().app.state.service.settings
    site = new_site(settings=settings, engine_secret=f"{SECRET},next")
    assert site.generate().status_code == 200
    site = new_site(settings=settings, engine_secret=f"next,{SECRET}")
    assert site.generate().status_code == 500


@pytest.mark.parametrize("scope", ["read", "generate"])
def test_a_key_with_a_scope_is_refused_elsewhere(site: Any, scope: Any) -> None:
    site.keys["scoped"] = create_key(site.store, "acme", scope=scope).credential
    assert site.get("/v1/models", "scoped").status_code == 200
    refused = site.submit({"subjects": site.subjects("rex")}, "scoped")
    assert refused.status_code == 403
    assert refused.json()["type"] == "urn:dti:problem:forbidden"
    assert scope in refused.json()["detail"]
    reading = site.get("/v1/audit", "scoped").status_code
    assert reading == (200 if scope == "read" else 403)


def test_a_key_may_expire(site: Any) -> None:
    short = create_key(site.store, "acme", valid_for=timedelta(microseconds=1))
    site.keys["short"] = short.credential
    assert site.get("/v1/models", "short").status_code == 401
    successor = rotate_key(
        site.store,
        create_key(site.store, "acme", scope="read", valid_for=timedelta(days=1)).id,
        timedelta(0),
    )
    site.keys["next"] = successor.credential
    assert site.get("/v1/models", "next").status_code == 200
    assert site.submit({"subjects": site.subjects("rex")}, "next").status_code == 403
