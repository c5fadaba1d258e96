"""The token cache of an engine: hits by cache size, memory per token, misses against bare reads.

    python -m benchmarks.generation.token_cache [--entries 100 1000 10000 100000] [--json FILE]

hits    random lookups of cached tokens in one thread: hits a second, as a ratio to the smallest
        cache, and p50 and p99 in microseconds
memory  kilobytes by which the process grows per token, as the largest cache is filled
misses  microseconds of reading a token that is not cached, as a ratio to a bare read of its object;
        and of revalidating a cached token, as a ratio to a bare head. The store is in memory, where
        a request costs next to nothing, so these ratios show the work of the cache itself

Each is the median of n = 7 repeats (--repeats) of 20,000 lookups (--requests) or 500 reads, in
which the alternatives take turns. The tokens are files with distinct random vectors in the sizes of
SDXL, 768 and 1280 numbers, stored as the results of one job in the ledger.
"""

import gc
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

from benchmarks.command_line import BenchmarkParser, write_json
from benchmarks.generation.stored_tokens import TENANT, store_tokens
from dti_engine.text.tokens import LearnedToken
from services.inference.tokens.cache import TokenCache, TokenLifetimes
from services.inference.tokens.loader import ModelSignature, num_bytes_of
from services.ledger.ids import parse_token_id
from services.ledger.keys import ItemRef, JobKeys
from services.ledger.ledger import Ledger
from services.storage.memory import MemoryStore

SIGNATURE = ModelSignature({"text_encoder": 768, "text_encoder_2": 1280}, "0" * 64)
UNLIMITED_BYTES = 2**40
NEVER_STALE = TokenLifetimes(fresh_s=1e9, max_stale_s=1e9, unused_s=1e9)
ALWAYS_STALE = TokenLifetimes(fresh_s=0, max_stale_s=0)


@dataclass(frozen=True)
class Hits:
    """Hits of a cache of one size, as medians of the repeats."""

    entries: int
    requests_per_second: float
    p50: float  # in seconds, as p99
    p99: float


def main() -> None:
    parser = BenchmarkParser(__doc__)
    parser.add_argument("--entries", type=int, nargs="+", default=[100, 1000, 10_000, 100_000])
    parser.add_argument("--requests", type=int, default=20_000, help="lookups of each repeat")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    sizes = sorted(options.entries)
    ledger, tokens = _fill(max(sizes))
    caches, per_token = _caches(ledger, tokens, sizes)
    hits = _hits(caches, tokens, options.requests, options.repeats)
    misses = _misses(ledger, tokens, min(len(tokens), 500), options.repeats)
    _show(hits, per_token, misses)
    report = {
        "hits": [asdict(each) for each in hits],
        "bytes a token": per_token,
        "bytes a token, estimated": _estimate(caches[-1], tokens),
        "seconds": misses,
    }
    write_json(options.json, report)


def _fill(count: int) -> tuple[Ledger, list[str]]:
    """Return a ledger with `count` tokens, and their ids."""
    ledger = Ledger.open(MemoryStore())
    # One at a time: freed memory of a list of tokens would take in the caches later, and their
    # growth could not be measured.
    tokens = (
        LearnedToken(
            "<rex>", {name: torch.randn(1, dim) for name, dim in SIGNATURE.dims.items()}, "eos"
        )
        for _ in range(count)
    )
    return ledger, store_tokens(ledger, tokens, SIGNATURE.fingerprint)


def _caches(
    ledger: Ledger, tokens: Sequence[str], sizes: Sequence[int]
) -> tuple[list[TokenCache], float]:
    """Return a full cache of each size, and the bytes per token by which the last one grew."""
    caches: list[TokenCache] = []
    grown = 0.0
    for size in sizes:
        cache = TokenCache(ledger, SIGNATURE, capacity_bytes=UNLIMITED_BYTES, lifetimes=NEVER_STALE)
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
    rng = random.Random(0)
    rates: list[list[float]] = [[] for _ in caches]
    latencies_s: list[list[float]] = [[] for _ in caches]
    for _ in range(repeats):
        for index, cache in enumerate(caches):
            lookups = rng.choices(tokens[: cache.num_tokens], k=requests)
            begun = time.perf_counter()
            for token in lookups:
                cache.get(TENANT, token)
            rates[index].append(requests / (time.perf_counter() - begun))
            # A second pass times each lookup; in the first one, the clock would slow the rate.
            for token in lookups:
                begun = time.perf_counter()
                cache.get(TENANT, token)
                latencies_s[index].append(time.perf_counter() - begun)
    hits: list[Hits] = []
    for index, cache in enumerate(caches):
        percentiles_s = statistics.quantiles(latencies_s[index], n=100)
        rate = statistics.median(rates[index])
        hits.append(Hits(cache.num_tokens, rate, percentiles_s[49], percentiles_s[98]))
    return hits


def _misses(ledger: Ledger, tokens: Sequence[str], count: int, repeats: int) -> dict[str, float]:
    """Return the median seconds of one call, by the name of the call."""
    keys: dict[str, str] = {}
    for token in tokens[:count]:
        job, round_, index = parse_token_id(token)
        keys[token] = JobKeys(TENANT, job).result(ItemRef(round_, index))
    stale = TokenCache(ledger, SIGNATURE, capacity_bytes=UNLIMITED_BYTES, lifetimes=ALWAYS_STALE)

    def fetch(token: str) -> object:
        return cold.get(TENANT, token)

    calls: dict[str, Callable[[str], object]] = {
        "bare read": lambda token: ledger.store.read(keys[token]),
        "reading a token": fetch,
        "bare head": lambda token: ledger.store.head(keys[token]),
        "revalidating a token": lambda token: stale.get(TENANT, token),
    }
    for token in keys:
        stale.get(TENANT, token)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        cold = TokenCache(ledger, SIGNATURE, capacity_bytes=UNLIMITED_BYTES, lifetimes=NEVER_STALE)
        for name, call in calls.items():
            begun = time.perf_counter()
            for token in keys:
                call(token)
            times[name].append((time.perf_counter() - begun) / count)
    return {name: statistics.median(elapsed_s) for name, elapsed_s in times.items()}


def _estimate(cache: TokenCache, tokens: Sequence[str]) -> int:
    return num_bytes_of(cache.get(TENANT, tokens[0]).learned)


def _resident() -> int:
    """Return the resident bytes of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _show(hits: Sequence[Hits], per_token: float, misses: dict[str, float]) -> None:
    console = Console()
    table = Table("tokens cached", "hits a second", "over the first", "p50, µs", "p99, µs")
    for each in hits:
        rate = each.requests_per_second
        over = f"{rate / hits[0].requests_per_second:.2f}"
        quantiles = (f"{1e6 * seconds:.1f}" for seconds in (each.p50, each.p99))
        table.add_row(f"{each.entries:,}", f"{rate:,.0f}", over, *quantiles)
    console.print(table)
    table = Table("misses", "µs", "over the bare call")
    bare = 0.0
    for name, seconds in misses.items():
        bare = seconds if "bare" in name else bare
        table.add_row(name, f"{1e6 * seconds:.1f}", f"{seconds / bare:.1f}")
    console.print(table)
    console.print(f"{per_token / 1000:.1f} KB of memory a token; {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
