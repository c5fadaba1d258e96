"""The key of every object of the ledger. No other file knows one.

    t/{tenant}/deleted                          the tenant was deleted
    t/{tenant}/pseudonyms                       create-once: the key of `pseudonyms`
    t/{tenant}/idempotency/{sha256}             create-once: the job that an Idempotency-Key made
    t/{tenant}/jobs/{job}/spec                  create-once; items that are erased are redacted;
                                                a tombstone once the job is deleted
    t/{tenant}/jobs/{job}/control/cancel        create-once commands, as all of control/
                                  deleted       delete the whole job
                                  item.{i}      delete one item, in every round
                                  retry.{r}     try these failed items again, as round r
    t/{tenant}/jobs/{job}/attempts/{r}.{i}.{n}  create-once: the claim; n is the fencing number
                                       ....ended   create-once: how the attempt ended without result
    t/{tenant}/jobs/{job}/checkpoints/{r}.{i}.{n}  written by its one owner, by compare-and-swap
    t/{tenant}/jobs/{job}/results/{r}.{i}       create-once: the commit; then at most a tombstone
    t/{tenant}/jobs/{job}/rollup                compare-and-swap; can be rebuilt from the rest
    queue/{pool}/{tenant}/{job}                 queue entries, oldest job first; can be rebuilt
    service/workers/{worker}                    one lease per worker, by compare-and-swap

Rounds r, indices i and attempts n have leading zeros, so that listings are in their order. The
items of a round form *blocks* of 1000, which share a prefix and so have listings of their own.
"""

import hashlib
import re
from dataclasses import dataclass
from typing import NamedTuple

from services.errors import DamagedRecordError
from services.ledger.ids import check_job_id, check_tenant_name, reverse_time_order

BLOCK_SIZE = 1000
"""Items in a block, so that a listing of their results fits on one page."""

MAX_ROUNDS = 100
MAX_ATTEMPTS = 99
"""Attempts at one item in one round, however they end: their number has two digits."""

_ITEM_NAME = re.compile(r"[0-9]{2}\.[0-9]{5}(\.[0-9]{2}(\.ended)?)?", re.ASCII)

WORKERS_FOLDER = "service/workers/"
QUEUE_FOLDER = "queue/"
TENANTS_FOLDER = "t/"


@dataclass(frozen=True, slots=True, order=True)
class ItemRef:
    """An item of a job in one round."""

    round: int
    index: int

    @property
    def block(self) -> "ItemBlock":
        return ItemBlock(self.round, self.index // BLOCK_SIZE)

    def __str__(self) -> str:
        return f"{self.round:02d}.{self.index:05d}"


class ItemBlock(NamedTuple):
    """A block of 1000 items of a job in one round."""

    round: int
    number: int

    def __str__(self) -> str:
        return f"{self.round:02d}.{self.number:02d}"


@dataclass(frozen=True, slots=True)
class JobKeys:
    """The keys of one job. Raises InvalidIdError for a malformed tenant or job."""

    tenant: str
    job: str

    def __post_init__(self) -> None:
        check_tenant_name(self.tenant)
        check_job_id(self.job)

    @property
    def folder(self) -> str:
        return f"{jobs_folder(self.tenant)}{self.job}/"

    @property
    def spec(self) -> str:
        return f"{self.folder}spec"

    @property
    def rollup(self) -> str:
        return f"{self.folder}rollup"

    @property
    def control(self) -> str:
        return f"{self.folder}control/"

    @property
    def cancellation(self) -> str:
        return f"{self.control}cancel"

    @property
    def deletion(self) -> str:
        return f"{self.control}deleted"

    def item_deletion(self, index: int) -> str:
        return f"{self.control}item.{index:05d}"

    def retry(self, round_: int) -> str:
        return f"{self.control}retry.{round_:02d}"

    @property
    def attempts(self) -> str:
        return f"{self.folder}attempts/"

    def attempt(self, item: ItemRef, number: int) -> str:
        return f"{self.attempts}{item}.{number:02d}"

    def attempt_end(self, item: ItemRef, number: int) -> str:
        return f"{self.attempt(item, number)}.ended"

    @property
    def results(self) -> str:
        return f"{self.folder}results/"

    def result(self, item: ItemRef) -> str:
        return f"{self.results}{item}"

    @property
    def checkpoints(self) -> str:
        return f"{self.folder}checkpoints/"

    def checkpoint(self, item: ItemRef, number: int) -> str:
        return f"{self.checkpoints}{item}.{number:02d}"


def parse_item_ref(name: str) -> tuple[ItemRef, list[str]]:
    """Return the item in a name below `attempts`, `checkpoints` or `results`, and what follows.

    Raises:
        DamagedRecordError: The ledger does not write such a name.
    """
    if not _ITEM_NAME.fullmatch(name):
        raise DamagedRecordError(f"the ledger writes no object named {name!r}: remove it")
    round_, index, *rest = name.split(".")
    return ItemRef(int(round_), int(index)), rest


def tenant_folder(tenant: str) -> str:
    return f"{TENANTS_FOLDER}{check_tenant_name(tenant)}/"


def tenant_deletion_key(tenant: str) -> str:
    return f"{tenant_folder(tenant)}deleted"


def jobs_folder(tenant: str) -> str:
    return f"{tenant_folder(tenant)}jobs/"


def idempotency_folder(tenant: str) -> str:
    return f"{tenant_folder(tenant)}idempotency/"


def idempotency_key(tenant: str, key: str) -> str:
    # Hashed, because a client may choose any text, and a longer one than a key of the store has.
    return f"{idempotency_folder(tenant)}{hashlib.sha256(key.encode()).hexdigest()}"


def pool_queue_folder(pool: str) -> str:
    return f"{QUEUE_FOLDER}{pool}/"


def tenant_queue_folder(pool: str, tenant: str) -> str:
    return f"{pool_queue_folder(pool)}{tenant}/"


def queue_entry_key(pool: str, tenant: str, job: str) -> str:
    # Workers take the oldest job first, whereas lists of jobs begin with the newest.
    return f"{tenant_queue_folder(pool, tenant)}{reverse_time_order(job)}"


def lease_key(worker: str) -> str:
    return f"{WORKERS_FOLDER}{worker}"
