"""What a token costs an engine: in memory, when it is known, and when it is not.

    python -m benchmarks.generation.token_cache [--entries 100 1000 10000 100000] [--json FILE]

hits    of tokens that are known, asked for at random by one thread: how many a second, also over
        those of the smallest cache, and how long one takes; caches of all sizes take turns
memory  of the process, by which it grows as the largest cache is filled
reads   of a token that is not known, over a bare read of its object; and finding out that a known
        one still stands, over a bare head. In a store in memory, where an answer costs nothing:
        what is shown is our own work

The tokens are real files of rows drawn at random, in the sizes of SDXL's: 768 and 1280 numbers, as
results of one job in the ledger. No two are alike.
"""

import argparse
import gc
import json
import os
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.generation.stored_tokens import TENANT, keep
from dti_engine.text.tokens import LearnedToken
from services.inference.tokens.cache import TokenCache, TokenLifetimes
from services.inference.tokens.loader import ModelSignature
from services.inference.tokens.token import num_bytes_of
from services.ledger.ids import parse_token_id
from services.ledger.keys import ItemRef, JobKeys
from services.ledger.ledger import Ledger
from services.storage.memory import MemoryStore

SIGNATURE = ModelSignature({"text_encoder": 768, "text_encoder_2": 1280}, "0" * 64)
ROOM = 2**40
FOR_GOOD = TokenLifetimes(fresh_s=1e9, max_stale_s=1e9, unused_s=1e9)
NEVER = TokenLifetimes(fresh_s=0, max_stale_s=0)


@dataclass(frozen=True)
class Hits:
    """Of one size of cache; medians of the repeats."""

    entries: int
    requests_per_second: float
    p50: float  # seconds
    p99: float


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--entries", type=int, nargs="+", default=[100, 1000, 10_000, 100_000])
    parser.add_argument("--requests", type=int, default=20_000, help="of one measurement")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    options = parser.parse_args()
    sizes = sorted(options.entries)
    ledger, tokens = _fill(max(sizes))
    caches, per_token = _caches(ledger, tokens, sizes)
    hits = _hits(caches, tokens, options.requests, options.repeats)
    reads = _reads(ledger, tokens, min(len(tokens), 500), options.repeats)
    _show(hits, per_token, reads)
    if options.json:
        found = {
            "hits": [asdict(each) for each in hits],
            "bytes a token": per_token,
            "bytes a token, estimated": _estimate(caches[-1], tokens),
            "seconds": reads,
        }
        options.json.write_text(json.dumps(found, indent=2) + "\n")


def _fill(count: int) -> tuple[Ledger, list[str]]:
    """A ledger, and the ids of its tokens."""
    ledger = Ledger.open(MemoryStore())
    # One at a time, so that they leave no room behind that the caches would grow into.
    tokens = (
        LearnedToken(
            "<rex>", {name: torch.randn(1, dim) for name, dim in SIGNATURE.dims.items()}, "eos"
        )
        for _ in range(count)
    )
    return ledger, keep(ledger, tokens, SIGNATURE.fingerprint)


def _caches(
    ledger: Ledger, tokens: Sequence[str], sizes: Sequence[int]
) -> tuple[list[TokenCache], float]:
    """One of each size, and the memory that a token takes in the last of them, in bytes."""
    caches: list[TokenCache] = []
    grown = 0.0
    for size in sizes:
        cache = TokenCache(ledger, SIGNATURE, capacity_bytes=ROOM, lifetimes=FOR_GOOD)
        gc.collect()
        before = _resident()
        for token in tokens[:size]:
            cache.get(TENANT, token)
        gc.collect()
        grown = (_resident() - before) / size
        caches.append(cache)
    return caches, grown


def _hits(
    caches: Sequence[TokenCache], tokens: Sequence[str], requests: int, repeats: int
) -> list[Hits]:
    chance = random.Random(0)
    rates: list[list[float]] = [[] for _ in caches]
    taken: list[list[float]] = [[] for _ in caches]
    for _ in range(repeats):
        for place, cache in enumerate(caches):
            asked = chance.choices(tokens[: cache.num_tokens], k=requests)
            begun = time.perf_counter()
            for token in asked:
                cache.get(TENANT, token)
            rates[place].append(requests / (time.perf_counter() - begun))
            for token in asked:
                begun = time.perf_counter()
                cache.get(TENANT, token)
                taken[place].append(time.perf_counter() - begun)
    found: list[Hits] = []
    for place, cache in enumerate(caches):
        of_100 = statistics.quantiles(taken[place], n=100)
        rate = statistics.median(rates[place])
        found.append(Hits(cache.num_tokens, rate, of_100[49], of_100[98]))
    return found


def _reads(ledger: Ledger, tokens: Sequence[str], count: int, repeats: int) -> dict[str, float]:
    """What -> median seconds of one."""
    keys: dict[str, str] = {}
    for token in tokens[:count]:
        job, round_, index = parse_token_id(token)
        keys[token] = JobKeys(TENANT, job).result(ItemRef(round_, index))
    known = TokenCache(ledger, SIGNATURE, capacity_bytes=ROOM, lifetimes=NEVER)

    def fetch(token: str) -> object:
        return cold.get(TENANT, token)

    calls: dict[str, Callable[[str], object]] = {
        "a bare read": lambda token: ledger.store.read(keys[token]),
        "reading a token": fetch,
        "a bare head": lambda token: ledger.store.head(keys[token]),
        "confirming a token": lambda token: known.get(TENANT, token),
    }
    for token in keys:
        known.get(TENANT, token)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        cold = TokenCache(ledger, SIGNATURE, capacity_bytes=ROOM, lifetimes=FOR_GOOD)
        for name, call in calls.items():
            begun = time.perf_counter()
            for token in keys:
                call(token)
            times[name].append((time.perf_counter() - begun) / count)
    return {name: statistics.median(taken) for name, taken in times.items()}


def _estimate(cache: TokenCache, tokens: Sequence[str]) -> int:
    return num_bytes_of(cache.get(TENANT, tokens[0]).learned)


def _resident() -> int:
    """Bytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _show(hits: Sequence[Hits], per_token: float, reads: dict[str, float]) -> None:
    console = Console()
    table = Table("tokens known", "hits a second", "over the first", "p50, µs", "p99, µs")
    for each in hits:
        rate = each.requests_per_second
        over = f"{rate / hits[0].requests_per_second:.2f}"
        quantiles = (f"{1e6 * seconds:.1f}" for seconds in (each.p50, each.p99))
        table.add_row(f"{each.entries:,}", f"{rate:,.0f}", over, *quantiles)
    console.print(table)
    table = Table("not known", "µs", "over the bare one")
    bare = 0.0
    for name, seconds in reads.items():
        bare = seconds if "bare" in name else bare
        table.add_row(name, f"{1e6 * seconds:.1f}", f"{seconds / bare:.1f}")
    console.print(table)
    console.print(f"{per_token / 1000:.1f} KB of memory a token; {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
