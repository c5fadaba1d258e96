"""The ledger on a store: submitting, claiming and counting, each against a simpler design.

    python -m benchmarks.storage.ledger URL [--items 10000] [--workers 64] [--slots 8] [--json FILE]

submit   one job of all items, by a process that is killed (SIGKILL) right after the answer; against
         one object per item, created in 32 threads
claims   workers in threads, each with several slots, that claim items and commit 8 KB each; against
         one queue object that all workers swap
counts   the counts of the job half-way without a rollup, with one, and at the end; against reading
         all results

The unit is requests to the store, counted, and times of this machine, which carry over to no other.
One job of n = 10,000 items (--items) is measured once; the queue object serves 300 claims
(--rival-claims), as it is far slower.
"""

import argparse
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.command_line import BenchmarkParser, write_json
from benchmarks.storage.counted_store import CountedStore
from services.contracts.jobs import JobItem, JobRequest
from services.errors import PreconditionFailedError
from services.ledger.deletion import delete_tenant
from services.ledger.jobs import read_spec
from services.ledger.keys import JobKeys
from services.ledger.ledger import Ledger
from services.ledger.queries import view_job
from services.ledger.recovery import Recovery
from services.ledger.rollups import read_item_states, save_rollup
from services.ledger.submissions import submit
from services.ledger.worker import WorkerSession
from services.settings import LedgerSettings
from services.storage.interface import Store
from services.storage.open import open_store


class QueueObject:
    """A queue of items 0 to `count` - 1, in one object that every claim swaps."""

    def __init__(self, store: Store, key: str, count: int) -> None:
        self._store = store
        self._key = key
        store.put(key, json.dumps({"nonce": "", "waiting": list(range(count))}).encode())

    def claim(self) -> bool:
        """Claim one item; return False if another worker was quicker, then try again."""
        current = self._store.read(self._key)
        waiting = json.loads(current.body)["waiting"]
        body = json.dumps({"nonce": secrets.token_hex(8), "waiting": waiting[1:]}).encode()
        try:
            self._store.replace(self._key, body, expected=current.head.etag)
        except PreconditionFailedError:
            return False
        return True


PAYLOAD = secrets.token_bytes(8192)


def main() -> None:
    parser = BenchmarkParser(__doc__)
    parser.add_argument("url")
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--rival-claims", type=int, default=300, help="of the queue object")
    parser.add_argument("--submit", metavar="TENANT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.items < 4 * options.workers * options.slots and not options.submit:
        parser.error("give at least 4 items for each slot: half of them are done before counting")
    if options.submit:
        _submit_and_wait(options.url, options.submit, options.items)
    tenant = f"benchmark-{secrets.token_hex(4)}"
    store = CountedStore(open_store(options.url))
    ledger = Ledger(store=store, lease_store=store, settings=LedgerSettings(lease_s=600))
    console = Console()
    figures: dict[str, Any] = {"url": store.url, "cores": os.cpu_count(), "items": options.items}
    try:
        job, figures["submit"] = _submit(ledger, options, tenant)
        _show_submit(console, figures["submit"], options.items)
        figures["rival claims"] = _rival_claims(store, options, tenant)
        half = _claim_and_commit(ledger, options, tenant, options.items // 2)
        figures["work"] = half
        _show_work(console, half, figures["rival claims"], options)
        rest = options.items - half["subjects"]
        figures["counts"] = _counts(ledger, options, tenant, job, rest)
        _show_counts(console, figures["counts"], options.items)
        console.print(f"{figures['url']}, {figures['cores']} cores")
    finally:
        console.print("[dim]deleting the benchmark's objects ...[/dim]")
        delete_tenant(ledger, tenant)
    write_json(options.json, figures)


def _request(items: int, pool: str) -> JobRequest:
    return JobRequest(
        pool=pool,
        items=tuple(
            JobItem(
                name=f"subject-{index:05d}",
                work={"bundle": f"bundles/{secrets.token_hex(16)}.zip", "sha256": "0" * 64},
            )
            for index in range(items)
        ),
    )


def _submit_and_wait(url: str, tenant: str, items: int) -> None:
    """Submit the job, print its id and wait: the process that is killed runs this."""
    ledger = Ledger.open(open_store(url))
    request = _request(items, tenant)
    submit(ledger, tenant, "warm up", _request(1, "warm-up"))
    begun = time.perf_counter()
    job = submit(ledger, tenant, "key", request).job
    print(json.dumps({"job": job, "seconds": time.perf_counter() - begun}), flush=True)
    time.sleep(600)


def _submit(ledger: Ledger, options: argparse.Namespace, tenant: str) -> tuple[str, Any]:
    """Submit a job in a process and kill it; return the job's id and the times."""
    if options.url == "memory:":  # another process has no access to it
        begun = time.perf_counter()
        job = submit(ledger, tenant, "key", _request(options.items, tenant)).job
        seconds = time.perf_counter() - begun
    else:
        module = [sys.executable, "-m", "benchmarks.storage.ledger"]
        command = [*module, options.url, "--items", str(options.items)]
        with subprocess.Popen(
            [*command, "--submit", tenant], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout
            submitted = json.loads(process.stdout.readline())
            process.send_signal(signal.SIGKILL)
        job, seconds = submitted["job"], submitted["seconds"]
    found = len(read_spec(ledger, JobKeys(tenant, job)).items)
    counts = view_job(ledger, tenant, job).counts
    assert found == counts.queued == options.items, "not every item is found"
    # The alternative gets as many threads as the store has connections: it could not be faster.
    keys = [f"t/{tenant}/rival/{index:05d}" for index in range(options.items)]
    with ThreadPoolExecutor(32) as pool:
        begun = time.perf_counter()
        list(pool.map(lambda key: ledger.store.create(key, secrets.token_bytes(200)), keys))
        one_object_each = time.perf_counter() - begun
    return job, {
        "seconds": seconds,
        "found": found,
        "one object an item, seconds": one_object_each,
    }


def _counts(
    ledger: Ledger, options: argparse.Namespace, tenant: str, job: str, rest: int
) -> dict[str, Any]:
    """Count the half-finished job in each way, finish it, and count it again."""
    store = ledger.store
    assert isinstance(store, CountedStore)
    keys = JobKeys(tenant, job)
    without = _counted(store, lambda: read_item_states(ledger, keys, options.items))
    save_rollup(ledger, read_item_states(ledger, keys, options.items), complete=False)
    figures = {
        "half-way, without a rollup": without,
        "half-way, with one": _counted(store, lambda: view_job(ledger, tenant, job)),
    }
    _claim_and_commit(ledger, options, tenant, rest)
    Recovery(ledger).recover()
    figures["at the end"] = _counted(store, lambda: view_job(ledger, tenant, job))
    counts = view_job(ledger, tenant, job).counts
    assert counts.succeeded == options.items, counts
    figures["reading all results"] = _counted(store, lambda: _read_all(ledger, keys))
    return figures


def _read_all(ledger: Ledger, keys: JobKeys) -> None:
    found = ledger.heads(keys.results)
    ledger.gather(ledger.store.read, [head.key for head in found])


def _claim_and_commit(
    ledger: Ledger, options: argparse.Namespace, pool: str, items: int
) -> dict[str, Any]:
    """Claim and commit at least `items` items; workers may have claimed a few more by then.

    The pool is the tenant's own, so no other worker takes its items.
    """
    store = ledger.store
    assert isinstance(store, CountedStore)
    workers = [WorkerSession(ledger, pool) for _ in range(options.workers)]
    for worker in workers:
        worker.begin()
    before, left, claiming = Counter(store.calls), [items], [0.0]

    def work(worker: WorkerSession) -> int:
        done = 0
        while left[0] > 0:
            begun = time.perf_counter()
            attempts = worker.claim(min(options.slots, max(left[0], 1)))
            claiming[0] += time.perf_counter() - begun
            left[0] -= len(attempts)
            for attempt in attempts:
                attempt.succeed(PAYLOAD, {"score": 0.9})
            done += len(attempts)
            if not attempts:
                time.sleep(0.05)
        return done

    begun = time.perf_counter()
    with ThreadPoolExecutor(options.workers) as pool:
        done = sum(pool.map(work, workers))
    seconds = time.perf_counter() - begun
    requests = Counter(store.calls) - before
    for worker in workers:
        worker.end()
    return {
        "subjects": done,
        "subjects a second": done / seconds,
        "ms a subject": 1000 * seconds / done,
        "ms of a claim": 1000 * claiming[0] / done,
        "requests a subject": requests.total() / done,
        "requests": dict(requests),
    }


def _rival_claims(
    store: CountedStore, options: argparse.Namespace, tenant: str
) -> dict[str, float]:
    queue = QueueObject(store, f"t/{tenant}/rival-queue", options.items)
    claims = [options.rival_claims]
    before = store.calls.total()

    def work(_: int) -> int:
        done = 0
        while claims[0] > 0:
            if queue.claim():
                claims[0] -= 1
                done += 1
        return done

    begun = time.perf_counter()
    with ThreadPoolExecutor(options.workers) as pool:
        done = sum(pool.map(work, range(options.workers)))
    seconds = time.perf_counter() - begun
    return {
        "claims a second": done / seconds,
        "requests a claim": (store.calls.total() - before) / done,
    }


def _counted(store: CountedStore, call: Callable[[], object]) -> dict[str, float]:
    before, begun = store.calls.total(), time.perf_counter()
    call()
    seconds = time.perf_counter() - begun
    return {"requests": store.calls.total() - before, "ms": 1000 * seconds}


def _show_submit(console: Console, figures: dict[str, float], items: int) -> None:
    times = figures["one object an item, seconds"] / figures["seconds"]
    console.print(
        f"submit: {items:,} items in {figures['seconds']:.2f} s, then SIGKILL; a new process finds "
        f"{figures['found']:,}. One object an item takes {times:.0f} times as long."
    )


def _show_work(
    console: Console,
    work: dict[str, float],
    rival: dict[str, float],
    options: argparse.Namespace,
) -> None:
    table = Table(f"{options.workers} workers with {options.slots} slots", "", "the queue object")
    claims, rivals = work["subjects a second"], rival["claims a second"]
    table.add_row("claims a second", f"{claims:.0f}, with a commit each", f"{rivals:.0f}")
    table.add_row("ms a subject", f"{work['ms a subject']:.1f}", "")
    requests = f"{rival['requests a claim']:.2f} a claim"
    table.add_row("requests a subject", f"{work['requests a subject']:.2f}", requests)
    console.print(table)


def _show_counts(console: Console, counts: dict[str, dict[str, float]], items: int) -> None:
    table = Table(f"counts of {items:,} items", "requests", "ms")
    for name, figures in counts.items():
        table.add_row(name, f"{figures['requests']}", f"{figures['ms']:.0f}")
    console.print(table)


if __name__ == "__main__":
    main()
