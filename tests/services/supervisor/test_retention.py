"""What is older than its retention time is deleted, except for what open jobs need."""

import hashlib
import io
from datetime import UTC, datetime, timedelta

from services.contracts.jobs import JobItem, JobRequest
from services.ledger import image_index, uploads
from services.ledger.ledger import Ledger
from services.ledger.recovery import Recovery
from services.ledger.submissions import cancel, submit
from services.settings import SupervisorTimeouts
from services.storage.memory import MemoryStore
from services.supervisor.retention import RetentionSweep

_HOUR = 3600.0


class _Place:
    """A ledger with a clock that the test moves."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.ledger = Ledger.open(MemoryStore(lambda: self.now))

    def sweep(self, **settings: float) -> None:
        RetentionSweep(self.ledger, SupervisorTimeouts.model_validate(settings)).sweep()

    def upload(self, body: bytes) -> str:
        sha256 = hashlib.sha256(body).hexdigest()
        uploads.write(self.ledger.store, "acme", sha256, io.BytesIO(body))
        return sha256

    def uploads(self) -> set[str]:
        folder = uploads.folder("acme")
        return {head.key.removeprefix(folder) for head in self.ledger.heads(folder)}


def test_old_uploads_go_unless_an_open_job_needs_them() -> None:
    place = _Place()
    unused, needed, listed = (place.upload(body) for body in (b"a", b"b", b"c"))
    items = (
        JobItem(name="rex", work={"bundle": needed}),
        JobItem(name="tom", work={"images": [{"name": "a.png", "sha256": listed}]}),
    )
    job = submit(place.ledger, "acme", "key", JobRequest(items=items)).job
    place.now += timedelta(hours=2)
    new = place.upload(b"d")
    place.sweep()
    assert place.uploads() == {unused, needed, listed, new}
    place.sweep(upload_retention_s=_HOUR)
    assert place.uploads() == {needed, listed, new}
    cancel(place.ledger, "acme", job)
    Recovery(place.ledger).recover()
    place.sweep(upload_retention_s=_HOUR)
    assert place.uploads() == {new}


def test_old_images_go_with_their_entries_in_the_index() -> None:
    place = _Place()
    folder = image_index.images_folder("acme")

    def keep(image: str) -> None:
        image_index.add(place.ledger, "acme", ["rex"], image)
        place.ledger.store.put(f"{folder}{image}.png", b"png")

    keep("old")
    place.now += timedelta(hours=2)
    keep("new")
    place.sweep(image_retention_s=_HOUR)
    assert [head.key for head in place.ledger.heads(folder)] == [f"{folder}new.png"]
    assert [entry.image for entry in image_index.entries(place.ledger, "acme")] == ["new"]
