"""What a round has left: what its processes said, and all that lies in the store."""

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from chaos.processes.generator import Plan
from chaos.processes.items import request_of
from chaos.processes.lines import Line, read_logs
from services.contracts.jobs import JobRequest
from services.ledger.jobs import read_retried_items
from services.ledger.keys import ItemRef, JobKeys, parse_item_ref, tenant_folder
from services.ledger.ledger import Ledger
from services.ledger.records import (
    ClaimRecord,
    EndedRecord,
    JobRecord,
    ResultRecord,
    Tombstone,
    unpack,
    unpack_result,
    unpack_spec,
)

Outcome = ResultRecord | Tombstone


@dataclass(frozen=True)
class Request:
    """What a client asked for, and what it was told, if anything."""

    asked: Line
    answered: Line | None

    @property
    def op(self) -> str:
        return self.asked["op"]

    @property
    def job(self) -> str:
        """That it is about, or that it made; empty: neither is known."""
        told = [self.answered.told if self.answered else {}, self.asked.told]
        named = [one["job"] for one in told if one.get("job")]
        return named[0] if named else self.asked.told.get("token", "")[4:30]

    @property
    def index(self) -> int | None:
        """Of the item to be deleted."""
        if "token" in self.asked.told:
            return int(self.asked["token"][-5:])
        return self.asked.told.get("index")

    @property
    def error(self) -> str:
        return self.answered.told.get("error", "") if self.answered else ""

    @property
    def done(self) -> bool:
        return self.answered is not None and not self.error

    def __str__(self) -> str:
        answer = self.answered.told if self.answered else "never answered"
        return f"{self.asked.who} asked {self.asked.told}: {answer}"


@dataclass
class Evidence:
    """Of one round. `objects` are the tenant's, by key."""

    plan: Plan
    lines: list[Line]
    objects: dict[str, bytes]
    ledger: Ledger

    @classmethod
    def gather(cls, plan: Plan, folder: Path, ledger: Ledger) -> "Evidence":
        keys = [head.key for head in ledger.heads(tenant_folder(plan.tenant))]
        found = ledger.gather(ledger.find, keys)
        objects = {one[0].key: one[1] for one in found if one}
        return cls(plan, read_logs(folder), objects, ledger)

    def said(self, *whats: str) -> list[Line]:
        return [line for line in self.lines if line.what in whats]

    @cached_property
    def requests(self) -> list[Request]:
        """All that clients asked for; what was asked again after a kill is one request."""
        answers = {(line.who, line["n"]): line for line in self.said("answered")}
        asked = {(line.who, line["n"]): line for line in reversed(self.said("asked"))}
        made = [Request(line, answers.get(name)) for name, line in asked.items()]
        return sorted(made, key=lambda request: request.asked.t)

    def of(self, *ops: str) -> list[Request]:
        return [request for request in self.requests if request.op in ops]

    @cached_property
    def jobs(self) -> dict[str, str]:
        """Keys of jobs that a client was told of, by job."""
        told = self.of("submit", "again")
        return {request.job: request.asked["key"] for request in told if request.done}

    def keys(self, job: str) -> JobKeys:
        return JobKeys(self.plan.tenant, job)

    def request(self, job: str) -> JobRequest:
        return request_of(self.plan.seed, self.jobs[job], self.plan.pool)

    def script(self, job: str, index: int) -> str:
        return str(self.request(job).items[index].work["script"])

    def spec(self, job: str) -> JobRecord | Tombstone | None:
        key = self.keys(job).spec
        return unpack_spec(key, self.objects[key])[0] if key in self.objects else None

    def under(self, prefix: str) -> dict[str, bytes]:
        return {
            key[len(prefix) :]: body for key, body in self.objects.items() if key.startswith(prefix)
        }

    def outcomes(self, job: str) -> dict[ItemRef, tuple[Outcome, bytes]]:
        """How items ended, with their payloads."""
        prefix = self.keys(job).results
        return {
            parse_item_ref(name)[0]: unpack_result(f"{prefix}{name}", body)
            for name, body in self.under(prefix).items()
        }

    def claims(self, job: str) -> dict[tuple[ItemRef, int], str]:
        """Who claimed which attempts."""
        prefix, claimed = self.keys(job).attempts, {}
        for name, body in self.under(prefix).items():
            place, (number, *ended) = parse_item_ref(name)
            if not ended:
                claimed[place, int(number)] = unpack(name, body, ClaimRecord)[0].worker
        return claimed

    def ends(self, job: str, place: ItemRef) -> dict[int, EndedRecord]:
        """How attempts came to nothing."""
        found = self.under(f"{self.keys(job).attempts}{place}.")
        ended = {name: body for name, body in found.items() if name.endswith(".ended")}
        return {int(n.split(".")[0]): unpack(n, body, EndedRecord)[0] for n, body in ended.items()}

    def orders(self, job: str) -> set[str]:
        return set(self.under(self.keys(job).control))

    def rounds(self, job: str) -> list[list[int]]:
        """The items of each round."""
        retries = sum(name.startswith("retry.") for name in self.orders(job))
        spec = self.spec(job)
        count = spec.count if isinstance(spec, JobRecord) else 0
        keys = self.keys(job)
        again = [read_retried_items(self.ledger, keys, r, count) for r in range(1, retries + 1)]
        return [list(range(count)), *again]

    def deletion_asked(self, job: str, index: int | None = None) -> bool:
        """Of the job, or of that item of it, whether it was answered or not."""
        return any(
            request.job == job and (request.index is None or request.index == index)
            for request in self.of("delete_job", "delete_item", "delete_token")
        )

    def cancel_asked(self, job: str) -> bool:
        return any(request.job == job for request in self.of("cancel"))

    @cached_property
    def by_attempt(self) -> dict[tuple[str, ItemRef, int], list[Line]]:
        """What workers said of each attempt."""
        told: dict[tuple[str, ItemRef, int], list[Line]] = defaultdict(list)
        for line in self.lines:
            if "number" in line.told:
                told[attempt_of(line)].append(line)
        return told


def attempt_of(line: Line) -> tuple[str, ItemRef, int]:
    """Job, place and number, out of a worker's line."""
    return line["job"], ItemRef(line["round"], line["index"]), line["number"]


def digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def named(told: Any, job: str, place: ItemRef, number: int) -> bool:
    """Whether a payload says that it is of this attempt."""
    wanted = (job, place.round, place.index, number)
    return (told["job"], told["round"], told["index"], told["number"]) == wanted
