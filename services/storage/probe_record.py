"""The record of a probe that passed, so that each process knows the store without probing it again.

The record lies in the store itself. A process that finds none, or one that does not fit, probes.
"""

import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dti_engine import __version__
from services import logs
from services.errors import (
    NotFoundError,
    StorageError,
    StoreFullError,
    StoreRefusedError,
    UnavailableError,
)
from services.storage.interface import Store
from services.storage.probe import Findings, probe

KEY = "service/probed"
"""The key of the record."""

MAX_AGE = timedelta(days=7)
"""Age at which a record is no longer believed: servers are upgraded, and buckets reconfigured."""

# The record is written within seconds of its time. A copy of the whole store, such as a restored
# backup on another server, has the record as well, but with a later time of writing.
_COPY_TOLERANCE = timedelta(minutes=1)

_RETRY_S = 2.0

log = logs.logger(__name__)


class ProbeRecord(BaseModel):
    """A probe that passed: when, by which version of dti, and with which findings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str = Field(max_length=100)
    time: datetime
    """The end of the probe by the store's clock, in UTC."""
    findings: Findings


def probe_and_record(store: Store) -> ProbeRecord:
    """Probe a store and write the record; remove an older record if the store is refused.

    Raises:
        StoreRefusedError: The store breaks a promise; the error names it.
        AccessDeniedError: The credentials do not allow it.
        UnavailableError: The store did not answer.
    """
    try:
        findings = probe(store)
    except StoreRefusedError:
        with suppress(StorageError):
            store.delete(KEY)
        raise
    record = ProbeRecord(version=__version__, time=store.now(), findings=findings)
    store.put(KEY, record.model_dump_json().encode())
    return record


def ensure_probed(store: Store) -> ProbeRecord | None:
    """Return the record of a store, which is probed first unless a record fits; log the findings.

    Returns None for a store that has no space for the probe: reading and deleting must go on.

    Raises: As `probe_and_record`.
    """
    record = find_record(store)
    if record is None:
        log.info("probing the store", store=store.url)
        try:
            record = probe_and_record(store)
        except StoreFullError as error:
            log.warning("store is full and could not be probed", reason=str(error))
            return None
    findings = record.findings
    log.info(
        "store has passed the probe",
        store=store.url,
        probed=record.time.isoformat(timespec="seconds"),
        versioning=findings.retention.versioning,
        object_lock=findings.retention.object_lock,
        erases=findings.erases,
        atomic_deletion=findings.atomic_deletion,
        notes=findings.notes,
    )
    return record


def wait_until_probed(
    store: Store, stopped: threading.Event, on_wait: Callable[[], object] = lambda: None
) -> bool:
    """Wait until a store answers, and ensure that it is probed; return False if stopped before.

    Args:
        store: The store.
        stopped: Ends the wait.
        on_wait: Called before each pause.

    Raises:
        StoreRefusedError: The store breaks a promise; the error names it.
        AccessDeniedError: The credentials do not allow it.
    """
    is_reported = False
    while not stopped.is_set():
        try:
            ensure_probed(store)
        except UnavailableError as error:
            if not is_reported:
                log.warning("waiting for the store", store=store.url, reason=str(error))
            is_reported = True
        else:
            return True
        on_wait()
        stopped.wait(_RETRY_S)
    return False


def find_record(store: Store) -> ProbeRecord | None:
    """Return the record if it was made by this version, lately, and for the store as it is now."""
    try:
        stored = store.read(KEY)
        record = ProbeRecord.model_validate_json(stored.body)
    except (NotFoundError, ValidationError):
        return None
    is_copy = abs(stored.head.last_modified - record.time) > _COPY_TOLERANCE
    if record.version != __version__ or stored.head.age > MAX_AGE or is_copy:
        return None
    # Versioning can be switched on at any time, and some servers break their promises then.
    return record if store.retention() == record.findings.retention else None
