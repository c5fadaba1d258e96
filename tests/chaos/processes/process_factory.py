"""The process factory: forks a round's processes from one that has imported all they need.

    python -m chaos.processes.process_factory FOLDER

Without it, a process on S3 would spend a second on importing boto3, as long as it may have to live.
The factory reads commands, one per line, and replies likewise:

    start ROLE NAME      started NAME PID
    signal PID NUMBER
                         stopped PID SIGNAL  whenever a child has stopped
                         gone PID CODE       whenever a child has exited

It sends the signals itself, since the pids of its children cannot be reused before it has waited
for them. When its standard input is closed, it kills all children and ends.
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

from chaos import observer
from chaos.config import RoundConfig
from chaos.history import HistoryLog
from chaos.processes import client, supervisor, worker
from services.ledger.ledger import Ledger

_ROLES: dict[str, Callable[[Ledger, RoundConfig, HistoryLog], None]] = {
    "client": client.main,
    "observer": observer.main,
    "supervisor": supervisor.main,
    "worker": worker.main,
}
_POLL_INTERVAL_S = 0.01


class ProcessFactory:
    """Forks the processes of one round."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._config = RoundConfig.load(folder)
        # No request is made here, so that the children inherit no connection.
        self._ledger = self._config.open(self._config.pause_probability)
        self._children: set[int] = set()

    def serve(self) -> None:
        """Execute commands until there are no more."""
        buffer = b""
        while True:
            if select.select([0], [], [], _POLL_INTERVAL_S)[0]:
                if not (chunk := os.read(0, 4096)):
                    break
                *lines, buffer = (buffer + chunk).split(b"\n")
                for line in lines:
                    self._execute(line.decode().split())
            self._reap()
        for pid in self._children:
            os.kill(pid, signal.SIGKILL)

    def _execute(self, command: list[str]) -> None:
        match command:
            case ["start", role, name]:
                pid = os.fork() or self._run_child(role, name)
                self._children.add(pid)
                print(f"started {name} {pid}", flush=True)
            case ["signal", pid, number] if int(pid) in self._children:
                os.kill(int(pid), int(number))
            case _:
                return

    def _reap(self) -> None:
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            if not pid:
                return
            if os.WIFSTOPPED(status):
                print(f"stopped {pid} {os.WSTOPSIG(status)}", flush=True)
                continue
            self._children.remove(pid)
            print(f"gone {pid} {os.waitstatus_to_exitcode(status)}", flush=True)

    def _run_child(self, role: str, name: str) -> NoReturn:
        code = 1
        try:
            errors = os.open(
                self._folder / f"{name}.err", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644
            )
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(errors, 1)
            os.dup2(errors, 2)
            random.seed()  # Otherwise all children would draw the same pauses.
            _ROLES[role](self._ledger, self._config, HistoryLog(self._folder, name))
            code = 0
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(code)


if __name__ == "__main__":
    ProcessFactory(Path(sys.argv[1])).serve()
