"""The delivery loop of webhooks: at-least-once, with backoff, and dead letters after 72 hours.

Any number of processes may deliver. Before an attempt, a deliverer writes the time of the next
attempt into the pending delivery by compare-and-swap; until then it is leased, and if the process
dies, another one tries again at that time.

The tenant can read its dead letters, `t/{tenant}/webhooks/{job}.{retries}`; they are deleted with
the tenant. Nothing is kept of a delivered message. Retries are scheduled in the store, not by a
retry library, because they take days and must outlive the process.
"""

import random
from collections import defaultdict
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Literal

from services import logs
from services.auth.tenants import read_tenant
from services.errors import (
    DeletedError,
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
from services.webhooks.sender import (
    DeliveryResponse,
    WebhookSender,
    job_ended_message,
    signed_headers,
)
from services.webhooks.subscriptions import (
    PendingDelivery,
    PendingDeliveryRecord,
    list_pending,
    pending_of_job,
)
from services.webhooks.targets import WebhookSettings

DeliveryResult = Literal["delivered", "failed", "given_up", "dropped"]

MIN_BACKOFF_S, MAX_BACKOFF_S = 30.0, 6 * 3600.0
"""The time between two attempts, at first and at most. The first exceeds the time of an attempt."""

_RETRY_CHECK_INTERVAL = timedelta(seconds=30)
"""The time between two checks whether an announced retry was made."""

_ERROR_INTERVAL = timedelta(minutes=10)
"""The time before a delivery is tried again that failed by an error of ours."""

log = logs.logger(__name__)


class DeadLetter(Record):
    """A message that could not be delivered. Times are by the store's clock."""

    type: Literal["dead_letter"] = "dead_letter"
    message: str
    attempts: int
    first: datetime | None
    """When the job was seen to have ended."""
    given_up: datetime
    reason: str
    """Why the last attempt failed."""


def read_dead_letters(ledger: Ledger, tenant: str, job: str) -> list[DeadLetter]:
    """Return the dead letters of a job, oldest first.

    Raises:
        InvalidIdError: The tenant or the job's id is malformed.
    """
    keys = [head.key for head in ledger.heads(f"{_dead_letters(tenant)}{check_job_id(job)}.")]
    found = [(key, ledger.find(key)) for key in keys]
    return [unpack(key, entry[1], DeadLetter)[0] for key, entry in found if entry]


def remove_dead_letters(ledger: Ledger, tenant: str, job: str) -> None:
    """Remove the dead letters of a job.

    Raises:
        InvalidIdError: The tenant or the job's id is malformed.
    """
    heads = ledger.heads(f"{_dead_letters(tenant)}{check_job_id(job)}.")
    ledger.gather(ledger.store.delete, [head.key for head in heads])


def _dead_letters(tenant: str) -> str:
    return f"{tenant_folder(tenant)}webhooks/"


class Deliverer:
    """Delivers messages on its own threads; a loop calls `deliver_due` every few seconds.

    It calls `on_result` on those threads with each delivery that made progress.
    """

    def __init__(
        self,
        ledger: Ledger,
        settings: WebhookSettings | None = None,
        *,
        sender: WebhookSender | None = None,
        on_result: Callable[[DeliveryResult], None] = lambda result: None,
        rng: random.Random | None = None,
    ) -> None:
        self._ledger = ledger
        self._settings = settings or WebhookSettings()
        self._sender = sender or WebhookSender(self._settings)
        self._on_result = on_result
        self._rng = rng or random.Random()
        self._give_up_after = timedelta(seconds=self._settings.give_up_after_s)
        self._heads: dict[str, Head] = {}
        """The pending deliveries of the last listing, by key."""
        self._not_before: dict[str, tuple[str, datetime]] = {}
        """The ETag of each delivery that is not due, and the time at which it is, by key."""
        self._executor: FairExecutor[PendingDelivery] = FairExecutor(
            self._attempt,
            num_threads=self._settings.num_threads,
            max_per_tenant=self._settings.max_per_tenant,
        )

    def deliver_due(self) -> int:
        """Start all deliveries that are due, without waiting for them, and return their number.

        Raises:
            UnavailableError: The store does not answer: call it again.
        """
        pending = list_pending(self._ledger)
        # A queued job has not ended, so its delivery costs no further read.
        queued: set[tuple[str, str]] = set()
        if pending:
            queued = {(tenant, job) for _, tenant, job in all_queued(self._ledger)}
        due: defaultdict[str, list[PendingDelivery]] = defaultdict(list)
        for delivery, head in pending:
            if (delivery.tenant, delivery.job) not in queued and self._is_due(head):
                due[delivery.tenant].append(delivery)
        self._heads = {head.key: head for _, head in pending}
        for key in list(self._not_before):
            if key not in self._heads:
                self._not_before.pop(key, None)
        return self._executor.replace_pending(due)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until all started deliveries are done, and return True if they are."""
        return self._executor.wait(timeout_s)

    def close(self) -> None:
        """Start no more deliveries and wait a few seconds for those in progress."""
        self._executor.close()

    def _is_due(self, head: Head) -> bool:
        # Another deliverer may have changed the record: then its time must be read again.
        etag, time = self._not_before.get(head.key, ("", head.date))
        return etag != head.etag or head.date >= time

    def _attempt(self, delivery: PendingDelivery) -> None:
        try:
            result = self._deliver(delivery)
        except UnavailableError as error:
            log.warning(
                "webhook postponed: store unavailable",
                message_id=delivery.message_id,
                error=str(error),
            )
        except Exception as error:
            # One damaged delivery must not stop the others, or fill the log.
            if head := self._heads.get(delivery.key):
                self._not_before[delivery.key] = (head.etag, head.date + _ERROR_INTERVAL)
            message_id = delivery.message_id
            log.exception("webhook not deliverable", message_id=message_id, error=str(error))
        else:
            if result:
                self._on_result(result)

    def _deliver(self, delivery: PendingDelivery) -> DeliveryResult | None:
        """Make one attempt if the job has ended and the delivery is due; None if not."""
        ledger = self._ledger
        if not (found := ledger.find(delivery.key)):
            return None
        head, (record, _) = found[0], unpack(delivery.key, found[1], PendingDeliveryRecord)
        if record.next and head.date < record.next:
            self._not_before[delivery.key] = (head.etag, record.next)
            return None
        try:
            secrets = read_tenant(ledger.store, delivery.tenant).signing_secrets
            # Before the view: a job that ended before a retry must not count as ended after it.
            retries = read_commands(ledger, JobKeys(delivery.tenant, delivery.job)).retries
            view = view_job(ledger, delivery.tenant, delivery.job)
        except (DeletedError, UnknownJobError, UnknownTenantError):
            return self._drop(delivery)
        if retries < delivery.retries:
            return self._wait_for_retry(delivery, head)
        if self._is_superseded(delivery, retries):
            return self._drop(delivery)
        # The state is kept with the time at which it was first seen: a retry or a deletion of items
        # must not change a message that a receiver may have got already.
        if record.first is None and view.state.ended:
            snapshot = {"state": view.state.value, "counts": view.counts.model_dump()}
            record = record.model_copy(update={"first": head.date, **snapshot})
        if record.first is None:
            return None
        if head.date - record.first >= self._give_up_after:
            return self._give_up(delivery, record, record.last or "it was never tried", head.date)
        body = job_ended_message(view, record.first, record.state, record.counts)
        record = record.changed(
            attempts=record.attempts + 1, next=head.date + self._backoff(record.attempts)
        )
        # Before the message is sent: if this process dies while it sends, the next attempt comes at
        # its time, as after a failure.
        if not (etag := ledger.compare_and_swap(delivery.key, pack(record), head.etag)):
            return None  # Another deliverer has leased it.
        timestamp = int(head.date.timestamp())
        headers = signed_headers(secrets, delivery.message_id, timestamp, body)
        response = self._sender.send(record.url, headers, body)
        return self._finish(delivery, record, etag, response, head.date)

    def _wait_for_retry(self, delivery: PendingDelivery, head: Head) -> DeliveryResult | None:
        """Postpone a delivery whose retry is not made yet, or drop it if none ever comes."""
        # The request to retry failed after it had subscribed: no such end will come.
        if head.age >= self._give_up_after:
            return self._drop(delivery)
        self._not_before[delivery.key] = (head.etag, head.date + _RETRY_CHECK_INTERVAL)
        return None

    def _is_superseded(self, delivery: PendingDelivery, retries: int) -> bool:
        """Return True if there is a delivery for a later end of the job."""
        return retries > delivery.retries and any(
            delivery.retries < other.retries <= retries
            for other in pending_of_job(self._ledger, delivery.tenant, delivery.job)
        )

    def _drop(self, delivery: PendingDelivery) -> DeliveryResult:
        self._ledger.store.delete(delivery.key)
        return "dropped"

    def _finish(
        self,
        delivery: PendingDelivery,
        record: PendingDeliveryRecord,
        etag: str,
        response: DeliveryResponse,
        now: datetime,
    ) -> DeliveryResult:
        if response.delivered:
            self._ledger.store.delete(delivery.key)
            return "delivered"
        log.info(
            "webhook attempt failed",
            message_id=delivery.message_id,
            attempt=record.attempts,
            reason=response.reason,
        )
        if response.gone:
            return self._give_up(delivery, record, response.reason, now)
        # If this fails, another process has taken over, and its record stands.
        failed = record.changed(last=response.reason)
        new_etag = self._ledger.compare_and_swap(delivery.key, pack(failed), etag)
        if new_etag and record.next:
            self._not_before[delivery.key] = (new_etag, record.next)
        return "failed"

    def _give_up(
        self, delivery: PendingDelivery, record: PendingDeliveryRecord, reason: str, now: datetime
    ) -> DeliveryResult:
        letter = DeadLetter(
            nonce=Ids().nonce(),
            message=delivery.message_id,
            attempts=record.attempts,
            first=record.first,
            given_up=now,
            reason=reason,
        )
        # Created before the deletion and only once: after a crash in between it stays as it is.
        key = f"{_dead_letters(delivery.tenant)}{delivery.job}.{delivery.retries:02d}"
        self._ledger.create_once(key, pack(letter))
        self._ledger.store.delete(delivery.key)
        return "given_up"

    def _backoff(self, attempts: int) -> timedelta:
        """Return the time to the next attempt: exponential, with jitter.

        The jitter spreads the messages for a target that was down for a while.
        """
        backoff_s = min(MIN_BACKOFF_S * 2 ** min(attempts, 20), MAX_BACKOFF_S)
        return timedelta(seconds=backoff_s * self._rng.uniform(1.0, 1.5))
