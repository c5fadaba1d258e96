"""The summary of a round in a line, and of many rounds in a table."""

from collections import defaultdict
from collections.abc import Sequence
from statistics import median

from chaos.service.rounds import RoundResult

_COLUMNS = (
    ("fault", 19),
    ("rounds", 8),
    ("interrupted", 13),
    ("claimed", 14),
    ("since ready", 14),
    ("supervisor", 14),
    ("API", 12),
    ("node", 14),
    ("worker", 14),
)
_LEGEND = """\
Seconds since the fault, median / worst: until all interrupted items were claimed again or had
ended; the same since a supervisor and a worker with its model were there to do it; until the
supervisor, the API and the Ray node were back; and where no worker was left, until a new one was
there with its model."""


def summary(result: RoundResult) -> str:
    """Return one line about a round."""
    parts = [f"{'+'.join(result.kinds):18} {result.seconds:5.1f} s"]
    if recovery := result.recovery:
        parts.append(f"fault at {result.progress:3.0%}, {recovery.interrupted} interrupted")
        if recovery.claimed_after_s is not None:
            parts.append(f"claimed again after {recovery.claimed_after_s:.1f} s")
        parts += [
            f"{name} back after {after_s:.1f} s"
            for name, after_s in recovery.recovered_after_s.items()
        ]
        if not recovery.workers_left and recovery.new_worker_after_s is not None:
            parts.append(f"a worker after {recovery.new_worker_after_s:.1f} s")
    parts.append(f"{result.attempts} attempts, {result.resumed} tokens from checkpoints")
    parts.append(
        f"{result.exact} of {result.tokens} bit for bit, others {result.max_angle:.2g}° off"
    )
    return "; ".join(parts)


def table(results: Sequence[RoundResult]) -> str:
    """Return median and worst times by kinds of faults, and how good the tokens are."""
    by_kinds: dict[str, list[RoundResult]] = defaultdict(list)
    for result in results:
        by_kinds["+".join(result.kinds)].append(result)
    rows = ["".join(f"{name:<{width}}" for name, width in _COLUMNS)]
    rows += [_row(kinds, rounds) for kinds, rounds in sorted(by_kinds.items())]
    tokens, exact = sum(r.tokens for r in results), sum(r.exact for r in results)
    angle, share = max(r.max_angle for r in results), max(r.max_angle_share for r in results)
    rows.append(_LEGEND)
    rows.append(
        f"Of {tokens} tokens, {exact} equal the reference bit for bit; the others are at most "
        f"{angle:.3g} degrees off, {share:.2%} of the angle between two seeds."
    )
    return "\n".join(rows)


def _row(kinds: str, results: Sequence[RoundResult]) -> str:
    found = [result.recovery for result in results if result.recovery]
    cells = [
        kinds,
        str(len(results)),
        str(sum(recovery.interrupted for recovery in found)),
        _spread([recovery.claimed_after_s for recovery in found]),
        _spread([recovery.ledger_s for recovery in found]),
        *(
            _spread([recovery.recovered_after_s.get(name) for recovery in found])
            for name in ("supervisor", "api", "node")
        ),
        _spread([r.new_worker_after_s for r in found if not r.workers_left]),
    ]
    return "".join(f"{cell:<{width}}" for cell, (_, width) in zip(cells, _COLUMNS, strict=True))


def _spread(times: Sequence[float | None]) -> str:
    known = [time for time in times if time is not None]
    return f"{median(known):.1f} / {max(known):.1f}" if known else "-"
