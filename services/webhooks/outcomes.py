"""Messages that were given up, for the tenant to see: `t/{tenant}/webhooks/{job}.{retries}`, which
goes when the tenant is deleted. What was delivered leaves nothing.
"""

from datetime import datetime
from typing import Literal

from services.ledger.ids import Ids, check_job
from services.ledger.layout import tenant_folder
from services.ledger.ledger import Ledger
from services.ledger.records import Record, pack, unpack
from services.webhooks.hints import Ending, HintRecord


class OutcomeRecord(Record):
    """A message that nobody took. Times by the store's clock."""

    type: Literal["webhook_outcome"] = "webhook_outcome"
    message: str
    attempts: int
    first: datetime | None
    """When the job was seen to have ended."""
    given_up: datetime
    reason: str
    """Of the last attempt."""


def give_up(ledger: Ledger, ending: Ending, hint: HintRecord, reason: str, now: datetime) -> None:
    """Keep that it was given up. Again is fine: the first word stays."""
    record = OutcomeRecord(
        nonce=Ids().nonce(),
        message=ending.message,
        attempts=hint.attempts,
        first=hint.first,
        given_up=now,
        reason=reason,
    )
    ledger.create(f"{_folder(ending.tenant)}{ending.job}.{ending.retries:02d}", pack(record))


def read_outcomes(ledger: Ledger, tenant: str, job: str) -> list[OutcomeRecord]:
    """What was given up of a job, the first end first. Raises: InvalidIdError."""
    keys = [head.key for head in ledger.heads(f"{_folder(tenant)}{check_job(job)}.")]
    found = [(key, ledger.find(key)) for key in keys]
    return [unpack(key, there[1], OutcomeRecord)[0] for key, there in found if there]


def _folder(tenant: str) -> str:
    return f"{tenant_folder(tenant)}webhooks/"
