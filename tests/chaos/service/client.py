"""A client of the service: it uses HTTP alone, and repeats requests until they are answered."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chaos.history import HistoryLog
from dti_engine.artifacts.artifact import Artifact
from dti_engine.miniature.world.subjects import draw_subject, held_out_subjects
from services.auth.keys import create_key
from services.auth.tenants import set_limits
from services.client.client import Client
from services.client.config import ServerConfig
from services.client.errors import OverloadedError, UnreachableError
from services.client.schemas import Item, Job
from services.client.uploader import UploadContent, bundle_content, content_of
from services.local.service import LocalService
from services.storage.open import open_store

_IMAGES = 3


@dataclass(frozen=True)
class Subject:
    """A subject to be trained, and its bundle of images."""

    name: str
    initializer: str
    bundle: UploadContent


def draw_subjects(count: int) -> list[Subject]:
    """Draw subjects of the miniature's world, 12 at most."""
    subjects: list[Subject] = []
    with tempfile.TemporaryDirectory(prefix="dti-") as folder:
        for subject in held_out_subjects("evaluation")[:count]:
            path = Path(folder) / subject.name
            draw_subject(subject, path, count=_IMAGES)
            bundle = content_of(bundle_content(path).read())
            subjects.append(Subject(subject.name, subject.class_word, bundle))
    return subjects


class ServiceClient:
    """One tenant's client. It logs its operations as the clients of `chaos.processes` do."""

    def __init__(self, service: LocalService, tenant: str, log: HistoryLog) -> None:
        store = open_store(service.settings.store)
        api_key = create_key(store, tenant, "chaos").credential
        set_limits(store, tenant, {"requests_per_second": 1000, "burst": 1000})
        config = ServerConfig(service.url, api_key)
        self._client = Client.at(config, first_retry_for_s=120)
        self._impatient_client = Client.at(config, retry_for_s=0, first_retry_for_s=0)
        self._log, self._submissions = log, 0

    def close(self) -> None:
        for client in (self._client, self._impatient_client):
            client.__exit__()

    def submit(self, subjects: Sequence[Subject], steps: int, seed: int, key: str) -> Job:
        """Submit a job, or with the same key find the same job again."""
        number, self._submissions = self._submissions, self._submissions + 1
        self._log.append("invoked", n=number, op="again" if number else "submit", key=key)
        self._client.upload([subject.bundle for subject in subjects])
        request: dict[str, Any] = {
            "subjects": [
                {
                    "id": subject.name,
                    "bundle": subject.bundle.sha256,
                    "initializer": subject.initializer,
                    "training": {"seed": seed},
                }
                for subject in subjects
            ],
            "overrides": {"steps": steps},
            "validation_images": 0,
        }
        job = self._client.submit(request, key)
        self._log.append("completed", n=number, job=job.job, created=bool(job.created))
        return job

    def poll(self, job: str) -> Job | None:
        """Return the state of a job, or None if the API does not answer."""
        try:
            return self._impatient_client.job(job)
        except (UnreachableError, OverloadedError):
            return None

    def items(self, job: str) -> list[Item]:
        return list(self._client.items(job))

    def token_file(self, token: str) -> bytes:
        """Download a token; the client checks the digest that the service sends with it."""
        return self._client.token_file(token)

    def artifacts(self, job: str) -> dict[str, Artifact]:
        """Download all tokens of a job, by subject."""
        return {
            item.id: Artifact.from_bytes(self.token_file(item.token))
            for item in self.items(job)
            if item.token
        }


def progress(job: Job) -> float:
    """Return the share of a job's work that workers have reported as done."""
    return float((job.model_extra or {}).get("progress", 0))
