"""The nemesis: it kills and pauses processes at random, and crashes the store."""

import random
import subprocess
import threading
import time

from chaos.config import RoundConfig
from chaos.history import HistoryLog
from chaos.processes.process_manager import ManagedProcess, ProcessManager

_WEIGHTS = {"worker": 4.0, "client": 2.0, "supervisor": 2.0}


class ProcessNemesis:
    """Injects faults into the managed processes at random moments."""

    def __init__(self, config: RoundConfig, manager: ProcessManager, rng: random.Random) -> None:
        self._config = config
        self._manager = manager
        self._rng = rng
        self._next_at = time.monotonic() + self._interval_s()

    def tend(self) -> None:
        """Inject a fault if one is due."""
        if time.monotonic() < self._next_at:
            return
        self._next_at = time.monotonic() + self._interval_s()
        # Paused processes are spared: the harm they may do comes when they continue.
        targets = [
            process
            for process in self._manager.processes
            if process.pid and not process.continue_at and process.role in _WEIGHTS
        ]
        if targets:
            weights = [_WEIGHTS[process.role] for process in targets]
            self._inject(self._rng.choices(targets, weights)[0])

    def _inject(self, process: ManagedProcess) -> None:
        choice = self._rng.random()
        if choice < 0.55:
            self._manager.kill(process)
        elif choice < 0.9:
            self._manager.pause(process, self._config.lease_s * self._rng.uniform(0.1, 3))
        elif process.role == "worker":
            self._manager.terminate(process)

    def _interval_s(self) -> float:
        return self._rng.expovariate(1 / self._config.fault_interval_s)


class StoreOutage(threading.Thread):
    """Crashes the store by one command, and starts it again by another after `duration_s`."""

    def __init__(
        self, crash: str, restart: str, delay_s: float, duration_s: float, log: HistoryLog
    ) -> None:
        super().__init__(name="outage")
        self._output_path = log.path.with_suffix(".store")
        self._commands = (("crash", crash, delay_s), ("restart", restart, duration_s))
        self._log = log
        self.error = ""
        """Why the store did not come back."""

    def run(self) -> None:
        for name, command, delay_s in self._commands:
            time.sleep(delay_s)
            self._log.append(f"{name}_started")
            # To a file: a pipe would be held open by the daemons that the command starts.
            with self._output_path.open("ab") as output:
                code = subprocess.call(
                    command, shell=True, stdin=subprocess.DEVNULL, stdout=output, stderr=output
                )
            self._log.append(f"{name}_ended", code=code)
            if code:
                self.error = f"{command!r} ended with {code}: see {self._output_path}"
