"""The processes of a round: started, hit by faults, and replaced when they are gone."""

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
from chaos.processes.generator import Plan
from chaos.processes.lines import Log

_ROOTS = [str(Path(str(package.__file__)).parents[1]) for package in (chaos, services)]
_LONGEST_GAP = 1.0
"""Seconds until another takes the place of one that is gone."""
_NAP = 2, 5
"""Leases: long enough for others to hold it for dead, and to end what it was at."""


@dataclass(eq=False)
class Member:
    """One place in the crew, and who has it now."""

    role: str
    name: str
    pid: int = 0
    """0: nobody."""
    due: float = 0.0
    """When to start the next."""
    wakes: float = 0.0
    """When it is sent SIGCONT; 0: it is not stopped."""
    ended: bool = False
    """It came to its end by itself, as it should."""


class Crew:
    """All of them. `tend` has to be called again and again."""

    def __init__(self, plan: Plan, folder: Path, log: Log, chance: random.Random) -> None:
        sizes = {
            "supervisor": plan.supervisors,
            "worker": plan.workers,
            "client": plan.clients,
            "observer": 1,
        }
        self.members = [
            Member(role, f"{role}-{number}")
            for role, size in sizes.items()
            for number in range(size)
        ]
        self._lease = plan.lease
        self._log = log
        self._chance = chance
        self.calm = False
        """Nobody is to stand still any longer."""
        self._heard = b""
        paths = [*_ROOTS, os.environ.get("PYTHONPATH", "")]
        with (folder / "nursery.err").open("ab") as errors:
            self._nursery = subprocess.Popen(
                [sys.executable, "-m", "chaos.processes.process_factory", str(folder)],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )

    def begin(self) -> None:
        """Start all, and wait until they are there."""
        for member in self.members:
            self._start(member)
        while not all(member.pid for member in self.members):
            self._hear(seconds=1)

    def tend(self) -> None:
        """Start who is missing, wake who has slept long enough, see who has ended."""
        self._hear()
        now = time.monotonic()
        for member in self.members:
            if member.pid and member.wakes and now >= member.wakes:
                self.wake(member)
            if not member.pid and not member.ended and now >= member.due:
                self._start(member)

    def kill(self, member: Member) -> None:
        self._send(member, signal.SIGKILL, "killed")

    def terminate(self, member: Member) -> None:
        """Ask it to end. Only workers know how to."""
        self._send(member, signal.SIGTERM, "terminated")

    def stop(self, member: Member, seconds: float) -> None:
        """Let it do nothing for so long."""
        self._send(member, signal.SIGSTOP, "stopped", seconds=seconds)
        member.wakes = time.monotonic() + seconds

    def wake(self, member: Member) -> None:
        member.wakes = 0.0
        self._send(member, signal.SIGCONT, "woken")

    def end(self) -> None:
        """Kill all, and wait until they are gone."""
        self._nursery.communicate()

    def _send(self, member: Member, what: signal.Signals, said: str, **told: float) -> None:
        self._log.say(said, name=member.name, of=member.pid, **told)
        self._order(f"signal {member.pid} {what.value}")

    def _start(self, member: Member) -> None:
        member.due, member.wakes = float("inf"), 0.0
        self._order(f"start {member.role} {member.name}")

    def _order(self, command: str) -> None:
        assert self._nursery.stdin is not None
        self._nursery.stdin.write(f"{command}\n".encode())
        self._nursery.stdin.flush()

    def _hear(self, seconds: float = 0) -> None:
        """What the nursery has said meanwhile."""
        assert self._nursery.stdout is not None
        while select.select([self._nursery.stdout], [], [], seconds)[0]:
            if not (more := os.read(self._nursery.stdout.fileno(), 4096)):
                raise RuntimeError("the nursery has ended: see nursery.err")
            *lines, self._heard = (self._heard + more).split(b"\n")
            for line in lines:
                self._note(line.decode().split())
            seconds = 0

    def _note(self, said: list[str]) -> None:
        what, who, number = said
        if what == "started":
            member = next(one for one in self.members if one.name == who)
            member.pid = int(number)
            self._log.say("started", name=who, of=member.pid)
            return
        member = next(one for one in self.members if one.pid == int(who))
        if what == "stopped":
            if not member.wakes:
                self._log.say("napped", name=member.name, of=member.pid)
                nap = 0.0 if self.calm else self._lease * self._chance.uniform(*_NAP)
                member.wakes = time.monotonic() + nap
            return
        self._log.say("gone", name=member.name, of=member.pid, code=int(number))
        member.pid, member.wakes = 0, 0.0
        member.due = time.monotonic() + self._chance.uniform(0, _LONGEST_GAP)
        member.ended = member.role == "client" and number == "0"
