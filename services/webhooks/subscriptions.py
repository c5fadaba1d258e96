"""Which jobs somebody wants to be told of: one object for each end of a job that is still to come
or to be told, `webhooks/{tenant}/{job}.{retries}`. Deliverers change it in a chain of swaps, and
delete it when the message was taken.

A retry makes a job end once more, which is another message: so it has a hint of its own, and none
that is being deleted has to be written again.
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
from services.ledger.records import Record, pack
from services.storage.interface import Head, Store

FOLDER = "webhooks/"
_NAME = re.compile(r"([^.]+)\.([0-9]{2})", re.ASCII)


class PendingDeliveryRecord(Record):
    """Times by the store's clock."""

    type: Literal["webhook"] = "webhook"
    version: int = 0
    url: str = Field(repr=False)
    attempts: int = 0
    first: datetime | None = None
    """When the job was seen to have ended."""
    next: datetime | None = None
    """Till when nobody else tries; None: nobody has."""
    state: str = ""
    counts: dict[str, int] = Field(default={})
    """What the job had come to then: the message is the same at each attempt."""
    last: str = ""
    """What came of the last attempt that was seen to fail."""


@dataclass(frozen=True, slots=True, order=True)
class PendingDelivery:
    """The end of a job after so many retries: what one message is about."""

    tenant: str
    job: str
    retries: int = 0

    @property
    def key(self) -> str:
        return f"{FOLDER}{self.tenant}/{self.job}.{self.retries:02d}"

    @property
    def message(self) -> str:
        """Its id: the same however often it is sent."""
        return f"msg_{self.job}_{self.retries:02d}"


def remember(store: Store, tenant: str, job: str, url: str, retries: int = 0) -> None:
    """Let the URL be told when a job has ended. Again is fine; if it was told before, it is told
    again, with the same id.

    To be called after `submit` and before that is answered, whether it made the job or not; and
    before a retry, by `remember_retry`. Whether the URL may be sent to, `Sink.parse` says.
    Raises: InvalidIdError.
    """
    ending = PendingDelivery(check_tenant_name(tenant), check_job_id(job), retries)
    create_once(store, ending.key, pack(PendingDeliveryRecord(nonce=Ids().nonce(), url=url)))


def remember_retry(ledger: Ledger, tenant: str, job: str, url: str) -> None:
    """Let the URL be told once more, after the retry that is about to be made. If then none is, it
    is forgotten some day.
    """
    retries = read_commands(ledger, JobKeys(tenant, job)).retries
    remember(ledger.store, tenant, job, url, retries + 1)


def forget(ledger: Ledger, tenant: str, job: str) -> None:
    """Tell nobody of a job that was deleted. Left out, that is found out at the next attempt."""
    for ending in endings_of(ledger, check_tenant_name(tenant), check_job_id(job)):
        ledger.store.delete(ending.key)


def all_hints(ledger: Ledger) -> list[tuple[PendingDelivery, Head]]:
    """All there are. What others put there is passed over."""
    heads = ledger.heads(FOLDER)
    return [(ending, head) for head in heads if (ending := _ending(head.key))]


def endings_of(ledger: Ledger, tenant: str, job: str) -> list[PendingDelivery]:
    """Those of one job."""
    heads = ledger.heads(f"{FOLDER}{tenant}/{job}.")
    return [ending for head in heads if (ending := _ending(head.key))]


def _ending(key: str) -> PendingDelivery | None:
    match key.removeprefix(FOLDER).split("/"):
        case [tenant, name] if is_tenant_name(tenant) and (match := _NAME.fullmatch(name)):
            return PendingDelivery(tenant, match[1], int(match[2])) if is_job_id(match[1]) else None
        case _:
            return None
