"""Evidence made worse in one way each: what the checks have to find."""

import json
from dataclasses import replace
from typing import Any

from chaos.processes.history import Evidence, digest
from chaos.processes.lines import Line
from services.ledger.keys import ItemRef, JobKeys
from services.ledger.records import ResultRecord, Tombstone, pack

LATE = 1e12
"""After all else."""


def add(evidence: Evidence, line: Line) -> Evidence:
    """One line more, in its place."""
    return replace(evidence, lines=sorted([*evidence.lines, line], key=lambda one: one.t))


def say(evidence: Evidence, what: str, **told: Any) -> Evidence:
    """One line more, after all else."""
    return add(evidence, Line(LATE, "test", what, told))


def take_back(evidence: Evidence, line: Line) -> Evidence:
    """One line less."""
    return replace(evidence, lines=[one for one in evidence.lines if one is not line])


def tell(evidence: Evidence, line: Line, **told: Any) -> Evidence:
    """One line that says something else."""
    other = replace(line, told=line.told | told)
    return replace(evidence, lines=[other if one is line else one for one in evidence.lines])


def lay(evidence: Evidence, key: str, body: bytes | None) -> Evidence:
    """One object more, another, or one less."""
    objects = {name: there for name, there in evidence.objects.items() if name != key}
    return replace(evidence, objects=objects if body is None else objects | {key: body})


def answer(evidence: Evidence, op: str) -> Line:
    """Of the client's last request of a kind."""
    answered = evidence.of(op)[-1].answered
    assert answered
    return answered


def refuse(evidence: Evidence, op: str, error: str) -> Evidence:
    """The client's last request of a kind was refused."""
    line = answer(evidence, op)
    return add(take_back(evidence, line), replace(line, told={"n": line["n"], "error": error}))


def job(evidence: Evidence, key: str) -> JobKeys:
    return evidence.keys(next(job for job, name in evidence.jobs.items() if name == key))


def success(evidence: Evidence, key: str = "poison-client-0") -> tuple[JobKeys, ItemRef, Line]:
    """An item that succeeded in its first round, and the line of its worker that says so."""
    keys = job(evidence, key)
    line = next(
        line
        for line in evidence.said("ended")
        if line["job"] == keys.job and line["how"] == "succeeded" and line["round"] == 0
    )
    return keys, ItemRef(line["round"], line["index"]), line


def poison(evidence: Evidence) -> tuple[JobKeys, ItemRef]:
    line = evidence.said("poison")[0]
    return evidence.keys(line["job"]), ItemRef(line["round"], line["index"])


def make(evidence: Evidence, keys: JobKeys, place: ItemRef, **more: Any) -> Evidence:
    """Another result in place of one."""
    record = ResultRecord.model_validate(
        {"nonce": "w.n", "status": "failed", "attempt": 1, "reason": "doctored"} | more
    )
    return lay(evidence, keys.result(place), pack(record))


def forge(evidence: Evidence, *, honest_digest: bool, **told: Any) -> Evidence:
    """A success whose payload says something else."""
    keys, place, _ = success(evidence)
    record, payload = evidence.outcomes(keys.job)[place]
    assert isinstance(record, ResultRecord)
    forged = json.dumps(json.loads(payload) | told).encode()
    sha256 = digest(forged) if honest_digest else record.sha256
    return lay(
        evidence, keys.result(place), pack(record.model_copy(update={"sha256": sha256}), forged)
    )


def tombstone() -> bytes:
    return pack(Tombstone(nonce="doctored"))


def start(evidence: Evidence, *, resumed: bool = False) -> Line:
    """An attempt that was begun anew, or that went on from a checkpoint; of a job that nobody
    deletes anything of.
    """
    keys = job(evidence, "poison-client-0")
    return next(
        line
        for line in evidence.said("start")
        if bool(line["of"]) is resumed and line["job"] == keys.job
    )
