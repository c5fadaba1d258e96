"""Invariants of results: written once, by the claimant, and replaced by tombstones only."""

import json
from collections import defaultdict

from chaos.history import History, attempt_of, digest, is_payload_of
from services.ledger.records import ResultRecord, Tombstone, unpack_result


def result_changed(history: History) -> list[str]:
    """Find results that were seen with two bodies, came back after deletion, or vanished."""
    versions: dict[str, list[tuple[bool, str]]] = defaultdict(list)
    found = [f"{event['key']} vanished" for event in history.events("result_vanished")]

    def add(key: str, live: bool, sha256: str) -> None:
        if (live, sha256) not in versions[key][-1:]:
            versions[key].append((live, sha256))

    for event in history.events("result_seen"):
        add(event["key"], event["live"], event["sha256"])
    for job in history.jobs:
        prefix = history.keys(job).results
        for name, body in history.objects_below(prefix).items():
            live = isinstance(unpack_result(name, body)[0], ResultRecord)
            add(prefix + name, live, digest(body))
    for key, seen in versions.items():
        if [live for live, _ in seen] not in ([True], [False], [True, False]):
            found.append(f"{key} went through {seen}")
        if key not in history.objects:
            found.append(f"{key} was seen, but is not there")
    return found


def result_dishonest(history: History) -> list[str]:
    """Find successes that are not what their worker made of the attempt that it had claimed."""
    found: list[str] = []
    for job in history.jobs:
        claims = history.claims(job)
        for item_ref, (record, payload) in history.results(job).items():
            if not isinstance(record, ResultRecord) or record.status != "succeeded":
                continue
            writer = record.nonce.partition(".")[0]
            claimant = claims.get((item_ref, record.attempt))
            if digest(payload) != record.sha256:
                found.append(f"{job} {item_ref}: its payload does not have its sha256")
            elif not is_payload_of(
                payload_ids := json.loads(payload), job, item_ref, record.attempt
            ):
                found.append(
                    f"{job} {item_ref}: attempt {record.attempt} has the payload {payload_ids}"
                )
            elif not claimant == writer == payload_ids["worker"]:
                found.append(f"{job} {item_ref}: by {writer}, claimed by {claimant}: {payload_ids}")
    return found


def success_lost(history: History) -> list[str]:
    """Find successes that were acknowledged to a worker and are not there."""
    found: list[str] = []
    results = {job: history.results(job) for job in history.jobs}
    for event in history.events("attempt_ended"):
        job, item_ref, number = attempt_of(event)
        if event["how"] != "succeeded" or job not in results:
            continue
        record = results[job].get(item_ref, (None, b""))[0]
        if isinstance(record, Tombstone) and history.deletion_invoked(job, item_ref.index):
            continue
        if not isinstance(record, ResultRecord) or record.sha256 != event["sha256"]:
            found.append(f"{job} {item_ref}: attempt {number} succeeded, but there is {record}")
    return found
