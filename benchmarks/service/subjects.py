"""Sends subjects of the miniature's world to the service: bundles, uploads and jobs."""

import hashlib
import io
import json
import secrets
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from dti_engine.config import TrainConfig
from dti_engine.images.bundles.bundle import load_bundle
from dti_engine.miniature.world.subjects import draw_subject, held_out_subjects
from dti_engine.training.loop import Subject
from services.auth.keys import create_key
from services.auth.tenants import set_limits
from services.contracts.jobs import JobItem, JobRequest
from services.contracts.models import ServedModel
from services.contracts.training import TrainingItem, TrainingJobSpec, batch_of
from services.ledger import uploads
from services.ledger.ledger import Ledger
from services.ledger.submissions import submit
from services.storage.open import open_store

TENANT, POOL = "benchmark", "miniature"
NUM_IMAGES = 5
ENDED = ("succeeded", "partially_succeeded", "failed", "cancelled")


@dataclass(frozen=True)
class PackedSubject:
    """A subject twice: as a bundle for the service, and as the engine takes it."""

    name: str
    data: bytes
    subject: Subject

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


def pack_subjects(count: int, folder: Path) -> list[PackedSubject]:
    """Pack `count` subjects; above the number of the world's, the first repeat with other names."""
    held_out = list(held_out_subjects("evaluation"))
    return [_pack(held_out[i % len(held_out)], f"subject-{i}", folder) for i in range(count)]


def _pack(held_out: Any, name: str, folder: Path) -> PackedSubject:
    photos, path = folder / name, folder / f"{name}.zip"
    draw_subject(held_out, photos, count=NUM_IMAGES)
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for photo in sorted(photos.iterdir()):
            archive.writestr(photo.name, photo.read_bytes())
        archive.writestr("bundle.json", json.dumps({"initializer": held_out.class_word}))
    path.write_bytes(data.getvalue())
    subject_images = load_bundle(path).images
    return PackedSubject(
        name, data.getvalue(), Subject(name, subject_images, f"<{name}>", held_out.class_word, 0)
    )


def submit_to_ledger(
    ledger: Ledger, subjects: Sequence[PackedSubject], config: TrainConfig, tenant: str = TENANT
) -> str:
    """Upload the bundles and submit the job; return its id."""
    for subject in subjects:
        uploads.write(ledger.store, tenant, subject.sha256, io.BytesIO(subject.data))
    spec = TrainingJobSpec(
        model=POOL, recipe="miniature", config=config.model_dump(mode="json"), validation_images=0
    )
    request = JobRequest(
        pool=POOL,
        batch=batch_of(config),
        items=tuple(
            JobItem(name=each.name, work=TrainingItem(bundle=each.sha256).model_dump(mode="json"))
            for each in subjects
        ),
        shared=spec.model_dump(mode="json"),
    )
    return submit(ledger, tenant, secrets.token_hex(8), request).job


def write_models(path: Path, *, slots: int, gpus: int) -> Path:
    """Write a file of models: the miniature with `slots` slots and one worker."""
    model = ServedModel(weights=POOL, recipe="miniature", slots=slots, gpus=gpus, max_workers=1)
    path.write_text(json.dumps({POOL: model.model_dump(mode="json")}))
    return path


class Client:
    """An HTTP client of a running service, whose tenant has no limits in practice."""

    def __init__(self, url: str, store: str) -> None:
        opened = open_store(store)
        credential = create_key(opened, TENANT, "benchmark").credential
        limits = {"requests_per_second": 100_000, "burst": 1_000_000, "open_items": 10**9}
        set_limits(opened, TENANT, limits)
        headers = {"Authorization": f"Bearer {credential}"}
        self.http = httpx.Client(base_url=url, headers=headers, timeout=60)

    def upload(self, subjects: Sequence[PackedSubject]) -> None:
        for each in subjects:
            body = {"files": [{"sha256": each.sha256, "size": len(each.data)}]}
            (file,) = self._request("POST", "/v1/uploads", json=body)["files"]
            if upload := file["upload"]:  # a folder's store does without
                self.http.put(upload["url"], content=each.data).raise_for_status()

    def submit(self, subjects: Sequence[PackedSubject], config: TrainConfig) -> str:
        items = [{"id": each.name, "bundle": each.sha256} for each in subjects]
        return self.create(items, overrides={"steps": config.steps}, validation_images=0)

    def create(self, subjects: Sequence[Mapping[str, Any]], **more: Any) -> str:
        """Create a training job and return its id."""
        key = {"Idempotency-Key": secrets.token_hex(16)}
        body = {"subjects": subjects, **more}
        return self._request("POST", "/v1/training-jobs", json=body, headers=key)["job"]

    def wait_until_ended(self, job: str, timeout_s: float = 3600) -> None:
        """Poll the job five times a second until it has ended.

        Raises:
            RuntimeError: A subject failed, or the job has not ended in time.
        """
        deadline = time.monotonic() + timeout_s
        while (view := self._request("GET", f"/v1/training-jobs/{job}"))["state"] not in ENDED:
            if time.monotonic() > deadline:
                raise RuntimeError(f"the job has not ended after {timeout_s:g} s: {view}")
            time.sleep(0.2)
        if view["state"] != "succeeded":
            raise RuntimeError(f"not every subject was learned: {view['counts']}")

    def _request(self, method: str, path: str, **more: Any) -> Any:
        response = self.http.request(method, path, **more)
        if response.is_error:
            raise RuntimeError(f"{method} {path}: {response.status_code} {response.text}"[:500])
        return response.json()
