"""Large jobs made over HTTP, by the API's own process, and as many jobs of one subject each."""

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
    """On a folder, and on the store at `options.store` if one is given."""
    stores = {"a folder": str(folder / "created")}
    if options.store:
        stores[options.store] = f"{options.store.rstrip('/')}/benchmark-{secrets.token_hex(4)}"
    found = dict[str, Any]()
    for name, url in stores.items():
        try:
            found[name] = _create(url, options)
        finally:
            if name != "a folder":
                _delete_all(url)
    return {"subjects": options.job_subjects, "jobs": options.jobs, "stores": found}


def _create(url: str, options: argparse.Namespace) -> dict[str, Any]:
    with _api(url) as address:
        client = Client(address, url)
        for _ in range(_WARM_UP):
            client.create(_subjects(1))
        took = [_timed(client, _subjects(options.job_subjects)) for _ in range(options.jobs)]
        singles = [_subjects(1) for _ in range(options.job_subjects)]
        began = time.perf_counter()
        with ThreadPoolExecutor(options.at_once) as pool:
            list(pool.map(client.create, singles))
        one_each = time.perf_counter() - began
        client.http.close()
    cuts = statistics.quantiles(took, n=100, method="inclusive")
    return {
        "p50": cuts[49],
        "p99": cuts[98],
        "most": max(took),
        "a job a subject, seconds": one_each,
        "at once": options.at_once,
        "times as long": one_each / cuts[49],
    }


def _subjects(count: int) -> list[dict[str, str]]:
    """Whose uploads are still to come, as is allowed."""
    return [{"id": f"subject-{i}", "bundle": secrets.token_hex(32)} for i in range(count)]


def _timed(client: Client, subjects: list[dict[str, str]]) -> float:
    began = time.perf_counter()
    client.create(subjects)
    return time.perf_counter() - began


@contextmanager
def _api(url: str) -> Iterator[str]:
    """`python -m services.api`, and where it listens."""
    command = [sys.executable, "-m", "services.api", "--store", url, "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        try:
            said = list[str]()
            for line in process.stderr:
                said.append(line)
                if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                    # What is not read would fill the pipe in the end.
                    with ThreadPoolExecutor(1) as pool:
                        pool.submit(process.stderr.read)
                        try:
                            yield found[0]
                        finally:
                            process.terminate()
                    return
            raise RuntimeError(f"the API does not start:\n{''.join(said)}")
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
    for name, one in found["stores"].items():
        table.add_row(
            name,
            f"{1000 * one['p50']:.0f}",
            f"{1000 * one['p99']:.0f}",
            f"{one['a job a subject, seconds']:.1f}, {one['at once']} at once",
            f"{one['times as long']:.0f}",
        )
    console.print(table)
    console.print("Milliseconds and seconds are of this machine; what carries over is the ratio.")
