"""A round in a line, and many rounds in a table."""

from collections import defaultdict
from collections.abc import Sequence
from statistics import median

from chaos.service.rounds import Verdict

_COLUMNS = (
    ("hit", 19),
    ("rounds", 8),
    ("in hand", 9),
    ("held again", 14),
    ("since ready", 14),
    ("supervisor", 14),
    ("API", 12),
    ("node", 14),
    ("worker", 14),
)
_LEGEND = """\
Seconds since the hit, median / worst: until all that was in hand was taken up again or had ended;
the same since those were there who have to do it (a supervisor, a worker with its model); until the
supervisor, the API, the Ray node, and where none was left a worker with its model were there."""


def line(verdict: Verdict) -> str:
    """One round."""
    said = [f"{'+'.join(verdict.kinds):18} {verdict.seconds:5.1f} s"]
    if recovery := verdict.recovery:
        said.append(f"hit at {verdict.progress:3.0%}, {recovery.in_hand} in hand")
        if recovery.held is not None:
            said.append(f"held again after {recovery.held:.1f} s")
        said += [f"{name} back after {after:.1f} s" for name, after in recovery.back.items()]
        if not recovery.left and recovery.lives is not None:
            said.append(f"a worker after {recovery.lives:.1f} s")
    said.append(f"{verdict.attempts} attempts, {verdict.resumed} tokens from checkpoints")
    said.append(f"{verdict.exact} of {verdict.tokens} bit for bit, others {verdict.angle:.2g}° off")
    return "; ".join(said)


def table(verdicts: Sequence[Verdict]) -> str:
    """Median and worst seconds by who was hit."""
    kinds: dict[str, list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        kinds["+".join(verdict.kinds)].append(verdict)
    rows = ["".join(f"{name:<{width}}" for name, width in _COLUMNS)]
    rows += [_row(name, of) for name, of in sorted(kinds.items())]
    tokens, exact = (sum(getattr(one, name) for one in verdicts) for name in ("tokens", "exact"))
    angle = max(verdict.angle for verdict in verdicts)
    share = max(verdict.share for verdict in verdicts)
    rows.append(_LEGEND)
    rows.append(
        f"Of {tokens} tokens {exact} are the undisturbed ones bit for bit; the others are at most "
        f"{angle:.3g} degrees off, {share:.2%} of what another seed makes of it."
    )
    return "\n".join(rows)


def _row(name: str, verdicts: Sequence[Verdict]) -> str:
    found = [verdict.recovery for verdict in verdicts if verdict.recovery]
    in_hand = sum(one.in_hand for one in found)
    cells = [
        *(name, str(len(verdicts)), str(in_hand)),
        _spread([one.held for one in found]),
        _spread([one.taken for one in found]),
        *(_spread([one.back.get(who) for one in found]) for who in ("supervisor", "api", "node")),
        _spread([one.lives for one in found if not one.left]),
    ]
    return "".join(f"{cell:<{width}}" for cell, (_, width) in zip(cells, _COLUMNS, strict=True))


def _spread(seconds: Sequence[float | None]) -> str:
    known = [one for one in seconds if one is not None]
    return f"{median(known):.1f} / {max(known):.1f}" if known else "-"
