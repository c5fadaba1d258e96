"""Pending webhook deliveries: one object per end of a job, `webhooks/{tenant}/{job}.{retries}`.

The object is created with the job. Deliverers change it by compare-and-swap, and delete it once the
message is delivered. A retry lets a job end once more, which is another message, so it has its own
object: the one of the first end may just be being deleted.
"""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pydantic import Field

from services.ledger.ids import Ids, check_job_id, check_tenant_name, is_job_id, is_tenant_name
from services.ledger.jobs import read_commands
from services.ledger.keys import JobKeys
from services.ledger.ledger import Ledger, create_once
from services.ledger.records import VersionedRecord, pack
from services.storage.interface import Head, Store

FOLDER = "webhooks/"
_NAME = re.compile(r"([^.]+)\.([0-9]{2})", re.ASCII)


class PendingDeliveryRecord(VersionedRecord):
    """The state of a delivery. Times are by the store's clock."""

    type: Literal["webhook"] = "webhook"
    url: str = Field(repr=False)
    attempts: int = 0
    first: datetime | None = None
    """When a deliverer first saw that the job had ended."""
    next: datetime | None = None
    """The time of the next attempt; until then the process that set it holds a lease."""
    state: str = ""
    counts: dict[str, int] = Field(default={})
    """The job's state and counts at `first`, so that the message is the same at each attempt."""
    last: str = ""
    """Why the last attempt failed."""


@dataclass(frozen=True, slots=True, order=True)
class PendingDelivery:
    """The end of a job after so many retries, which one message is about."""

    tenant: str
    job: str
    retries: int = 0

    @property
    def key(self) -> str:
        return f"{FOLDER}{self.tenant}/{self.job}.{self.retries:02d}"

    @property
    def message_id(self) -> str:
        """The id of the message, which is the same at each attempt."""
        return f"msg_{self.job}_{self.retries:02d}"


def subscribe(store: Store, tenant: str, job: str, url: str, retries: int = 0) -> None:
    """Request a message to the URL when a job has ended. Idempotent while it is pending.

    Call this after `submit` and before the response, for new and replayed submissions alike: a
    crash in between is repaired when the client repeats the request. A message that was already
    delivered is then sent again with the same id. `WebhookTarget.parse` checks the URL.

    Raises:
        InvalidIdError: The tenant or the job's id is malformed.
    """
    delivery = PendingDelivery(check_tenant_name(tenant), check_job_id(job), retries)
    create_once(store, delivery.key, pack(PendingDeliveryRecord(nonce=Ids().nonce(), url=url)))


def subscribe_retry(ledger: Ledger, tenant: str, job: str, url: str) -> None:
    """Request another message for the retry that is about to be made.

    If no retry follows, the deliverer drops the request after a while.
    """
    retries = read_commands(ledger, JobKeys(tenant, job)).retries
    subscribe(ledger.store, tenant, job, url, retries + 1)


def unsubscribe(ledger: Ledger, tenant: str, job: str) -> None:
    """Drop the pending messages of a deleted job; the deliverer would find out by itself later."""
    for delivery in pending_of_job(ledger, check_tenant_name(tenant), check_job_id(job)):
        ledger.store.delete(delivery.key)


def unsubscribe_tenant(ledger: Ledger, tenant: str) -> None:
    """Drop all pending messages of a deleted tenant, since their URLs may hold secrets."""
    heads = ledger.heads(f"{FOLDER}{check_tenant_name(tenant)}/")
    ledger.gather(ledger.store.delete, [head.key for head in heads])


def list_pending(ledger: Ledger) -> list[tuple[PendingDelivery, Head]]:
    """Return all pending deliveries; foreign objects in the folder are skipped."""
    heads = ledger.heads(FOLDER)
    return [(delivery, head) for head in heads if (delivery := _parse_key(head.key))]


def pending_of_job(ledger: Ledger, tenant: str, job: str) -> list[PendingDelivery]:
    """Return the pending deliveries of one job."""
    heads = ledger.heads(f"{FOLDER}{tenant}/{job}.")
    return [delivery for head in heads if (delivery := _parse_key(head.key))]


def _parse_key(key: str) -> PendingDelivery | None:
    match key.removeprefix(FOLDER).split("/"):
        case [tenant, name] if is_tenant_name(tenant) and (match := _NAME.fullmatch(name)):
            return PendingDelivery(tenant, match[1], int(match[2])) if is_job_id(match[1]) else None
        case _:
            return None
