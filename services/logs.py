"""Logs on standard error: lines of JSON for machines, plain lines for a terminal.

    log = logs.logger(__name__)
    with logs.bound(job=job, item="7"):
        log.info("attempt started", slots=4)

An event is a short constant phrase, and what varies goes into fields. Bound ids stand in each line
that is written meanwhile, also by libraries, so that lines of several processes can be joined by
them; `ids()` is handed to another thread or process, which binds them again. Credentials are masked
wherever they stand, and what describes subjects and images is never written.

structlog renders the lines; the processors that mask and withhold are ours.
"""

import io
import json
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from types import TracebackType

import structlog
from structlog.contextvars import bound_contextvars, get_contextvars
from structlog.stdlib import BoundLogger, ProcessorFormatter
from structlog.typing import EventDict, WrappedLogger

try:
    import fcntl
except ImportError:  # Windows, where lines of several processes may be mixed
    fcntl = None

_TO_CONTAINER = "DTI_LOG_TO_CONTAINER"

_LOCK_TIMEOUT_S = 0.5
"""Time after which a line is written although another process holds the lock of the output."""

_FIELDS = "dti_fields"
"""The attribute of a logging.LogRecord that holds an event's fields."""

_RESERVED = frozenset({"time", "level", "process", "logger", "event", "exception"})
"""Every line has these by itself: a field of that name gets an underscore."""

_WITHHELD = re.compile(r"prompt|caption|secret|password|credential|authorization|cookie", re.I)
"""Names of fields whose values are never written."""

_SECRETS = re.compile(
    # An API key, whose id stays visible. No name in the code begins with so long a word.
    r"(dti_[a-z0-9]{12,}_)[A-Za-z0-9_-]+"
    r"|(whsec_)[A-Za-z0-9+/=_-]+"
    r"|(X-Amz-(?:Signature|Credential|Security-Token)=)[^&\s\"'\\]+"
)

_QUIET = ("botocore", "boto3", "s3transfer", "urllib3", "httpx", "httpcore")
"""Libraries that log each request with its URL, which can be a presigned one."""

_UVICORN = ("uvicorn", "uvicorn.error", "uvicorn.access")


def _to_record(_: WrappedLogger, method: str, event: EventDict) -> tuple[object, object]:
    """Hand an event to stdlib logging, so that it takes the way of what libraries log."""
    exc_info, text = event.pop("exc_info", None), event.pop("event")
    return (text,), {"exc_info": exc_info, "extra": {_FIELDS: event}}


structlog.configure(
    processors=[structlog.stdlib.filter_by_level, _to_record],
    logger_factory=structlog.stdlib.LoggerFactory(),
    wrapper_class=BoundLogger,
)


def logger(name: str) -> BoundLogger:
    """Return the logger of a module."""
    return structlog.stdlib.get_logger(name)


@contextmanager
def bound(**ids: str | int | None) -> Generator[None]:
    """Add these ids to each line that is written within; None is left out.

    It holds for this thread or task and for tasks that it starts; a new thread binds anew.
    """
    with bound_contextvars(
        **{name: str(value) for name, value in ids.items() if value is not None}
    ):
        yield


def ids() -> dict[str, str]:
    """Return the ids that are bound here, for `bound` in another thread or process."""
    return get_contextvars()


def configure(
    process: str, as_json: bool | None = None, level: str = "INFO", *, on_ray: bool = False
) -> None:
    """Write everything that this process logs to standard error, in one form.

    That includes what its libraries log and warn of, and the exception that it dies by.

    Args:
        process: which process of the service this is; a field of each line.
        as_json: None: JSON unless standard error is a terminal.
        level: the least level that is written.
        on_ray: whether Ray has started this process. Ray keeps standard error in a file; with
            `DTI_LOG_TO_CONTAINER=1` lines go to the output of `ray start` instead, which is that
            of its container.
    """
    in_json = not sys.stderr.isatty() if as_json is None else as_json
    wants_container = os.environ.get(_TO_CONTAINER, "0").lower() not in ("", "0", "false")
    output = _container_output() if on_ray and wants_container else None
    handler = logging.StreamHandler(output or sys.stderr)
    handler.setFormatter(
        ProcessorFormatter(
            foreign_pre_chain=[structlog.processors.format_exc_info],
            processors=[_Arrange(process), _render_json if in_json else _render_plain],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # uvicorn's own handlers would bypass this one: run it with log_config=None.
    for name in _UVICORN:
        server = logging.getLogger(name)
        server.handlers.clear()
        server.propagate = True
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)
    sys.excepthook = _log_death
    threading.excepthook = lambda args: _log_death(
        args.exc_type, args.exc_value, args.exc_traceback
    )


def _container_output() -> "_SharedOutput | None":
    """Return the standard output of the `ray start` that this process descends from, if any.

    It need not be process 1: the containers of a pod may share their processes.
    """
    pid = os.getpid()
    while pid:
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
            if _is_ray_start(command):
                # In append mode, because `ray start` writes there, too, and it may be a file.
                output = os.open(f"/proc/{pid}/fd/1", os.O_WRONLY | os.O_APPEND)
                return _SharedOutput(output)
            # The name, in brackets, may have spaces; the parent is the second field after it.
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            return None
    return None


class _SharedOutput(io.TextIOBase):
    """An output that several processes write to, each line as a whole.

    A pipe keeps a write of at most 4096 bytes together, and a line with a traceback is longer. So
    each process locks the pipe while it writes.
    """

    def __init__(self, output: int) -> None:
        super().__init__()
        self._output = output

    def write(self, text: str) -> int:
        line = text.encode("utf-8", "backslashreplace")
        is_locked = self._try_to_lock()
        try:
            while line:
                line = line[os.write(self._output, line) :]
        finally:
            if is_locked and fcntl:
                fcntl.flock(self._output, fcntl.LOCK_UN)
        return len(text)

    def _try_to_lock(self) -> bool:
        """Lock the output. A process that is suspended meanwhile must not silence all others."""
        if fcntl is None:
            return False
        deadline = time.monotonic() + _LOCK_TIMEOUT_S
        while time.monotonic() < deadline:
            try:
                fcntl.flock(self._output, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.001)
            except OSError:  # such as a file system without locks
                return False
            else:
                return True
        return False


def _is_ray_start(command: Sequence[str]) -> bool:
    """Return whether a command is `ray start`, or `python -m ray.scripts.scripts start`."""
    return any(
        word.rpartition("/")[2] in ("ray", "ray.scripts.scripts") and following == "start"
        for word, following in pairwise(command)
    )


class _Arrange:
    """A processor that puts all that a line says into its order, without what is withheld."""

    def __init__(self, process: str) -> None:
        self._process = process

    def __call__(self, _: WrappedLogger, method: str, event: EventDict) -> EventDict:
        record: logging.LogRecord = event["_record"]
        fields = {**get_contextvars(), **getattr(record, _FIELDS, {})}
        line = {
            "time": datetime.fromtimestamp(record.created, UTC),
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name,
            "event": event["event"],
        }
        for name, value in fields.items():
            name = f"{name}_" if name in _RESERVED else name
            line[name] = "(withheld)" if _WITHHELD.search(name) else value
        if "exception" in event:
            line["exception"] = event["exception"]
        return line


def _render_json(_: WrappedLogger, method: str, line: EventDict) -> str:
    line["time"] = line["time"].isoformat(timespec="milliseconds").replace("+00:00", "Z")
    # In ASCII, so that no text can break a line or fail to be written.
    try:
        text = json.dumps(line, default=str, allow_nan=False)
    except (TypeError, ValueError):  # a loss that is no number, keys that are no text
        text = json.dumps({name: str(value) for name, value in line.items()})
    return _mask(text)


def _render_plain(_: WrappedLogger, method: str, line: EventDict) -> str:
    fields = "".join(f" {name}={value}" for name, value in line.items() if name not in _RESERVED)
    head = f"{line['time'].astimezone():%H:%M:%S} {line['level'].upper():7} {line['process']}:"
    lines = [f"{head} {line['event']}{fields}", *line.get("exception", "").splitlines()]
    return _mask("\n    ".join(map(_printable, lines)))


def _printable(text: str) -> str:
    """Return a text without what a terminal would obey, in what its encoding can show."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    encoding = sys.stderr.encoding or "utf-8"
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def _mask(line: str) -> str:
    """Mask credentials wherever they stand in a line: in an event, a field, a traceback."""
    return _SECRETS.sub(lambda found: f"{''.join(filter(None, found.groups()))}***", line)


def _log_death(
    kind: type[BaseException], error: BaseException | None, trace: TracebackType | None
) -> None:
    if error is None or issubclass(kind, KeyboardInterrupt | SystemExit):
        return
    logging.getLogger("exceptions").critical("unhandled exception", exc_info=(kind, error, trace))
