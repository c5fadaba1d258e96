"""Tells tenants of jobs that have ended: at least once each, until it is taken or for 72 hours.

Any number of processes may do it. Whoever tries first says so in the hint, with the time of the
next attempt, and the others leave it alone till then: if it dies on the way, it is tried again.

Messages that were given up, for the tenant to see: `t/{tenant}/webhooks/{job}.{retries}`, which
goes when the tenant is deleted. What was delivered leaves nothing.
"""

import logging
import random
from collections import defaultdict
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Literal

from services.auth.tenants import read_tenant
from services.errors import (
    DeletedError,
    ServiceError,
    UnavailableError,
    UnknownJobError,
    UnknownTenantError,
)
from services.ledger.ids import Ids, check_job_id
from services.ledger.jobs import read_commands
from services.ledger.keys import JobKeys, tenant_folder
from services.ledger.ledger import Ledger
from services.ledger.queries import view_job
from services.ledger.queue import all_queued
from services.ledger.records import Record, pack, unpack
from services.storage.interface import Head
from services.webhooks.executor import FairExecutor
from services.webhooks.http import DeliveryResponse, WebhookSender
from services.webhooks.messages import job_ended, signed_headers
from services.webhooks.subscriptions import (
    PendingDelivery,
    PendingDeliveryRecord,
    all_hints,
    endings_of,
)
from services.webhooks.targets import WebhookSettings


class DeliveryRecord(Record):
    """A message that nobody took. Times by the store's clock."""

    type: Literal["webhook_outcome"] = "webhook_outcome"
    message: str
    attempts: int
    first: datetime | None
    """When the job was seen to have ended."""
    given_up: datetime
    reason: str
    """Of the last attempt."""


def give_up(
    ledger: Ledger, ending: PendingDelivery, hint: PendingDeliveryRecord, reason: str, now: datetime
) -> None:
    """Keep that it was given up. Again is fine: the first word stays."""
    record = DeliveryRecord(
        nonce=Ids().nonce(),
        message=ending.message,
        attempts=hint.attempts,
        first=hint.first,
        given_up=now,
        reason=reason,
    )
    ledger.create_once(f"{_folder(ending.tenant)}{ending.job}.{ending.retries:02d}", pack(record))


def read_outcomes(ledger: Ledger, tenant: str, job: str) -> list[DeliveryRecord]:
    """What was given up of a job, the first end first. Raises: InvalidIdError."""
    keys = [head.key for head in ledger.heads(f"{_folder(tenant)}{check_job_id(job)}.")]
    found = [(key, ledger.find(key)) for key in keys]
    return [unpack(key, there[1], DeliveryRecord)[0] for key, there in found if there]


def _folder(tenant: str) -> str:
    return f"{tenant_folder(tenant)}webhooks/"


log = logging.getLogger(__name__)

Outcome = Literal["delivered", "failed", "given_up", "dropped"]

FIRST, LONGEST = 30.0, 6 * 3600.0
"""Seconds between two attempts, at first and at most. The first is longer than an attempt takes."""


_LOOK = timedelta(seconds=30)
"""Between two looks whether a retry has come."""

_COMPLAIN = timedelta(minutes=10)
"""Between two looks at what cannot be delivered for a reason of ours."""


class Deliverer:
    """Delivers on threads of its own; `deliver_due` is for a loop, every few seconds. `on_outcome`
    is told of each hint that something came of, on those threads.
    """

    def __init__(
        self,
        ledger: Ledger,
        settings: WebhookSettings | None = None,
        *,
        sender: WebhookSender | None = None,
        on_outcome: Callable[[Outcome], None] = lambda outcome: None,
        chance: random.Random | None = None,
    ) -> None:
        self._ledger = ledger
        self._settings = settings or WebhookSettings()
        self._sender = sender or WebhookSender(self._settings)
        self._on_outcome = on_outcome
        self._chance = chance or random.Random()
        self._give_up_after = timedelta(seconds=self._settings.give_up)
        self._heads: dict[str, Head] = {}
        """Hints as they were listed last."""
        self._later: dict[str, tuple[str, datetime]] = {}
        """Hints as they were seen last, and when it is their time."""
        self._lanes: FairExecutor[PendingDelivery] = FairExecutor(
            self._look, threads=self._settings.threads, each=self._settings.each
        )

    def deliver_due(self) -> int:
        """Begin with all that is due, and return how many that are, without waiting for them: a
        sink that is slow delays nobody. Jobs that are queued are known not to have ended.

        Raises: UnavailableError: call it again.
        """
        hints = all_hints(self._ledger)
        queued: set[tuple[str, str]] = set()
        if hints:
            queued = {(tenant, job) for _, tenant, job in all_queued(self._ledger)}
        due: defaultdict[str, list[PendingDelivery]] = defaultdict(list)
        for ending, head in hints:
            if (ending.tenant, ending.job) not in queued and self._is_time(head):
                due[ending.tenant].append(ending)
        self._heads = {head.key: head for _, head in hints}
        for key in list(self._later):
            if key not in self._heads:
                self._later.pop(key, None)
        return self._lanes.model(due)

    def wait(self, seconds: float | None = None) -> bool:
        """Until all that was begun has come to something; whether it has."""
        return self._lanes.wait(seconds)

    def close(self) -> None:
        """Begin nothing more, and wait for what is on its way: seconds."""
        self._lanes.close()

    def _is_time(self, head: Head) -> bool:
        etag, time = self._later.get(head.key, ("", head.date))
        return etag != head.etag or head.date >= time

    def _look(self, ending: PendingDelivery) -> None:
        try:
            outcome = self._bring_forward(ending)
        except UnavailableError as error:
            log.warning("webhook %s waits for the store: %s", ending.message, error)
        except Exception as error:  # The others are delivered all the same.
            expected = isinstance(error, ServiceError)
            if head := self._heads.get(ending.key):
                self._later[ending.key] = (head.etag, head.date + _COMPLAIN)
            log.error("webhook %s: %s", ending.message, error, exc_info=not expected)
        else:
            if outcome:
                self._on_outcome(outcome)

    def _bring_forward(self, ending: PendingDelivery) -> Outcome | None:
        ledger = self._ledger
        if not (found := ledger.find(ending.key)):
            return None
        head, (hint, _) = found[0], unpack(ending.key, found[1], PendingDeliveryRecord)
        if hint.next and head.date < hint.next:
            self._later[ending.key] = (head.etag, hint.next)
            return None
        try:
            secret = read_tenant(ledger.store, ending.tenant).webhook_secret
            # Before the job is looked at: one that ended before a retry has not ended after it.
            retries = read_commands(ledger, JobKeys(ending.tenant, ending.job)).retries
            view = view_job(ledger, ending.tenant, ending.job)
        except (DeletedError, UnknownJobError, UnknownTenantError):
            return self._drop(ending)
        if retries < ending.retries:
            return self._wait_for_retry(ending, head)
        if self._is_superseded(ending, retries):
            return self._drop(ending)
        if hint.first is None and view.state.ended:
            seen = {"state": view.state.value, "counts": view.counts.model_dump()}
            hint = hint.model_copy(update={"first": head.date, **seen})
        if hint.first is None:
            return None
        if head.date - hint.first >= self._give_up_after:
            return self._give_up(ending, hint, hint.last or "it was never tried", head.date)
        body = job_ended(view, hint.first, hint.state, hint.counts)
        pause = self._pause(hint.attempts)
        hint = _moved(hint, attempts=hint.attempts + 1, next=head.date + pause)
        if not (etag := ledger.compare_and_swap(ending.key, pack(hint), head.etag)):
            return None  # Another has begun with it.
        timestamp = int(head.date.timestamp())
        headers = signed_headers(secret, ending.message, timestamp, body)
        answer = self._sender.send(hint.url, headers, body)
        return self._ended(ending, hint, etag, answer, head.date)

    def _wait_for_retry(self, ending: PendingDelivery, head: Head) -> Outcome | None:
        """The retry that a hint was written for is yet to come, or was refused."""
        if head.age >= self._give_up_after:
            return self._drop(ending)
        self._later[ending.key] = (head.etag, head.date + _LOOK)
        return None

    def _is_superseded(self, ending: PendingDelivery, retries: int) -> bool:
        """Whether a later end is told, or will be."""
        return retries > ending.retries and any(
            ending.retries < other.retries <= retries
            for other in endings_of(self._ledger, ending.tenant, ending.job)
        )

    def _drop(self, ending: PendingDelivery) -> Outcome:
        self._ledger.store.delete(ending.key)
        return "dropped"

    def _ended(
        self,
        ending: PendingDelivery,
        hint: PendingDeliveryRecord,
        etag: str,
        answer: DeliveryResponse,
        now: datetime,
    ) -> Outcome:
        if answer.delivered:
            self._ledger.store.delete(ending.key)
            return "delivered"
        log.info("webhook %s, attempt %d: %s", ending.message, hint.attempts, answer.reason)
        if answer.gone:
            return self._give_up(ending, hint, answer.reason, now)
        noted = _moved(hint, last=answer.reason)
        if (written := self._ledger.compare_and_swap(ending.key, pack(noted), etag)) and hint.next:
            self._later[ending.key] = (written, hint.next)
        return "failed"

    def _give_up(
        self, ending: PendingDelivery, hint: PendingDeliveryRecord, reason: str, now: datetime
    ) -> Outcome:
        give_up(self._ledger, ending, hint, reason, now)
        self._ledger.store.delete(ending.key)
        return "given_up"

    def _pause(self, attempts: int) -> timedelta:
        """After so many attempts before this one; drawn, so that a sink that comes back is not met
        by all at once.
        """
        seconds = min(FIRST * 2 ** min(attempts, 20), LONGEST)
        return timedelta(seconds=seconds * self._chance.uniform(1.0, 1.5))


def _moved(hint: PendingDeliveryRecord, **update: object) -> PendingDeliveryRecord:
    return hint.model_copy(update={"nonce": Ids().nonce(), "version": hint.version + 1, **update})
