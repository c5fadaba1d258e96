"""Starts, signals and the edges of threads, the same in every process of the service."""

import signal
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType

from dti_engine.errors import DTIError
from services import logs

log = logs.logger(__name__)

RETURN_FREED_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "262144",
    "MALLOC_TRIM_THRESHOLD_": "1000000",
}
"""The environment in which glibc gives large freed blocks back to the system, for the API.

By default, glibc keeps blocks of up to 32 MiB once one of that size was freed, and has an arena for
each of many threads, so that several times the memory of the images in use stays resident. It reads
these variables when a process starts.
"""


@contextmanager
def exit_on_error() -> Generator[None]:
    """Turn a foreseen error, such as a wrong setting, into one line and exit code 2."""
    try:
        yield
    except DTIError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error


def on_termination(action: Callable[[], object]) -> None:
    """Call `action` at SIGTERM and SIGINT instead of ending at once.

    After connecting to Ray, which installs handlers of its own.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        action()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)


@contextmanager
def error_boundary(
    event: str, on_error: Callable[[Exception], object] = lambda error: None, **fields: object
) -> Generator[None]:
    """Log any error of a thread with its traceback, and pass it to `on_error`.

    Without it, the error would end the thread, and the process would go on as if it was idle. The
    hook of `logs.configure` logs such an error, but can neither name the event nor tell another
    thread.

    Args:
        event: The log event.
        on_error: Called with the error, so that another thread can act on it. It must not raise.
        fields: More fields of the log event.
    """
    try:
        yield
    except Exception as error:
        log.exception(event, **fields)
        on_error(error)
