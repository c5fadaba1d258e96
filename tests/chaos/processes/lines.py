"""What processes say of what they do: a file each, a line of JSON at a time."""

import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Line:
    """One thing said. Times are CLOCK_MONOTONIC, which all processes of a host share."""

    t: float
    who: str
    what: str
    told: dict[str, Any] = field(default_factory=dict)
    pid: int = 0

    def __getitem__(self, name: str) -> Any:
        return self.told[name]

    def pack(self) -> bytes:
        told = {"t": self.t, "who": self.who, "what": self.what, "pid": self.pid}
        return json.dumps(told | {"told": self.told}).encode() + b"\n"


class Log:
    """One process's own; its successor goes on with it."""

    def __init__(self, folder: Path, who: str) -> None:
        self.path = folder / f"{who}.jsonl"
        self.who = who
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        # Whoever wrote before may have been killed in the middle of a line.
        os.write(self._file, b"\n")

    def say(self, what: str, t: float | None = None, **told: Any) -> Line:
        """One write, which the kernel has when it returns: SIGKILL takes no part of it away."""
        at = time.monotonic() if t is None else t
        line = Line(at, self.who, what, told, os.getpid())
        os.write(self._file, line.pack())
        return line

    def close(self) -> None:
        os.close(self._file)


def read_log(path: Path) -> list[Line]:
    """All whole lines of one log."""
    return [Line(**said) for said in _parsed(path.read_bytes().split(b"\n"))]


def read_logs(folder: Path) -> list[Line]:
    """All lines of all logs, in the order of their times."""
    lines = [line for path in sorted(folder.glob("*.jsonl")) for line in read_log(path)]
    return sorted(lines, key=lambda line: line.t)


def _parsed(lines: Iterable[bytes]) -> Iterable[dict[str, Any]]:
    for line in lines:
        try:
            said = json.loads(line)
        except ValueError:
            continue
        yield said
