"""A result is made once, says who made it, and changes to a tombstone at most."""

import json
from collections import defaultdict

from chaos.processes.history import Evidence, attempt_of, digest, named
from services.ledger.keys import JobKeys
from services.ledger.records import ResultRecord, Tombstone, unpack_result


def results_changed(evidence: Evidence) -> list[str]:
    """Results that were seen with two bodies, came back from the dead, or vanished."""
    versions: dict[str, list[tuple[bool, str]]] = defaultdict(list)
    found = [f"{line['key']} vanished" for line in evidence.said("vanished")]
    for line in evidence.said("saw"):
        version = (line["live"], line["sha256"])
        if version not in versions[line["key"]][-1:]:
            versions[line["key"]].append(version)
    for job in evidence.jobs:
        prefix = JobKeys(evidence.plan.tenant, job).results
        for name, body in evidence.under(prefix).items():
            live = isinstance(unpack_result(name, body)[0], ResultRecord)
            if (live, digest(body)) not in versions[prefix + name][-1:]:
                versions[prefix + name].append((live, digest(body)))
    for key, seen in versions.items():
        lives = [live for live, _ in seen]
        if lives not in ([True], [False], [True, False]):
            found.append(f"{key} went through {seen}")
        if key not in evidence.objects:
            found.append(f"{key} was seen, and is not there")
    return found


def results_dishonest(evidence: Evidence) -> list[str]:
    """Successes that are not what their worker made of the attempt that it had claimed."""
    found: list[str] = []
    for job in evidence.jobs:
        claims = evidence.claims(job)
        for place, (record, payload) in evidence.outcomes(job).items():
            if not isinstance(record, ResultRecord) or record.status != "succeeded":
                continue
            worker = record.nonce.partition(".")[0]
            if digest(payload) != record.sha256:
                found.append(f"{job} {place}: its payload is not of its sha256")
            elif not named(told := json.loads(payload), job, place, record.attempt):
                found.append(f"{job} {place}: attempt {record.attempt} has the payload of {told}")
            elif not claims.get((place, record.attempt)) == worker == told["worker"]:
                claimant = claims.get((place, record.attempt))
                found.append(f"{job} {place}: made by {worker}, claimed by {claimant}: {told}")
    return found


def successes_lost(evidence: Evidence) -> list[str]:
    """Successes that a worker was told of, and that are not there."""
    found: list[str] = []
    outcomes = {job: evidence.outcomes(job) for job in evidence.jobs}
    for line in evidence.said("ended"):
        job, place, number = attempt_of(line)
        if line["how"] != "succeeded" or job not in outcomes:
            continue
        record = outcomes[job].get(place, (None, b""))[0]
        if isinstance(record, Tombstone) and evidence.deletion_asked(job, place.index):
            continue
        if not isinstance(record, ResultRecord) or record.sha256 != line["sha256"]:
            found.append(f"{job} {place}: attempt {number} succeeded, and there is {record}")
    return found
