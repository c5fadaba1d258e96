"""What goes wrong in a round: processes die or stand still, and the store dies with all it has."""

import random
import subprocess
import threading
import time

from chaos.processes.generator import Plan
from chaos.processes.lines import Log
from chaos.processes.process_manager import Crew, Member

_WEIGHTS = {"worker": 4.0, "client": 2.0, "supervisor": 2.0}


class Killer:
    """Hits the crew at random moments."""

    def __init__(self, plan: Plan, crew: Crew, chance: random.Random) -> None:
        self._plan = plan
        self._crew = crew
        self._chance = chance
        self._next = time.monotonic() + self._pause()

    def turn(self) -> None:
        """Do one thing, if it is time to."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self._pause()
        # Who stands still is left to wake up, since that is what may do harm.
        awake = [one for one in self._crew.members if one.pid and not one.wakes]
        members = [one for one in awake if one.role in _WEIGHTS]
        if not members:
            return
        weights = [_WEIGHTS[member.role] for member in members]
        self._hit(self._chance.choices(members, weights)[0])

    def _hit(self, member: Member) -> None:
        choice = self._chance.random()
        if choice < 0.55:
            self._crew.kill(member)
        elif choice < 0.9:
            self._crew.stop(member, self._plan.lease * self._chance.uniform(0.1, 3))
        elif member.role == "worker":
            self._crew.terminate(member)

    def _pause(self) -> float:
        return self._chance.expovariate(1 / self._plan.fault_pause)


class Outage(threading.Thread):
    """The store is killed by one command, and started again by another a little later."""

    def __init__(self, crash: str, up: str, after: float, seconds: float, log: Log) -> None:
        super().__init__(name="outage")
        self._said = log.path.with_suffix(".store")
        self._commands = (("crash", crash, after), ("up", up, seconds))
        self._log = log
        self.trouble = ""
        """Why the store did not come back."""

    def run(self) -> None:
        for what, command, pause in self._commands:
            time.sleep(pause)
            self._log.say(f"{what}-asked")
            # To a file: a pipe would be held open by the daemons that the command starts.
            with self._said.open("ab") as said:
                code = subprocess.call(
                    command, shell=True, stdin=subprocess.DEVNULL, stdout=said, stderr=said
                )
            self._log.say(f"{what}-answered", code=code)
            if code:
                self.trouble = f"{command!r} ended with {code}: see {self._said}"
