"""What a client may ask for next, and what it remembers of what it has asked for before."""

import random
from dataclasses import dataclass, field
from typing import Any

from chaos.processes.items import POISONED
from chaos.processes.lines import Line

SHARED = "shared-"
"""Keys that all clients use begin so."""

_OFTEN = {
    "submit": 30,
    "again": 8,
    "other": 6,
    "cancel": 10,
    "delete_token": 8,
    "delete_item": 5,
    "delete_job": 4,
    "retry": 14,
    "view": 10,
    "look": 14,
}


@dataclass
class Memory:
    """What one client knows, out of its log."""

    next: int = 0
    pending: dict[str, Any] | None = None
    """Asked, and not answered."""
    jobs: dict[str, str] = field(default_factory=dict)
    """By their keys."""
    tokens: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def note(self, line: Line) -> None:
        if line.what == "asked":
            self.pending, self.next = line.told, line["n"] + 1
        elif line.what == "answered" and self.pending:
            asked, self.pending = self.pending, None
            if asked["op"] in ("submit", "again") and "job" in line.told:
                self.jobs[asked["key"]] = line["job"]
            self.tokens += line.told.get("tokens", [])

    @property
    def common(self) -> dict[str, str]:
        """Jobs that may be cancelled and deleted."""
        return {key: job for key, job in self.jobs.items() if not key.startswith(POISONED)}


def choose(seed: str, who: str, memory: Memory) -> dict[str, Any]:
    """The next request, as it is logged."""
    number = memory.next
    chance = random.Random(f"{seed}/{who}/{number}")
    if number == 0:
        return {"op": "submit", "key": f"{POISONED}{who}"}
    op = chance.choices(list(_OFTEN), list(_OFTEN.values()))[0]
    common = list(memory.common)
    if op == "delete_token" and memory.tokens:
        return {"op": op, "token": chance.choice(memory.tokens[-20:])}
    if op in ("submit", "delete_token") or not common:
        shared = chance.random() < 0.3
        key = f"{SHARED}{number // 4}" if shared else f"{who}.{number}"
        return {"op": "submit", "key": key}
    choice = list(memory.jobs) if op == "retry" else common[-8:]
    if op in ("cancel", "delete_item", "delete_job"):
        choice = common[-2:]  # They are likely to be worked at.
    key = chance.choice(choice)
    asked: dict[str, Any] = {"op": op, "key": key, "job": memory.jobs[key]}
    if op == "delete_item":
        asked["index"] = chance.randrange(5)
    return asked
