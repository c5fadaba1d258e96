"""The sandbox: a process without rights that unpacks or decodes strangers' bytes, from outside.

Decompressors and image decoders are C code that reads untrusted bytes. They run in a process with
an empty environment and limits, see `confinement`. What it answers is not trusted either: the bytes
may have taken it over.
"""

import json
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event, Timer
from types import TracebackType
from typing import IO, Literal, Self, TypeAlias

from dti_engine.errors import FailedError
from dti_engine.images.bundles import sandbox_process
from dti_engine.images.bundles.members import MAX_TEXT, BundleLimits, brief
from dti_engine.images.bundles.unpacking import Form

Outcome: TypeAlias = Literal["done", "rejected", "ended", "late", "crashed"]

_START_TIMEOUT_S = 60.0  # usually 0.1 s, but a busy machine may take long
_ROOT = Path(__file__).parents[3]  # the child imports this package from here
# Without the environment and the site module, Python would not find Pillow by itself.
_CODE = (
    "import json, sys; sys.path[:] = json.loads(sys.argv.pop()); "
    "from dti_engine.images.bundles.sandbox_process import main; main()"
)
_MAX_TEXT_BYTES = 4 * MAX_TEXT
_OUTCOMES: dict[bytes, Outcome] = {
    sandbox_process.DONE: "done",
    sandbox_process.REJECTED: "rejected",
    sandbox_process.ENDED: "ended",
}


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a request. After the outcomes `late` and `crashed` the process has ended."""

    outcome: Outcome
    body: bytes = b""
    size: tuple[int, int] = (0, 0)  # (width, height) of an image

    @property
    def reason(self) -> str:
        """The reason of a rejection."""
        return brief(self.body.decode("utf-8", "replace"))


class Sandbox:
    """A context manager that starts one confined process when it is needed. Not thread-safe."""

    def __init__(
        self,
        limits: BundleLimits,
        *,
        memory_bytes: int,
        timeout_s: float,
        processor_s: float,
        archive: IO[bytes] | None = None,
        form: Form | None = None,
    ) -> None:
        """Start nothing yet.

        memory_bytes: limit of its address space.
        timeout_s: longest time of a request.
        processor_s: longest processor time of all requests together.
        archive, form: open file to unpack; None decodes images.
        """
        self._limits, self._memory_bytes = limits, memory_bytes
        self._timeout_s, self._processor_s = timeout_s, processor_s
        self._archive, self._form = archive, form
        self._process: subprocess.Popen[bytes] | None = None
        self.missing: tuple[str, ...] = ()
        """The protections that this system lacks, once the process has started."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def request(
        self, kind: bytes, body: bytes = b"", *, max_bytes: int, timeout_s: float | None = None
    ) -> Reply:
        """Return the reply, of at most `max_bytes`; `timeout_s` replaces the usual one."""
        process = self.start()
        assert process.stdin
        assert process.stdout
        is_late = Event()

        def expire() -> None:
            is_late.set()
            process.kill()  # closes its pipes, which ends the blocking read below

        timer = Timer(self._timeout_s if timeout_s is None else timeout_s, expire)
        timer.start()
        try:
            # The child reads a whole request before it writes, so the two never block on full
            # pipes.
            process.stdin.write(sandbox_process.REQUEST.pack(kind, len(body)))
            process.stdin.write(body)
            process.stdin.flush()
            return _read_reply(process.stdout, max_bytes)
        except (OSError, EOFError):
            self.stop()
            return Reply("late" if is_late.is_set() else "crashed")
        finally:
            timer.cancel()
            timer.join()
            if is_late.is_set():  # the timer may have fired just after the reply
                self.stop()

    def start(self) -> subprocess.Popen[bytes]:
        """Return the process, started if needed.

        Raises: FailedError if it does not start, whatever the bytes.
        """
        if self._process:
            return self._process
        descriptor = self._archive.fileno() if self._archive and os.name == "posix" else None
        process = subprocess.Popen(
            [*self._command(), self._configuration(descriptor), json.dumps(_import_path())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # libraries write there about damaged files
            env=_environment(),
            pass_fds=() if descriptor is None else (descriptor,),
            start_new_session=True,  # Ctrl-C goes to the parent, which ends the child
        )
        self._process = process
        assert process.stdout
        timer = Timer(_START_TIMEOUT_S, process.kill)
        timer.start()
        try:
            missing = _read_reply(process.stdout, _MAX_TEXT_BYTES).reason
        except EOFError as error:
            self.stop()
            raise FailedError(
                "the process that reads images and archives does not start; is its memory limit "
                f"of {self._memory_bytes / 1e6:g} MB too low for this machine?"
            ) from error
        finally:
            timer.cancel()
            timer.join()
        self.missing = tuple(missing.split(", ")) if missing else ()
        return process

    @staticmethod
    def _command() -> list[str]:
        without_cache = ["-B"] if sys.dont_write_bytecode else []
        return [sys.executable, "-I", "-S", *without_cache, "-c", _CODE]

    def _configuration(self, descriptor: int | None) -> str:
        archive = descriptor
        if self._archive and descriptor is None:
            archive = os.path.abspath(self._archive.name)
        return json.dumps(
            {
                "limits": asdict(self._limits),
                "archive": archive,
                "form": self._form,
                "memory_bytes": self._memory_bytes,
                "timeout_s": self._timeout_s,
                "processor_s": int(self._processor_s) + 1,
            }
        )

    def stop(self) -> None:
        """End the process, if there is one."""
        if process := self._process:
            self._process = None
            process.kill()  # even an idle child has no state to lose
            process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe
                with suppress(OSError):  # flushing to a dead process fails
                    pipe.close()


def _import_path() -> list[str]:
    path = [os.path.abspath(entry) for entry in sys.path if entry]
    return path if str(_ROOT) in path else [str(_ROOT), *path]


def _environment() -> dict[str, str]:
    # Windows starts no Python without this one, which is no secret.
    return {name: os.environ[name] for name in ("SYSTEMROOT",) if name in os.environ}


def _read_reply(replies: IO[bytes], max_bytes: int) -> Reply:
    """Read a reply. Raises: EOFError if it is cut short, longer than allowed, or unknown."""
    header = _read(replies, sandbox_process.REPLY.size)
    status, width, height, size = sandbox_process.REPLY.unpack(header)
    outcome = _OUTCOMES.get(status)
    if outcome is None or size > (max_bytes if outcome == "done" else _MAX_TEXT_BYTES):
        raise EOFError
    return Reply(outcome, _read(replies, size), (width, height))


def _read(file: IO[bytes], size: int) -> bytes:
    """Read exactly `size` bytes. Raises: EOFError if the file ends before."""
    data = file.read(size)
    if len(data) < size:
        raise EOFError
    return data
