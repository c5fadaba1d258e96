"""Requests on their way to the server and back, and what happens to them there."""

from collections.abc import Callable
from typing import Any

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    ReadTimeoutError,
)

from chaos.simulation.bucket import Bucket, Refusal
from chaos.simulation.nemesis import DELAYS, LATEST, PAUSES, Faults, Kind
from chaos.simulation.process import Process

Serve = Callable[[int], dict[str, Any] | Refusal]
"""Serves a request, of which it gets the number, at one instant."""

_URL = "http://simulated"

_SHORTEST = 0.002
_MEAN = 0.01
"""Seconds that one way takes, at least and on average beyond that."""

_ANSWERED = {
    "error_before": Refusal(500, "InternalError"),
    "error_after": Refusal(500, "InternalError"),
    "unavailable": Refusal(503, "SlowDown"),
    "conflict": Refusal(409, "ConditionalRequestConflict"),
}
_NOT_SERVED = ("error_before", "unavailable", "conflict")


class _Request:
    """One request, and the answer to it once it was served."""

    __slots__ = ("answer", "number", "process", "serve", "settled")

    def __init__(self, number: int, process: Process, serve: Serve) -> None:
        self.number = number
        self.process = process
        self.serve = serve
        self.answer: dict[str, Any] | Refusal = {}
        self.settled = False


class Wire:
    """Between the processes and a bucket. Time-outs are by the host's clock."""

    def __init__(self, bucket: Bucket, faults: Faults) -> None:
        self.bucket = bucket
        self.faults = faults
        self.settled = 0.0
        """Virtual time by which all that is under way has arrived."""
        self._world = bucket.world
        self._tables: dict[Kind, list[tuple[float, str]]] = {
            kind: faults.table(kind) for kind in ("read", "list", "write", "conditional write")
        }

    def send(
        self,
        process: Process,
        kind: Kind,
        operation: str,
        key: str,
        serve: Serve,
        timeouts: tuple[float, float],
    ) -> dict[str, Any]:
        """The answer. `timeouts` is how long the client waits for a connection, and for an answer.

        Raises: ClientError, or what botocore raises when no answer comes.
        """
        world, chance = self._world, self._world.random
        task = world.task()
        fate = self._draw(kind)
        paused_after = False
        if fate == "pause":
            fate, paused_after = "", chance.random() < 0.5
            if not paused_after:
                world.pause(process, chance.uniform(*PAUSES))
        number = self.bucket.number()
        if task.requests is not None:
            task.requests.append(number)
        world.log("send", number, operation, key, fate)
        answer = self._carry(_Request(number, process, serve), fate, timeouts)
        if paused_after:
            world.pause(process, chance.uniform(*PAUSES))
        if isinstance(answer, BotoCoreError):
            world.log("lost", number, type(answer).__name__)
            raise answer
        if isinstance(answer, Refusal):
            world.log("refused", number, answer.status)
            raise _client_error(answer, operation)
        world.log("told", number)
        return answer

    def _draw(self, kind: Kind) -> str:
        table = self._tables[kind]
        if not table or self._world.now >= self.faults.until:
            return ""
        drawn = self._world.random.random()
        if drawn >= table[-1][0]:
            return ""
        return next(name for bound, name in table if drawn < bound)

    def _carry(
        self, request: _Request, fate: str, timeouts: tuple[float, float]
    ) -> dict[str, Any] | Refusal | BotoCoreError:
        world, chance, process = self._world, self._world.random, request.process
        out, back = self._way(), self._way()
        if not fate:
            pass
        elif fate == "unsent":
            world.wait(timeouts[0] / process.rate)
            return ConnectTimeoutError(endpoint_url=_URL)
        elif fate in ("slow", "slow_listing"):
            delay = chance.uniform(*DELAYS)
            out, back = (out + delay, back) if chance.random() < 0.5 else (out, back + delay)
        elif fate == "twice":
            self._arrives(out, request)
            out += self._way()
        elif fate == "crash":
            moment = chance.choice(("before", "under way", "applied"))
            if moment == "before":
                world.crash(process)
            crash = chance.uniform(0, out) if moment == "under way" else out + back / 2
            world.after(crash, world.crash, process)
        patience = timeouts[1] / process.rate
        if fate in ("lost_request", "lost_answer", "late"):
            return self._lose(request, fate, out, patience)
        if fate not in _NOT_SERVED:
            self._arrives(out, request)
        if out + back > patience:
            world.wait(patience)
            return ReadTimeoutError(endpoint_url=_URL)
        world.wait(out + back)
        return _ANSWERED.get(fate) or request.answer

    def _lose(self, request: _Request, fate: str, out: float, patience: float) -> BotoCoreError:
        world, chance = self._world, self._world.random
        # Either a time-out, or what a proxy or a restarted server does: the connection breaks.
        broken = chance.random() < 0.5
        wait = min(out + self._way() + chance.uniform(0, 1), patience) if broken else patience
        if fate == "lost_answer":
            self._arrives(out, request)
        elif fate == "late":
            self._arrives(wait + chance.uniform(0, LATEST), request)
        world.wait(wait)
        return (ConnectionClosedError if broken else ReadTimeoutError)(endpoint_url=_URL)

    def _arrives(self, seconds: float, request: _Request) -> None:
        self.settled = max(self.settled, self._world.now + seconds)
        self._world.after(seconds, self._arrive, request)

    def _way(self) -> float:
        return _SHORTEST + self._world.random.expovariate(1 / _MEAN)

    def _arrive(self, request: _Request) -> None:
        """Serve it. Of what a process had under way when it crashed, some never arrives, and some
        arrives late.
        """
        world, number = self._world, request.number
        if not request.process.alive and not request.settled:
            request.settled = True
            becomes = world.random.choice(("dropped", "served", "late"))
            if becomes == "dropped":
                world.log("dropped", number)
                return
            if becomes == "late":
                self._arrives(world.random.uniform(0, LATEST), request)
                return
        answer = request.answer = request.serve(number)
        self.bucket.positions[number] = len(self.bucket.journal)
        world.log("served", number, answer.status if isinstance(answer, Refusal) else 200)


def _client_error(refusal: Refusal, operation: str) -> ClientError:
    answer: Any = {
        "Error": {"Code": refusal.code, "Message": ""},
        "ResponseMetadata": {"HTTPStatusCode": refusal.status, "HTTPHeaders": {}},
    }
    return ClientError(answer, operation)
