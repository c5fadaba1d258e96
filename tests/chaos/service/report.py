"""What is said of a run while it goes on, and kept of it in a file, however it ends."""

import dataclasses
import json
import os
import platform
from pathlib import Path

from chaos.service.config import Course
from chaos.service.rounds import Verdict
from chaos.service.summary import line


class Report:
    """Of all rounds so far."""

    def __init__(self, course: Course, path: Path | None) -> None:
        self.course = course
        self.verdicts: list[Verdict] = []
        self.violations: list[str] = []
        self._path = path

    def add(self, verdict: Verdict) -> None:
        """One more round."""
        self.verdicts.append(verdict)
        print(f"round {verdict.name}: {line(verdict)}", flush=True)
        for broken in verdict.violations:
            self.note(f"round {verdict.name}: {broken}")
        self._save()

    def note(self, broken: str) -> None:
        """Something that is not as it should be."""
        self.violations.append(broken)
        print(f"  VIOLATION {broken[:1000]}", flush=True)
        self._save()

    def _save(self) -> None:
        if self._path is None:
            return
        host = {"system": platform.platform(), "cpus": os.cpu_count()}
        said = {
            "course": dataclasses.asdict(self.course),
            "host": host | {"python": platform.python_version()},
            "violations": self.violations,
            "rounds": [
                dataclasses.asdict(each) | {"taken": each.recovery.taken if each.recovery else None}
                for each in self.verdicts
            ],
        }
        self._path.write_text(json.dumps(said, indent=1))
