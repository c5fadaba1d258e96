"""Where a round's processes are born: by fork of one that has imported and opened all they need.

    python -m chaos.processes.process_factory FOLDER

Else a process on S3 would spend a second on boto3, as long as it may have to live. It reads
commands, a line each, and answers likewise:

    start ROLE NAME      started NAME PID
    signal PID NUMBER
                         stopped PID SIGNAL  whenever one stands still
                         gone PID CODE       whenever one has ended

It sends the signals itself, since the pids of its children are theirs until it has seen them end.
Once nobody gives commands any more, it kills all that live, and ends.
"""

import os
import random
import select
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from chaos.processes import client, observer, supervisor, worker
from chaos.processes.generator import Plan
from chaos.processes.lines import Log
from services.ledger.ledger import Ledger

_ROLES: dict[str, Callable[[Ledger, Plan, Log], None]] = {
    "client": client.main,
    "observer": observer.main,
    "supervisor": supervisor.main,
    "worker": worker.main,
}
_PAUSE = 0.01
"""Seconds between two looks for those who have ended."""


class Nursery:
    """Of one round."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._plan = Plan.load(folder)
        # No request is made here, so that no connection is inherited.
        self._ledger = self._plan.open(self._plan.nap)
        self._living: set[int] = set()

    def serve(self) -> None:
        """Until there are no more commands."""
        given = b""
        while True:
            if select.select([0], [], [], _PAUSE)[0]:
                if not (more := os.read(0, 4096)):
                    break
                *lines, given = (given + more).split(b"\n")
                for line in lines:
                    self._obey(line.decode().split())
            self._see_off()
        for pid in self._living:
            os.kill(pid, signal.SIGKILL)

    def _obey(self, command: list[str]) -> None:
        match command:
            case ["start", role, name]:
                pid = os.fork() or self._be(role, name)
                self._living.add(pid)
                print(f"started {name} {pid}", flush=True)
            case ["signal", pid, number] if int(pid) in self._living:
                os.kill(int(pid), int(number))
            case _:
                return

    def _see_off(self) -> None:
        while self._living:
            pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            if not pid:
                return
            if os.WIFSTOPPED(status):
                print(f"stopped {pid} {os.WSTOPSIG(status)}", flush=True)
                continue
            self._living.remove(pid)
            print(f"gone {pid} {os.waitstatus_to_exitcode(status)}", flush=True)

    def _be(self, role: str, name: str) -> NoReturn:
        """The child, to its end."""
        code = 1
        try:
            errors = os.open(
                self._folder / f"{name}.err", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644
            )
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(errors, 1)
            os.dup2(errors, 2)
            random.seed()  # Or all would wait for the same pauses.
            _ROLES[role](self._ledger, self._plan, Log(self._folder, name))
            code = 0
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(code)


if __name__ == "__main__":
    Nursery(Path(sys.argv[1])).serve()
