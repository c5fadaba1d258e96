"""Subjects of the miniature's world as the service is sent them: bundles, uploads, jobs."""

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
class Parcel:
    """A subject's bundle, and the same subject as the engine takes it."""

    name: str
    data: bytes
    subject: Subject

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


def pack_subjects(count: int, folder: Path) -> list[Parcel]:
    """So many. If there are more than the world has, the first come again by other names."""
    looks = list(held_out_subjects("evaluation"))
    return [_pack(looks[i % len(looks)], f"subject-{i}", folder) for i in range(count)]


def _pack(look: Any, name: str, folder: Path) -> Parcel:
    photos, path = folder / name, folder / f"{name}.zip"
    draw_subject(look, photos, count=NUM_IMAGES)
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for photo in sorted(photos.iterdir()):
            archive.writestr(photo.name, photo.read_bytes())
        archive.writestr("bundle.json", json.dumps({"initializer": look.class_word}))
    path.write_bytes(data.getvalue())
    subject_images = load_bundle(path).images
    return Parcel(
        name, data.getvalue(), Subject(name, subject_images, f"<{name}>", look.class_word, 0)
    )


def submit_to_ledger(
    ledger: Ledger, parcels: Sequence[Parcel], config: TrainConfig, tenant: str = TENANT
) -> str:
    """Upload, and make the job."""
    for parcel in parcels:
        uploads.write(ledger.store, tenant, parcel.sha256, parcel.data)
    order = TrainingJobSpec(
        model=POOL, recipe="miniature", config=config.model_dump(mode="json"), validation_images=0
    )
    request = JobRequest(
        pool=POOL,
        batch=batch_of(config),
        items=tuple(
            JobItem(name=each.name, work=TrainingItem(bundle=each.sha256).model_dump(mode="json"))
            for each in parcels
        ),
        shared=order.model_dump(mode="json"),
    )
    return submit(ledger, tenant, secrets.token_hex(8), request).job


def write_models(path: Path, *, slots: int, gpus: int) -> Path:
    """The miniature with so many slots, and one worker of it."""
    model = ServedModel(weights=POOL, recipe="miniature", slots=slots, gpus=gpus, max_workers=1)
    path.write_text(json.dumps({POOL: model.model_dump(mode="json")}))
    return path


class Client:
    """Of a running service, by HTTP."""

    def __init__(self, url: str, store: str) -> None:
        opened = open_store(store)
        credential = create_key(opened, TENANT, "benchmark").credential
        generous = {"requests_per_second": 100_000, "burst": 1_000_000, "open_items": 10**9}
        set_limits(opened, TENANT, generous)
        headers = {"Authorization": f"Bearer {credential}"}
        self.http = httpx.Client(base_url=url, headers=headers, timeout=60)

    def upload(self, parcels: Sequence[Parcel]) -> None:
        for each in parcels:
            asked = {"files": [{"sha256": each.sha256, "size": len(each.data)}]}
            (file,) = self._answer("POST", "/v1/uploads", json=asked)["files"]
            if upload := file["upload"]:  # A folder's store takes no forms.
                self.http.put(upload["url"], content=each.data).raise_for_status()

    def submit(self, parcels: Sequence[Parcel], config: TrainConfig) -> str:
        subjects = [{"id": each.name, "bundle": each.sha256} for each in parcels]
        return self.create(subjects, overrides={"steps": config.steps}, validation_images=0)

    def create(self, subjects: Sequence[Mapping[str, Any]], **more: Any) -> str:
        """A job."""
        key = {"Idempotency-Key": secrets.token_hex(16)}
        order = {"subjects": subjects, **more}
        return self._answer("POST", "/v1/training-jobs", json=order, headers=key)["job"]

    def wait_until_ended(self, job: str, seconds: float = 3600) -> None:
        """Looks five times a second. Raises: RuntimeError unless all has succeeded."""
        end = time.monotonic() + seconds
        while (view := self._answer("GET", f"/v1/training-jobs/{job}"))["state"] not in ENDED:
            if time.monotonic() > end:
                raise RuntimeError(f"the job has not ended after {seconds:g} s: {view}")
            time.sleep(0.2)
        if view["state"] != "succeeded":
            raise RuntimeError(f"not every subject was learned: {view['counts']}")

    def _answer(self, method: str, path: str, **more: Any) -> Any:
        answer = self.http.request(method, path, **more)
        if answer.is_error:
            raise RuntimeError(f"{method} {path}: {answer.status_code} {answer.text}"[:500])
        return answer.json()
