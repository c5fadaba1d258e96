"""What every process of the service does at its start: report errors, and listen for signals."""

import signal
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType

from dti_engine.errors import DTIError


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
