"""The simulated network: requests on their way to the server and back, and their faults."""

from collections.abc import Callable
from typing import Any

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    ReadTimeoutError,
)

from chaos.simulation.bucket import Bucket, ErrorResponse
from chaos.simulation.nemesis import DELAYS_S, MAX_DELAY_S, PAUSES_S, Faults, Kind
from chaos.simulation.process import Process

Serve = Callable[[int], dict[str, Any] | ErrorResponse]
"""Serves a request, given its number, at one instant."""

_URL = "http://simulated"

_SHORTEST = 0.002
_MEAN = 0.01
"""Time of one way in seconds: at least, and on average beyond that."""

_ANSWERED = {
    "error_before": ErrorResponse(500, "InternalError"),
    "error_after": ErrorResponse(500, "InternalError"),
    "unavailable": ErrorResponse(503, "SlowDown"),
    "conflict": ErrorResponse(409, "ConditionalRequestConflict"),
}
_NOT_SERVED = ("error_before", "unavailable", "conflict")


class _Request:
    """One request, and its answer once it was served."""

    __slots__ = ("answer", "number", "process", "serve", "settled")

    def __init__(self, number: int, process: Process, serve: Serve) -> None:
        self.number = number
        self.process = process
        self.serve = serve
        self.answer: dict[str, Any] | ErrorResponse = {}
        self.settled = False


class Network:
    """Connects the processes with a bucket. Time-outs are by the host's clock."""

    def __init__(self, bucket: Bucket, faults: Faults) -> None:
        self.bucket = bucket
        self.faults = faults
        self.settled = 0.0
        """Virtual time by which everything under way has arrived."""
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
        """Send a request and return the answer.

        timeouts: seconds that the client waits for a connection, and for an answer.

        Raises: ClientError for a refusal, or what botocore raises when no answer comes.
        """
        world, rng = self._world, self._world.random
        task = world.task()
        fault = self._draw_fault(kind)
        paused_after = False
        if fault == "pause":
            fault, paused_after = "", rng.random() < 0.5
            if not paused_after:
                world.pause(process, rng.uniform(*PAUSES_S))
        number = self.bucket.number()
        if task.requests is not None:
            task.requests.append(number)
        world.log("send", number, operation, key, fault)
        answer = self._transmit(_Request(number, process, serve), fault, timeouts)
        if paused_after:
            world.pause(process, rng.uniform(*PAUSES_S))
        if isinstance(answer, BotoCoreError):
            world.log("lost", number, type(answer).__name__)
            raise answer
        if isinstance(answer, ErrorResponse):
            world.log("refused", number, answer.status)
            raise _client_error(answer, operation)
        world.log("answered", number)
        return answer

    def _draw_fault(self, kind: Kind) -> str:
        table = self._tables[kind]
        if not table or self._world.now >= self.faults.until:
            return ""
        drawn = self._world.random.random()
        if drawn >= table[-1][0]:
            return ""
        return next(name for bound, name in table if drawn < bound)

    def _transmit(
        self, request: _Request, fault: str, timeouts: tuple[float, float]
    ) -> dict[str, Any] | ErrorResponse | BotoCoreError:
        world, rng, process = self._world, self._world.random, request.process
        out, back = self._transit_s(), self._transit_s()
        if not fault:
            pass
        elif fault == "unsent":
            world.wait(timeouts[0] / process.rate)
            return ConnectTimeoutError(endpoint_url=_URL)
        elif fault in ("slow", "slow_listing"):
            delay = rng.uniform(*DELAYS_S)
            out, back = (out + delay, back) if rng.random() < 0.5 else (out, back + delay)
        elif fault == "twice":
            self._deliver_after(out, request)
            out += self._transit_s()
        elif fault == "crash":
            moment = rng.choice(("before", "under way", "applied"))
            if moment == "before":
                world.crash(process)
            crash = rng.uniform(0, out) if moment == "under way" else out + back / 2
            world.after(crash, world.crash, process)
        timeout_s = timeouts[1] / process.rate
        if fault in ("lost_request", "lost_answer", "late"):
            return self._lose_message(request, fault, out, timeout_s)
        if fault not in _NOT_SERVED:
            self._deliver_after(out, request)
        # The server has served it all the same: the client cannot know.
        if out + back > timeout_s:
            world.wait(timeout_s)
            return ReadTimeoutError(endpoint_url=_URL)
        world.wait(out + back)
        return _ANSWERED.get(fault) or request.answer

    def _lose_message(
        self, request: _Request, fault: str, out: float, timeout_s: float
    ) -> BotoCoreError:
        world, rng = self._world, self._world.random
        # Either a time-out, or what a proxy or a restarted server does: the connection breaks.
        broken = rng.random() < 0.5
        wait = min(out + self._transit_s() + rng.uniform(0, 1), timeout_s) if broken else timeout_s
        if fault == "lost_answer":
            self._deliver_after(out, request)
        elif fault == "late":
            self._deliver_after(wait + rng.uniform(0, MAX_DELAY_S), request)
        world.wait(wait)
        return (ConnectionClosedError if broken else ReadTimeoutError)(endpoint_url=_URL)

    def _deliver_after(self, seconds: float, request: _Request) -> None:
        self.settled = max(self.settled, self._world.now + seconds)
        self._world.after(seconds, self._deliver, request)

    def _transit_s(self) -> float:
        return _SHORTEST + self._world.random.expovariate(1 / _MEAN)

    def _deliver(self, request: _Request) -> None:
        """Serve a request.

        Requests that a process had under way when it crashed may never arrive, or late.
        """
        world, number = self._world, request.number
        # Once only, so that a request that is late does not stay under way for ever.
        if not request.process.alive and not request.settled:
            request.settled = True
            fate = world.random.choice(("dropped", "served", "late"))
            if fate == "dropped":
                world.log("dropped", number)
                return
            if fate == "late":
                self._deliver_after(world.random.uniform(0, MAX_DELAY_S), request)
                return
        answer = request.answer = request.serve(number)
        self.bucket.positions[number] = len(self.bucket.journal)
        world.log("served", number, answer.status if isinstance(answer, ErrorResponse) else 200)


def _client_error(error: ErrorResponse, operation: str) -> ClientError:
    answer: Any = {
        "Error": {"Code": error.code, "Message": ""},
        "ResponseMetadata": {"HTTPStatusCode": error.status, "HTTPHeaders": {}},
    }
    return ClientError(answer, operation)
