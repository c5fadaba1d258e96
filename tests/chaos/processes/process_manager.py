"""The process manager: starts the processes of a round, sends them signals, and restarts them."""

import os
import random
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import chaos
import services
from chaos.config import RoundConfig
from chaos.history import HistoryLog

_ROOTS = [str(Path(str(package.__file__)).parents[1]) for package in (chaos, services)]
_MAX_RESTART_DELAY_S = 1.0
_PAUSE_LEASES = 2, 5
"""Length of a pause before a write, in leases: others declare the process dead and take over."""


@dataclass(eq=False)
class ManagedProcess:
    """A named process, which has another pid after each restart."""

    role: str
    name: str
    pid: int = 0
    """0 while it does not run."""
    restart_at: float = 0.0
    continue_at: float = 0.0
    """Time of its SIGCONT; 0 if it is not paused."""
    ended: bool = False
    """It has finished its work, and is not restarted."""


class ProcessManager:
    """Manages the processes of one round by way of a factory that forks them."""

    def __init__(
        self, config: RoundConfig, folder: Path, log: HistoryLog, rng: random.Random
    ) -> None:
        sizes = {
            "supervisor": config.supervisors,
            "worker": config.workers,
            "client": config.clients,
            "observer": 1,
        }
        self.processes = [
            ManagedProcess(role, f"{role}-{number}")
            for role, size in sizes.items()
            for number in range(size)
        ]
        self._lease_s = config.lease_s
        self._log = log
        self._rng = rng
        self.faults_stopped = False
        """Processes that pause themselves continue at once."""
        self._buffer = b""
        paths = [*_ROOTS, os.environ.get("PYTHONPATH", "")]
        with (folder / "factory.err").open("ab") as errors:
            self._factory = subprocess.Popen(
                [sys.executable, "-m", "chaos.processes.process_factory", str(folder)],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )

    def start(self) -> None:
        """Start all processes, and wait until they run."""
        for process in self.processes:
            self._start(process)
        while not all(process.pid for process in self.processes):
            self._read_replies(timeout_s=1)

    def tend(self) -> None:
        """Restart dead processes and continue paused ones that are due. Call it often."""
        self._read_replies()
        now = time.monotonic()
        for process in self.processes:
            if process.pid and process.continue_at and now >= process.continue_at:
                process.continue_at = 0.0
                self._signal(process, signal.SIGCONT, "continued")
            if not process.pid and not process.ended and now >= process.restart_at:
                self._start(process)

    def kill(self, process: ManagedProcess) -> None:
        self._signal(process, signal.SIGKILL, "killed")

    def terminate(self, process: ManagedProcess) -> None:
        """Send SIGTERM, which only workers handle."""
        self._signal(process, signal.SIGTERM, "terminated")

    def pause(self, process: ManagedProcess, duration_s: float) -> None:
        self._signal(process, signal.SIGSTOP, "paused", duration_s=duration_s)
        process.continue_at = time.monotonic() + duration_s

    def stop(self) -> None:
        """Kill all processes, and wait until they are gone."""
        self._factory.communicate()

    def _signal(
        self, process: ManagedProcess, number: signal.Signals, event_type: str, **fields: float
    ) -> None:
        # Logged before: the process may exit before this one runs again.
        self._log.append(event_type, name=process.name, target_pid=process.pid, **fields)
        self._send_command(f"signal {process.pid} {number.value}")

    def _start(self, process: ManagedProcess) -> None:
        process.restart_at, process.continue_at = float("inf"), 0.0
        self._send_command(f"start {process.role} {process.name}")

    def _send_command(self, command: str) -> None:
        assert self._factory.stdin is not None
        self._factory.stdin.write(f"{command}\n".encode())
        self._factory.stdin.flush()

    def _read_replies(self, timeout_s: float = 0) -> None:
        assert self._factory.stdout is not None
        while select.select([self._factory.stdout], [], [], timeout_s)[0]:
            if not (chunk := os.read(self._factory.stdout.fileno(), 4096)):
                raise RuntimeError("the process factory has ended: see factory.err")
            *lines, self._buffer = (self._buffer + chunk).split(b"\n")
            for line in lines:
                self._handle_reply(*line.decode().split())
            timeout_s = 0

    def _handle_reply(self, reply: str, subject: str, number: str) -> None:
        if reply == "started":
            process = next(process for process in self.processes if process.name == subject)
            process.pid = int(number)
            self._log.append("started", name=process.name, target_pid=process.pid)
            return
        process = next(process for process in self.processes if process.pid == int(subject))
        if reply == "stopped":
            if not process.continue_at:
                self._log.append("paused_before_write", name=process.name, target_pid=process.pid)
                leases = 0.0 if self.faults_stopped else self._rng.uniform(*_PAUSE_LEASES)
                process.continue_at = time.monotonic() + self._lease_s * leases
            return
        self._log.append("exited", name=process.name, target_pid=process.pid, code=int(number))
        process.pid, process.continue_at = 0, 0.0
        process.restart_at = time.monotonic() + self._rng.uniform(0, _MAX_RESTART_DELAY_S)
        process.ended = process.role == "client" and number == "0"
