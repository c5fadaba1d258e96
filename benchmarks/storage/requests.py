"""Atomicity of a store's conditional writes in races, and the time of its calls against `head`.

    python -m benchmarks.storage.requests URL [--rounds 200] [--repeats 50] [--json FILE]

races    callers write at the same moment on one condition; the unit is rounds, of n = 200
         (--rounds), in which exactly one caller succeeded, and in which another number did. The
         store must let exactly one succeed
times    the time of a call as a ratio to `head`, which moves no bytes, and in milliseconds: medians
         of n = 50 repeats (--repeats), in which the calls take turns
"""

import os
import secrets
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from rich.console import Console
from rich.table import Table

from benchmarks.command_line import BenchmarkParser, write_json
from services.errors import NotFoundError, PreconditionFailedError
from services.storage.interface import Store
from services.storage.open import open_store

PREFIX = f"service/benchmarks/{secrets.token_hex(4)}/"


def main() -> None:
    parser = BenchmarkParser(__doc__)
    parser.add_argument("url")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=50)
    options = parser.parse_args()
    # Each caller has a store of its own, as a process would, so that none waits for another's
    # connection. A store in memory is lost without its object, so there all callers share it.
    is_shared = options.url == "memory:"
    stores = (
        [open_store(options.url)] * 4 if is_shared else [open_store(options.url) for _ in range(4)]
    )
    races, times = _races(stores, options.rounds), _times(stores[0], options.repeats)
    console = Console()
    table = Table("race", "one succeeded", "more")
    for name, counts in races.items():
        table.add_row(name, str(counts[1]), str(sum(counts.values()) - counts[1]))
    console.print(table)
    table = Table("call", "over head", "ms")
    for name, elapsed_s in times.items():
        table.add_row(name, f"{elapsed_s / times['head']:.1f}", f"{elapsed_s * 1000:.2f}")
    console.print(table)
    console.print(f"{stores[0].url}, {os.cpu_count()} cores")
    report = {"url": stores[0].url, "succeeded": races, "seconds": times}
    write_json(options.json, report)


def _races(stores: Sequence[Store], rounds: int) -> dict[str, Counter[int]]:
    """Run each race; return the numbers of rounds by the number of callers that succeeded."""

    def creations(key: str) -> list[Callable[[], object]]:
        return [lambda store=store: store.create(key, secrets.token_bytes(16)) for store in stores]

    def replacements(key: str) -> list[Callable[[], object]]:
        etag = stores[0].create(key, secrets.token_bytes(16))
        return [
            lambda store=store: store.replace(key, secrets.token_bytes(16), expected=etag)
            for store in stores
        ]

    def deletion(key: str) -> list[Callable[[], object]]:
        etag = stores[0].create(key, secrets.token_bytes(16))
        return [
            lambda: stores[0].replace(key, secrets.token_bytes(16), expected=etag),
            lambda: stores[1].delete_if(key, expected=etag),
        ]

    counts: dict[str, Counter[int]] = {}
    for name, race in (
        ("4 create", creations),
        ("4 replace", replacements),
        ("replace, delete_if", deletion),
    ):
        counts[name] = Counter(_succeeded(race(f"{PREFIX}{number}")) for number in range(rounds))
        for number in range(rounds):
            stores[0].delete(f"{PREFIX}{number}")
    return counts


def _succeeded(calls: list[Callable[[], object]]) -> int:
    start = Barrier(len(calls))

    def attempt(call: Callable[[], object]) -> bool:
        start.wait()
        try:
            call()
        except (PreconditionFailedError, NotFoundError):
            return False
        return True

    with ThreadPoolExecutor(len(calls)) as pool:
        return sum(pool.map(attempt, calls))


def _times(store: Store, repeats: int) -> dict[str, float]:
    """Return the median seconds of each call, by name."""
    key, body = f"{PREFIX}body", secrets.token_bytes(1000)
    store.put(key, body)
    calls: dict[str, Callable[[], object]] = {
        "head": lambda: store.head(key),
        "read 1 KB": lambda: store.read(key),
        "put 1 KB": lambda: store.put(key, body),
        "list": lambda: store.list(PREFIX),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            begun = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - begun)
    store.delete(key)
    return {name: statistics.median(elapsed_s) for name, elapsed_s in times.items()}


if __name__ == "__main__":
    main()
