"""What a process says on standard error: lines of JSON for machines, plain ones for a terminal.

    log = logs.logger(__name__)
    with logs.bound(job=job, item="7"):
        log.info("item begun", slots=4)

An event is a short constant phrase; what differs goes into fields. Ids that are bound stand in each
line that is written meanwhile, so that lines of several processes can be joined by them: `ids()` is
handed to another process, which binds them again. Credentials are masked wherever they stand, and
what subjects and images are described by is never logged.
"""

import json
import logging
import re
import sys
import threading
import traceback
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

_ids: ContextVar[Mapping[str, str]] = ContextVar("ids", default={})  # noqa: B039 (never changed)

_FIELDS = "dti_fields"
"""The attribute of a record that holds an event's fields."""

_TAKEN = frozenset({"time", "level", "process", "logger", "event", "exception"})
"""What each line says itself. A field of that name is given an underscore."""

_WITHHELD = re.compile(r"prompt|caption|secret|password|credential|authorization|cookie", re.I)
"""Fields whose values are never written."""

_SECRETS = re.compile(
    # An API key, whose id stays. No name that we give begins with so long a word.
    r"(dti_[a-z0-9]{12,}_)[A-Za-z0-9_-]+"
    r"|(whsec_)[A-Za-z0-9+/=_-]+"
    r"|(X-Amz-(?:Signature|Credential|Security-Token)=)[^&\s\"'\\]+"
)

_TALKATIVE = ("botocore", "boto3", "s3transfer", "urllib3", "httpx", "httpcore")
"""They log each request with its URL, which can be a presigned one."""

_SERVER = ("uvicorn", "uvicorn.error", "uvicorn.access")


class Logger:
    """Says events of one module."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, event: str, /, **fields: object) -> None:
        self._say(logging.DEBUG, event, fields)

    def info(self, event: str, /, **fields: object) -> None:
        self._say(logging.INFO, event, fields)

    def warning(self, event: str, /, **fields: object) -> None:
        self._say(logging.WARNING, event, fields)

    def error(self, event: str, /, **fields: object) -> None:
        self._say(logging.ERROR, event, fields)

    def exception(self, event: str, /, **fields: object) -> None:
        """An error with the exception that is being handled."""
        self._say(logging.ERROR, event, fields, exception=True)

    def _say(
        self, level: int, event: str, fields: dict[str, object], *, exception: bool = False
    ) -> None:
        if self._logger.isEnabledFor(level):
            # No arguments, so that a % in an event stays one.
            self._logger.log(level, event, exc_info=exception, extra={_FIELDS: fields})


def logger(name: str) -> Logger:
    """The logger of a module."""
    return Logger(name)


@contextmanager
def bound(**ids: str | int | None) -> Generator[None]:
    """These ids stand in each line that is written within; those that are None do not.

    It holds for this thread or task, and for tasks that it starts; a new thread binds anew.
    """
    given = {name: str(value) for name, value in ids.items() if value is not None}
    token = _ids.set({**_ids.get(), **given})
    try:
        yield
    finally:
        _ids.reset(token)


def ids() -> dict[str, str]:
    """The ids that are bound here: for `bound` in another thread or process."""
    return dict(_ids.get())


def configure(process: str, as_json: bool | None = None, level: str = "INFO") -> None:
    """Have all that this process logs written to standard error by this module, also what its
    libraries log, warn of, and die by. None: JSON unless standard error is a terminal.
    """
    lines = not sys.stderr.isatty() if as_json is None else as_json
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines(process) if lines else _PlainLines(process))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # What uvicorn sets up itself would go past all this: run it with log_config=None.
    for name in _SERVER:
        server = logging.getLogger(name)
        server.handlers.clear()
        server.propagate = True
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)
    sys.excepthook = _say_death
    threading.excepthook = lambda args: _say_death(
        args.exc_type, args.exc_value, args.exc_traceback
    )


class _Lines(logging.Formatter):
    """A record as one text, whatever is in it, without secrets."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        return _masked(self._line(record))

    def _line(self, record: logging.LogRecord) -> str:
        raise NotImplementedError

    def _fields(self, record: logging.LogRecord) -> dict[str, Any]:
        fields = {**_ids.get(), **getattr(record, _FIELDS, {})}
        return {
            f"{name}_" if name in _TAKEN else name: (
                "(withheld)" if _WITHHELD.search(name) else value
            )
            for name, value in fields.items()
        }


class _JsonLines(_Lines):
    def _line(self, record: logging.LogRecord) -> str:
        line = {
            "time": _time(record).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name,
            "event": record.getMessage(),
            **self._fields(record),
        }
        if exception := _exception(record):
            line["exception"] = exception
        # In ASCII, so that no text can break a line or fail to be written.
        try:
            return json.dumps(line, default=str, allow_nan=False)
        except (TypeError, ValueError):  # a loss that is no number, keys that are no text
            return json.dumps({name: str(value) for name, value in line.items()})


class _PlainLines(_Lines):
    def _line(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {name}={value}" for name, value in self._fields(record).items())
        said = f"{record.levelname:7} {self._process}: {record.getMessage()}{fields}"
        lines = [f"{_time(record).astimezone():%H:%M:%S} {said}", *_exception(record).splitlines()]
        return "\n    ".join(map(_printable, lines))


def _time(record: logging.LogRecord) -> datetime:
    return datetime.fromtimestamp(record.created, UTC)


def _exception(record: logging.LogRecord) -> str:
    if not record.exc_info or record.exc_info[1] is None:
        return ""
    return "".join(traceback.format_exception(record.exc_info[1])).rstrip()


def _printable(text: str) -> str:
    """Without what a terminal would obey, and in what any terminal can show."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    encoding = sys.stderr.encoding or "utf-8"
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def _masked(text: str) -> str:
    return _SECRETS.sub(lambda found: f"{''.join(filter(None, found.groups()))}***", text)


def _say_death(
    kind: type[BaseException], error: BaseException | None, trace: TracebackType | None
) -> None:
    if error is None or issubclass(kind, KeyboardInterrupt | SystemExit):
        return
    logging.getLogger("exceptions").critical(
        "nobody handled an exception", exc_info=(kind, error, trace)
    )
