"""Retention: deletes uploads and stored images that are older than the operator keeps them.

Ages are by the store's clock. An upload that an open job names is kept, whatever its age. A client
that is told that an old upload is present, and submits its job only after a sweep has deleted it,
gets an error that says to upload it again.
"""

from collections.abc import Iterator
from datetime import timedelta

from services import logs
from services.contracts.training import upload_digests
from services.errors import DamagedRecordError, DeletedError, UnknownJobError
from services.ledger import image_index, uploads
from services.ledger.ids import is_job_id, is_tenant_name
from services.ledger.jobs import read_commands, read_job, read_spec
from services.ledger.keys import TENANTS_FOLDER, JobKeys, jobs_folder
from services.ledger.ledger import Ledger
from services.ledger.rollups import is_complete
from services.settings import SupervisorTimeouts

log = logs.logger(__name__)

_GONE = (DamagedRecordError, DeletedError, UnknownJobError)


class RetentionSweep:
    """Deletes what is older than its retention time, if it has one."""

    def __init__(self, ledger: Ledger, timeouts: SupervisorTimeouts) -> None:
        self._ledger = ledger
        self._uploads_s, self._images_s = timeouts.upload_retention_s, timeouts.image_retention_s

    def sweep(self) -> None:
        """Sweep all tenants once.

        Raises:
            UnavailableError: The store does not answer: call it again.
        """
        if self._uploads_s is None and self._images_s is None:
            return
        for tenant in filter(is_tenant_name, list(self._ledger.folders(TENANTS_FOLDER))):
            num_images = self._delete_images(tenant) if self._images_s is not None else 0
            num_uploads = self._delete_uploads(tenant) if self._uploads_s is not None else 0
            if num_images or num_uploads:
                log.info("retention", tenant=tenant, uploads=num_uploads, images=num_images)

    def _delete_images(self, tenant: str) -> int:
        folder = image_index.images_folder(tenant)
        old = self._old(folder, self._images_s)
        self._ledger.gather(self._ledger.store.delete, old)
        if old:
            left = {head.key.removeprefix(folder) for head in self._ledger.heads(folder)}
            entries = image_index.entries(self._ledger, tenant)
            stale = [each.key for each in entries if f"{each.image}.png" not in left]
            self._ledger.gather(self._ledger.store.delete, stale)
        return len(old)

    def _delete_uploads(self, tenant: str) -> int:
        # Listed before the jobs: a job that is submitted later has seen its uploads since.
        old = self._old(uploads.folder(tenant), self._uploads_s)
        if not old:
            return 0
        needed = {uploads.key(tenant, sha256) for sha256 in self._needed(tenant)}
        unneeded = [key for key in old if key not in needed]
        self._ledger.gather(self._ledger.store.delete, unneeded)
        return len(unneeded)

    def _old(self, folder: str, age_s: float | None) -> list[str]:
        age = timedelta(seconds=age_s or 0)
        return [head.key for head in self._ledger.heads(folder) if head.age >= age]

    def _needed(self, tenant: str) -> Iterator[str]:
        """Yield the digests of the uploads that open jobs name."""
        for job in filter(is_job_id, list(self._ledger.folders(jobs_folder(tenant)))):
            keys = JobKeys(tenant, job)
            try:
                _, record = read_job(self._ledger, keys)
                commands = read_commands(self._ledger, keys)
                if record.kind != "training" or is_complete(
                    self._ledger, keys, commands, record.count
                ):
                    continue
                for item in read_spec(self._ledger, keys).items:
                    yield from upload_digests(item["work"])
            except _GONE:
                continue
