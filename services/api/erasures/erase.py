"""Erasure: stops what is running, deletes everything that was made, and forgets who it was.

The specs of jobs say what belongs to what, so that they are redacted last: after a crash at any
point, the same request finds what is left. Every step may be done again.
"""

from functools import partial

from services.api.erasures.receipts import Erasure, Receipt
from services.api.erasures.selection import (
    SelectedJob,
    Selection,
    Target,
    redact_generation,
    select,
)
from services.api.images.store import ImageStore, image_key
from services.contracts.jobs import ItemState
from services.errors import DeletedError, UnknownImageError, UnknownJobError
from services.ledger import aliases, image_index, uploads
from services.ledger.deletion import delete_item, delete_job
from services.ledger.ids import parse_token_id
from services.ledger.jobs import issue_command, redact_spec
from services.ledger.keys import JobKeys
from services.ledger.ledger import Ledger
from services.ledger.rollups import read_item_states
from services.ledger.submissions import forget_submissions
from services.webhooks.deliverer import remove_dead_letters
from services.webhooks.subscriptions import unsubscribe


class Eraser:
    """Erases data of one tenant."""

    def __init__(self, ledger: Ledger, images: ImageStore, tenant: str, by: str) -> None:
        """Create an eraser; `by` is the id of the API key that asks for it."""
        self._ledger, self._images = ledger, images
        self._tenant, self._by = tenant, by
        self._versions_below: set[str] = set()
        """Prefixes below which a store with versions keeps what was deleted."""

    def erase(self, target: Target) -> Erasure:
        """Erase a subject, a job, or the jobs with a tag, and return the receipt.

        Raises:
            UnavailableError: The store does not answer: call it again.
            AccessDeniedError: The store does not allow erasing old versions.
        """
        receipt = Receipt(self._ledger, self._tenant, target.what, target.name, self._by)
        selection = select(self._ledger, self._tenant, target)
        for job in selection.jobs:
            self._stop(job, receipt)
        receipt.save()
        self._delete_images(selection, receipt)
        self._delete_aliases(selection, target, receipt)
        whole = [job.keys.job for job in selection.jobs if job.is_whole]
        touched = [job.keys.job for job in selection.jobs]
        forgotten = forget_submissions(self._ledger, self._tenant, touched)
        receipt.count("idempotency_records", forgotten)
        receipt.count("uploads", self._delete_uploads(selection))
        receipt.save()
        for job in selection.jobs:
            self._finish(job, selection)
        receipt.count("jobs", len(whole))
        receipt.save()
        receipt.count("old_versions", self._purge_versions())
        return receipt.finish()

    def _stop(self, job: SelectedJob, receipt: Receipt) -> None:
        """Stop a job, or delete the selected items of one of which others stay."""
        ledger, keys = self._ledger, job.keys
        states = read_item_states(ledger, keys, job.count)
        made = [i for i in job.indices if states.state(i) is ItemState.SUCCEEDED]
        left = [i for i in job.indices if states.state(i) is not ItemState.DELETED]
        receipt.count("tokens" if job.kind == "training" else "images", len(made))
        receipt.count("items", len(left))
        if job.is_whole:
            # No more than that for now: the command to delete it would have the supervisor remove
            # the spec, which says what else there is to erase.
            issue_command(ledger, keys.cancellation, self._by)
            self._versions_below.add(keys.folder)
            return
        delete = partial(self._delete_item, keys)
        ledger.gather(delete, sorted(job.indices))
        for index in job.indices:
            for round_ in states.commands.rounds:
                item = f"{round_:02d}.{index:05d}"
                self._versions_below |= {
                    f"{folder}{item}" for folder in (keys.results, keys.checkpoints, keys.attempts)
                }
        self._versions_below.add(keys.spec)

    def _delete_item(self, keys: JobKeys, index: int) -> None:
        try:
            delete_item(self._ledger, keys.tenant, keys.job, index, self._by)
        except (DeletedError, UnknownJobError):
            return  # The whole job was deleted in the meantime.

    def _delete_images(self, selection: Selection, receipt: Receipt) -> None:
        """Delete the stored images that name what is erased, then their entries in the index."""
        entries = image_index.find(self._ledger, self._tenant, selection.names)

        def delete(image: str) -> int:
            self._versions_below.add(image_key(self._tenant, image))
            try:
                self._images.delete(self._tenant, image)
            except UnknownImageError:
                return 0
            return 1

        images = sorted({entry.image for entry in entries})
        receipt.count("images", sum(self._ledger.gather(delete, images)))
        self._delete_keys([entry.key for entry in entries])

    def _delete_aliases(self, selection: Selection, target: Target, receipt: Receipt) -> None:
        items = {job.keys.job: job.indices for job in selection.jobs if job.token_ids}

        def is_erased(token: str) -> bool:
            job, _, index = parse_token_id(token)
            return index in items.get(job, ())

        alias = target.name if target.what == "subject" else None
        keys = aliases.entries_of(self._ledger, self._tenant, alias, is_erased)
        self._delete_keys(keys)
        receipt.count("aliases", len(keys))

    def _delete_uploads(self, selection: Selection) -> int:
        def delete(sha256: str) -> bool:
            key = uploads.key(self._tenant, sha256)
            self._versions_below.add(key)
            return uploads.delete(self._ledger.store, self._tenant, sha256)

        return sum(self._ledger.gather(delete, sorted(selection.uploads)))

    def _finish(self, job: SelectedJob, selection: Selection) -> None:
        """Delete a job, or redact the selected items in its spec."""
        ledger, keys = self._ledger, job.keys
        if job.is_whole:
            unsubscribe(ledger, keys.tenant, keys.job)
            remove_dead_letters(ledger, keys.tenant, keys.job)
            delete_job(ledger, keys.tenant, keys.job, self._by)
        elif job.kind == "training":
            redact_spec(ledger, keys, job.indices)
        else:
            redact = partial(redact_generation, names=selection.names)
            redact_spec(ledger, keys, job.indices, redact)

    def _delete_keys(self, keys: list[str]) -> None:
        self._ledger.gather(self._ledger.store.delete, keys)
        self._versions_below |= set(keys)

    def _purge_versions(self) -> int:
        """Erase what a store with versions keeps of deleted and overwritten objects."""
        store = self._ledger.store
        if store.retention().versioning == "off":
            return 0
        return sum(self._ledger.gather(store.purge_versions, sorted(self._versions_below)))
