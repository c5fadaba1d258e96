"""The whole service on this machine: real processes, a real Ray node, a folder as the store."""

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.auth.keys import create_key
from services.local.service import LocalService, LocalServiceSettings, free_port
from services.storage.open import open_store

SECONDS = 240
"""Until what has to come about has: two busy cores, and processes that load torch."""


@dataclass
class Caller:
    """A client of a running service, in few words."""

    service: LocalService
    http: httpx.Client
    bundles: dict[str, bytes]

    def upload(self, data: bytes) -> str:
        sha256 = hashlib.sha256(data).hexdigest()
        response = self.http.post(
            "/v1/uploads", json={"files": [{"sha256": sha256, "size": len(data)}]}
        )
        (file,) = response.raise_for_status().json()["files"]
        if file["upload"]:
            self.http.put(file["upload"]["url"], content=data).raise_for_status()
        return sha256

    def subjects(self, count: int) -> list[dict[str, Any]]:
        names = list(self.bundles)
        return [
            {"id": f"{names[i % len(names)]}-{i}", "bundle": self.upload(self.bundles[name])}
            for i in range(count)
            for name in (names[i % len(names)],)
        ]

    def submit(self, subjects: list[dict[str, Any]], key: str, **more: Any) -> str:
        body = {"subjects": subjects, "overrides": {"steps": 8}, "validation_images": 0} | more
        answer = self.http.post("/v1/training-jobs", json=body, headers={"Idempotency-Key": key})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["job"])

    def get(self, path: str) -> Any:
        return self.http.get(path).raise_for_status().json()

    def job(self, job: str) -> Any:
        return self.get(f"/v1/training-jobs/{job}")

    def items(self, job: str) -> dict[str, Any]:
        return {each["id"]: each for each in self.get(f"/v1/training-jobs/{job}/items")["items"]}

    def wait_for(self, what: Callable[[], bool], seconds: float = SECONDS) -> None:
        end = time.monotonic() + seconds
        while True:
            try:
                if what():
                    return
            except httpx.TransportError:
                pass  # The API has been killed, and is coming up again.
            except httpx.HTTPStatusError as error:
                if error.response.status_code < 500:
                    raise
            assert time.monotonic() < end, self.service.supervisor.tail()
            time.sleep(0.2)

    def wait_until_ended(self, *jobs: str) -> None:
        ended = ("succeeded", "failed", "partially_succeeded", "cancelled")
        self.wait_for(lambda: all(self.job(job)["state"] in ended for job in jobs))


def caller_of(service: LocalService, bundles: dict[str, bytes]) -> Caller:
    """Return a client of the service with a key of its own."""
    credential = create_key(open_store(service.settings.store), "acme", "test").credential
    http = httpx.Client(
        base_url=service.url, headers={"Authorization": f"Bearer {credential}"}, timeout=30
    )
    return Caller(service, http, bundles)


def plan(store: Path) -> LocalServiceSettings:
    # A short lease, so that what is killed is soon found out.
    return LocalServiceSettings(
        store=str(store),
        port=free_port(),
        lease_s=4,
        poll_interval_s=0.2,
        checkpoint_interval_s=1,
        reconcile_interval_s=0.5,
    )


@pytest.fixture(scope="module")
def caller(tmp_path_factory: pytest.TempPathFactory, bundles: dict[str, bytes]) -> Iterator[Caller]:
    with LocalService(plan(tmp_path_factory.mktemp("store"))) as service:
        service.wait_until_ready(SECONDS)
        caller = caller_of(service, bundles)
        yield caller
        caller.http.close()
