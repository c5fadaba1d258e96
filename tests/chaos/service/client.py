"""One tenant of the service, who knows it by HTTP alone, and asks again where no answer comes."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chaos.processes.lines import Log
from dti_engine.artifacts.artifact import Artifact
from dti_engine.miniature.world.subjects import draw_subject, held_out_subjects
from services.auth.keys import create_key
from services.auth.tenants import set_limits
from services.client.client import Client
from services.client.config import ServerConfig
from services.client.errors import OverloadedError, UnreachableError
from services.client.schemas import Item, Job
from services.client.uploads import UploadContent, bundle_content, content_of
from services.local.service import LocalService
from services.storage.open import open_store

_IMAGES = 3


@dataclass(frozen=True)
class Subject:
    """What is to be learned, and from what."""

    name: str
    word: str
    parcel: UploadContent


def draw(count: int) -> list[Subject]:
    """Subjects of the miniature's world, up to 12."""
    subjects: list[Subject] = []
    with tempfile.TemporaryDirectory(prefix="dti-") as folder:
        for one in held_out_subjects("evaluation")[:count]:
            path = Path(folder) / one.name
            draw_subject(one, path, count=_IMAGES)
            subjects.append(
                Subject(one.name, one.class_word, content_of(bundle_content(path).read()))
            )
    return subjects


class Customer:
    """What it asks for and is told, it says to its log as the clients of `kills` do."""

    def __init__(self, service: LocalService, tenant: str, log: Log) -> None:
        store = open_store(service.settings.store)
        credential = create_key(store, tenant, "kills of service").credential
        set_limits(store, tenant, {"requests_per_second": 1000, "burst": 1000})
        access = ServerConfig(service.url, credential)
        self._client = Client.at(access, first_retry_for_s=120)
        self._hasty = Client.at(access, retry_for_s=0, first_retry_for_s=0)
        self._log, self._asked = log, 0

    def close(self) -> None:
        for client in (self._client, self._hasty):
            client.__exit__()

    def submit(self, subjects: Sequence[Subject], steps: int, seed: int, key: str) -> Job:
        """A job of them; again with the same key, it is the same."""
        number, self._asked = self._asked, self._asked + 1
        self._log.say("asked", n=number, op="again" if number else "submit", key=key)
        self._client.upload([one.parcel for one in subjects])
        order: dict[str, Any] = {
            "subjects": [
                {
                    "id": one.name,
                    "bundle": one.parcel.sha256,
                    "initializer": one.word,
                    "training": {"seed": seed},
                }
                for one in subjects
            ],
            "overrides": {"steps": steps},
            "probes": 0,
        }
        job = self._client.submit(order, key)
        self._log.say("answered", n=number, job=job.job, created=bool(job.created))
        return job

    def look(self, job: str) -> Job | None:
        """How it stands; None: nobody answers."""
        try:
            return self._hasty.job(job)
        except (UnreachableError, OverloadedError):
            return None

    def items(self, job: str) -> list[Item]:
        return list(self._client.items(job))

    def token_file(self, token: str) -> bytes:
        """Checked against the digest that the service tells with it."""
        return self._client.token_file(token)

    def tokens(self, job: str) -> dict[str, Artifact]:
        """All that were learned, by the subject's name."""
        return {
            item.id: Artifact.from_bytes(self.token_file(item.token))
            for item in self.items(job)
            if item.token
        }


def progress(job: Job) -> float:
    """Share of the work that is done, as far as workers have told."""
    return float((job.model_extra or {}).get("progress", 0))
