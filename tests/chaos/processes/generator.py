"""The generator of clients' operations, and the state that it chooses them by."""

import random
from dataclasses import dataclass, field
from typing import Any

from chaos.history import HistoryEvent
from chaos.items import POISON_PREFIX

_SHARED_PREFIX = "shared-"
"""Prefix of the keys that all clients use."""

_WEIGHTS = {
    "submit": 30,
    "again": 8,
    "other": 6,
    "cancel": 10,
    "delete_token": 8,
    "delete_item": 5,
    "delete_job": 4,
    "retry": 14,
    "view": 10,
    "list": 14,
}


@dataclass
class ClientState:
    """The knowledge of one client, restored from its log."""

    next: int = 0
    pending: dict[str, Any] | None = None
    """The operation that was invoked and has not completed."""
    jobs: dict[str, str] = field(default_factory=dict)
    """Jobs by their idempotency keys."""
    tokens: list[str] = field(default_factory=list)

    def update(self, event: HistoryEvent) -> None:
        """Apply an event of the client's own log."""
        if event.type == "invoked":
            self.pending, self.next = event.fields, event["n"] + 1
        elif event.type == "completed" and self.pending:
            operation, self.pending = self.pending, None
            if operation["op"] in ("submit", "again") and "job" in event.fields:
                self.jobs[operation["key"]] = event["job"]
            self.tokens += event.fields.get("tokens", [])


def next_operation(seed: str, process: str, state: ClientState) -> dict[str, Any]:
    """Return the next operation of a client, as it is logged."""
    number = state.next
    rng = random.Random(f"{seed}/{process}/{number}")
    if number == 0:
        return {"op": "submit", "key": f"{POISON_PREFIX}{process}"}
    op = rng.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
    harmless = [key for key in state.jobs if not key.startswith(POISON_PREFIX)]
    if op == "delete_token" and state.tokens:
        return {"op": op, "token": rng.choice(state.tokens[-20:])}
    if op in ("submit", "delete_token") or not harmless:
        shared = rng.random() < 0.3
        key = f"{_SHARED_PREFIX}{number // 4}" if shared else f"{process}.{number}"
        return {"op": "submit", "key": key}
    keys = list(state.jobs) if op == "retry" else harmless[-8:]
    if op in ("cancel", "delete_item", "delete_job"):
        keys = harmless[-2:]  # Workers are probably running these.
    key = rng.choice(keys)
    operation: dict[str, Any] = {"op": op, "key": key, "job": state.jobs[key]}
    if op == "delete_item":
        operation["index"] = rng.randrange(5)
    return operation
