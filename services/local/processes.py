"""A process supervisor: restarts a process that ends, with backoff if it ends early."""

import ctypes
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_HEALTHY_AFTER_S = 20.0
"""Time of running after which an end does not count as a failed start."""

_BACKOFF_S = (0.5, 2.0, 5.0, 15.0, 30.0)
"""Pauses before a restart by the number of failed starts in a row."""

_PR_SET_PDEATHSIG = 1
"""The option of prctl(2) by which the kernel signals a process whose parent has died."""

_TAIL_CHARS = 2000
"""Characters of a log that are shown if a process cannot start."""


@dataclass(frozen=True)
class Command:
    """A command to run."""

    name: str
    arguments: Sequence[str]
    environment: Mapping[str, str]
    grace_s: float = 20
    """Time between SIGTERM and SIGKILL."""
    kill_group: bool = False
    """Kill what is left of its process group once it has ended: for one that leaves daemons."""


class SupervisedProcess:
    """A process that is restarted whenever it ends. It gets SIGTERM when this process dies."""

    def __init__(self, command: Command, log: Path) -> None:
        self.command, self.log = command, log
        # The file may hold the output of an earlier run.
        self._log_start = log.stat().st_size if log.exists() else 0
        self.starts = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._supervise, name=command.name, daemon=True)

    @property
    def pid(self) -> int | None:
        """The process id; None while it does not run."""
        process = self._process
        return process.pid if process and process.poll() is None else None

    def start(self) -> None:
        """Start the process and begin to supervise it."""
        self._thread.start()

    def stop(self) -> None:
        """End the process for good: SIGTERM, and SIGKILL after its grace period."""
        self._stopping.set()
        if process := self._process:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        self._thread.join()

    def output(self) -> str:
        """Return all output since the first start by this object."""
        try:
            return self.log.read_bytes()[self._log_start :].decode(errors="replace")
        except OSError:
            return ""

    def tail(self) -> str:
        """Return the end of the output."""
        return self.output()[-_TAIL_CHARS:]

    def _supervise(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            began = time.monotonic()
            with suppress(OSError):  # such as a full disk: the next attempt may succeed
                self._run()
            failures = failures + 1 if time.monotonic() - began < _HEALTHY_AFTER_S else 0
            self._stopping.wait(_BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)])

    def _run(self) -> None:
        with self.log.open("ab") as log:
            self._process = process = subprocess.Popen(
                self.command.arguments,
                env=self.command.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # A session of its own: Ctrl-C reaches this process alone, which then ends all
                # others in order.
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )
        self.starts += 1
        # `stop` may have been called between the check in `_supervise` and the start.
        if self._stopping.is_set():
            process.terminate()
        while process.poll() is None:
            if self._stopping.wait(0.1):
                self._await_end(process)
        if self.command.kill_group:
            _kill_group(process.pid)

    def _await_end(self, process: subprocess.Popen[bytes]) -> None:
        try:
            process.wait(self.command.grace_s)
        except subprocess.TimeoutExpired:
            _kill_group(process.pid)
            process.wait()


_libc = ctypes.CDLL(None)
"""Loaded before any fork: dlopen between fork and exec may deadlock."""


def _end_with_parent() -> None:
    if hasattr(_libc, "prctl"):  # Linux
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _kill_group(pid: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
