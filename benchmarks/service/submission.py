"""Large jobs submitted over HTTP to a process of the API, against as many jobs of one subject.

This is the part `submission` of `benchmarks.service`.
"""

import argparse
import re
import secrets
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.service.subjects import Client
from services.storage.open import open_store

_WARM_UP = 3


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure on a folder, and on the store at `options.store` if there is one."""
    stores = {"a folder": str(folder / "created")}
    if options.store:
        stores[options.store] = f"{options.store.rstrip('/')}/benchmark-{secrets.token_hex(4)}"
    results = dict[str, Any]()
    for name, url in stores.items():
        try:
            results[name] = _create(url, options)
        finally:
            if name != "a folder":
                _delete_all(url)
    return {"subjects": options.job_subjects, "jobs": options.jobs, "stores": results}


def _create(url: str, options: argparse.Namespace) -> dict[str, Any]:
    with _api(url) as address:
        client = Client(address, url)
        for _ in range(_WARM_UP):
            client.create(_subjects(1))
        elapsed_s = [_timed(client, _subjects(options.job_subjects)) for _ in range(options.jobs)]
        # The jobs of one subject are submitted concurrently, as a client would that is in a hurry.
        singles = [_subjects(1) for _ in range(options.job_subjects)]
        began = time.perf_counter()
        with ThreadPoolExecutor(options.at_once) as pool:
            list(pool.map(client.create, singles))
        one_each = time.perf_counter() - began
        client.http.close()
    percentiles = statistics.quantiles(elapsed_s, n=100, method="inclusive")
    return {
        "p50": percentiles[49],
        "p99": percentiles[98],
        "max": max(elapsed_s),
        "a job a subject, seconds": one_each,
        "at once": options.at_once,
        "times as long": one_each / percentiles[49],
    }


def _subjects(count: int) -> list[dict[str, str]]:
    """Return subjects without uploads, which a job may wait for."""
    return [{"id": f"subject-{i}", "bundle": secrets.token_hex(32)} for i in range(count)]


def _timed(client: Client, subjects: list[dict[str, str]]) -> float:
    began = time.perf_counter()
    client.create(subjects)
    return time.perf_counter() - began


@contextmanager
def _api(url: str) -> Iterator[str]:
    """Run `python -m services.api` and yield its URL."""
    command = [sys.executable, "-m", "services.api", "--store", url, "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        try:
            lines = list[str]()
            for line in process.stderr:
                lines.append(line)
                if url_match := re.search(r"http://127\.0\.0\.1:\d+", line):
                    # A pipe that is not read fills up and blocks the process.
                    with ThreadPoolExecutor(1) as pool:
                        pool.submit(process.stderr.read)
                        try:
                            yield url_match[0]
                        finally:
                            process.terminate()
                    return
            raise RuntimeError(f"the API does not start:\n{''.join(lines)}")
        finally:
            process.terminate()


def _delete_all(url: str) -> None:
    store = open_store(url)
    after: str | None = ""
    with ThreadPoolExecutor(8) as pool:
        while after is not None:
            page = store.list(after=after)
            list(pool.map(store.delete, [head.key for head in page.objects]))
            after = page.next


def show(console: Console, found: dict[str, Any]) -> None:
    title = f"a job of {found['subjects']:,} subjects, made {found['jobs']} times"
    headings = ("p50 ms", "p99 ms", f"{found['subjects']:,} jobs of one, s", "times as long")
    table = Table("over HTTP, on", *headings, title=title)
    for name, figures in found["stores"].items():
        table.add_row(
            name,
            f"{1000 * figures['p50']:.0f}",
            f"{1000 * figures['p99']:.0f}",
            f"{figures['a job a subject, seconds']:.1f}, {figures['at once']} at once",
            f"{figures['times as long']:.0f}",
        )
    console.print(table)
    console.print("Times are of this machine; only the ratio carries over to others.")
