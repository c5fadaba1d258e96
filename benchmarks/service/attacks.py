"""The API under attack: the times of others, and its memory, while each attack goes on.

    python -m benchmarks.service.attacks [--attacks NAME ...] [--repeats 3] [--check] [--json FILE]

It starts the API on loopback with its default settings, on a store in a folder, with a stub engine
that generates at once. In each round it attacks in one way after the other, and measures before
("quiet") and during each attack

- /healthz, asked 20 times a second on new connections by a process of its own,
- the first request of tenants that the API has never met, by another process: an upload of 10 kB,
  a list of jobs, a job of one subject, and one image; each tenant sends one request,
- the peak of the API's resident memory.

The ratio of a kind of request is the median during the attack over the median before it, in the
same round. The attackers' processes, the clients and the API share the cores of this machine. With
--check the command exits with 1 if a bar is missed; otherwise it only tells.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.service.attacked_api import AttackedApi, attacked_api
from benchmarks.service.attackers import ATTACKS, run_attack
from benchmarks.service.bystanders import KINDS, Asked, run_probe, run_tenants

MAX_HEALTH_P99_S, MAX_RATIO, MAX_PEAK_MB = 0.25, 2.0, 300.0
"""The bars: of /healthz, of a first request against its quiet time, and of the API's memory."""

_TIMEOUT_S = 900.0
_CONTEXT = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Period:
    """A period holds the measurements of some seconds."""

    health_s: list[float]
    first_s: dict[str, list[float]]
    refused: list[str]
    peak_mb: float


@dataclass(frozen=True)
class AttackRound:
    """A round holds the quiet period, and the period of the attack after it."""

    quiet: Period
    attacked: Period
    answers: dict[str, int]
    """What the attacker was answered, by status."""

    def ratio(self, kind: str) -> float:
        """Return how much longer the first requests of a kind took during the attack."""
        attacked, quiet = self.attacked.first_s[kind], self.quiet.first_s[kind]
        return statistics.median(attacked) / statistics.median(quiet)


def main() -> None:
    # Not at the top: each client's process imports this module, and none of them needs torch.
    from dti_engine.devices import find_device
    from dti_engine.files import environment

    options = _options()
    console, load = Console(), os.getloadavg()[0]
    rounds: dict[str, list[AttackRound]] = {name: [] for name in options.attacks}
    with tempfile.TemporaryDirectory(prefix="dti-") as folder:
        for number in range(options.repeats):
            for name in options.attacks:
                # A new process for each, so that no attack is measured by what another one left.
                place = Path(folder) / f"{number}-{name}".replace(" ", "-")
                with attacked_api(place) as api:
                    rounds[name].append(_round(api, name, options))
    figures = {
        "environment": environment(find_device("cpu"), load=f"{load:.1f}"),
        "bars": {
            "healthz p99 s": MAX_HEALTH_P99_S,
            "ratio": MAX_RATIO,
            "peak MB": MAX_PEAK_MB,
        },
        "attacks": {name: _figures(each) for name, each in rounds.items()},
    }
    _show(console, figures["attacks"], options)
    console.print(f"{os.cpu_count()} cores, load {load:.1f} before it")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    missed = {name: each["missed"] for name, each in figures["attacks"].items() if each["missed"]}
    for name, each in missed.items():
        console.print(f"missed: {name}: {'; '.join(each)}")
    if missed and options.check:
        sys.exit(1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--attacks", nargs="+", choices=ATTACKS, default=list(ATTACKS))
    parser.add_argument("--repeats", type=int, default=3, help="rounds of all attacks")
    parser.add_argument("--seconds", type=float, default=8, help="of each period, at least")
    parser.add_argument("--requests", type=int, default=8, help="first requests of each kind")
    parser.add_argument("--settle", type=float, default=2, help="seconds from attack to measuring")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a bar is missed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    return parser.parse_args()


def _round(api: AttackedApi, name: str, options: argparse.Namespace) -> AttackRound:
    """Measure a quiet period, and then one under attack."""
    count = options.requests * len(KINDS)
    warm, quiet_keys, attacked_keys = (
        api.new_tenants(prefix, count) for prefix in ("warm", "quiet", "attacked")
    )
    _period(api, warm[: len(KINDS)], 0.1)
    quiet = _period(api, quiet_keys, options.seconds)
    with _attacking(api, name, options.settle) as stop:
        attacked = _period(api, attacked_keys, options.seconds)
        return AttackRound(quiet, attacked, stop())


@contextmanager
def _attacking(api: AttackedApi, name: str, settle_s: float) -> Iterator[Callable[[], Any]]:
    """Attack, and yield a function that stops it and returns the answers by status."""
    with _process(run_attack, name, api.port, api.attacker_key) as channel:
        _receive(channel)
        if channel.poll(settle_s):
            raise RuntimeError(f"the attack {name} has ended by itself")

        def stop() -> Any:
            channel.send("stop")
            return _receive(channel)

        yield stop


def _period(api: AttackedApi, keys: Sequence[str], seconds: float) -> Period:
    api.forget_peak()
    with _process(run_probe, api.port) as probe:
        _receive(probe)
        with _process(run_tenants, api.port, keys, seconds) as tenants:
            asked = Asked(*_receive(tenants))
        probe.send("stop")
        health_s = _receive(probe)
    return Period(health_s, asked.times_s, asked.refused, api.peak_mb())


@contextmanager
def _process(run: Callable[..., None], *arguments: Any) -> Iterator[Connection]:
    """Run a function in a process, and yield the channel that is its last argument."""
    ours, its = _CONTEXT.Pipe()
    process = _CONTEXT.Process(target=run, args=(*arguments, its), daemon=True)
    process.start()
    its.close()
    try:
        yield ours
    finally:
        process.kill()
        process.join()
        ours.close()


def _receive(channel: Connection) -> Any:
    if not channel.poll(_TIMEOUT_S):
        raise TimeoutError(f"a client said nothing for {_TIMEOUT_S:g} s")
    return channel.recv()


def _figures(rounds: Sequence[AttackRound]) -> dict[str, Any]:
    """Return the figures of an attack over all rounds, and the bars that it missed."""
    health_s = [each for round_ in rounds for each in round_.attacked.health_s]
    refused = [each for round_ in rounds for each in round_.attacked.refused]
    answers = sum((Counter(each.answers) for each in rounds), Counter[str]())
    p50, p99 = _p50_p99(health_s)
    peak_mb = max(each.attacked.peak_mb for each in rounds)
    ratios = {
        kind: {
            "median": statistics.median(each.ratio(kind) for each in rounds),
            "min": min(each.ratio(kind) for each in rounds),
            "max": max(each.ratio(kind) for each in rounds),
            "n": sum(len(each.attacked.first_s[kind]) for each in rounds),
            "quiet s": _median(each.quiet.first_s[kind] for each in rounds),
            "attacked s": _median(each.attacked.first_s[kind] for each in rounds),
        }
        for kind in KINDS
    }
    missed = [
        *([f"/healthz p99 {p99:.3f} s"] if p99 >= MAX_HEALTH_P99_S else []),
        *(
            f"{kind} {each['median']:.1f} times its quiet time"
            for kind, each in ratios.items()
            if each["median"] > MAX_RATIO
        ),
        *([f"{peak_mb:.0f} MB"] if peak_mb >= MAX_PEAK_MB else []),
        *([f"{len(refused)} first requests refused"] if refused else []),
    ]
    return {
        "healthz": {"n": len(health_s), "p50 s": p50, "p99 s": p99, "max s": max(health_s)},
        "quiet healthz p99 s": _p50_p99([s for each in rounds for s in each.quiet.health_s])[1],
        "first requests": ratios,
        "refused": refused,
        "peak MB": peak_mb,
        "answers to the attacker": dict(answers),
        "missed": missed,
        "rounds": [asdict(each) for each in rounds],
    }


def _median(lists: Iterator[list[float]]) -> float:
    return statistics.median(each for values in lists for each in values)


def _p50_p99(values: Sequence[float]) -> tuple[float, float]:
    percentiles = statistics.quantiles(values, n=100, method="inclusive")
    return percentiles[49], percentiles[98]


def _show(console: Console, attacks: dict[str, Any], options: argparse.Namespace) -> None:
    table = Table(
        "attack",
        "healthz ms",
        *KINDS,
        "peak MB",
        title=f"p50 and p99 of /healthz; first requests: how many times as long as in quiet, "
        f"median (range) of {options.repeats} rounds",
    )
    for name, each in attacks.items():
        health = each["healthz"]
        table.add_row(
            name,
            f"{1000 * health['p50 s']:.0f}, {1000 * health['p99 s']:.0f}",
            *(_spread(each["first requests"][kind]) for kind in KINDS),
            f"{each['peak MB']:.0f}",
        )
    console.print(table)


def _spread(ratio: dict[str, float]) -> str:
    return f"{ratio['median']:.1f} ({ratio['min']:.1f}-{ratio['max']:.1f})"


if __name__ == "__main__":
    main()
