"""Server-sent events, as the HTML standard has them (section 9.2.6): lines of an endless answer."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_MAX_EVENT = 50_000_000  # characters; no sound server says as much at once


@dataclass(frozen=True, slots=True)
class Event:
    """One of them. A comment, by which a server says that it is there, has no name and no data."""

    name: str
    data: str


def events(pieces: Iterable[str]) -> Iterator[Event]:
    """The events in pieces of text that break anywhere. One that is cut off at the end is dropped.

    Raises: ValueError of one without an end.
    """
    name, data, size = "", list[str](), 0
    for line in _lines(pieces):
        size += len(line)
        if size > _MAX_EVENT:
            raise ValueError(f"an event of more than {_MAX_EVENT} characters")
        if not line:
            if data:
                yield Event(name or "message", "\n".join(data))
            name, data, size = "", [], 0
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match field:
            case "":
                yield Event("", "")
            case "event":
                name = value
            case "data":
                data.append(value)
            case _:
                pass  # id and retry: whoever comes again is told all anew


def _lines(pieces: Iterable[str]) -> Iterator[str]:
    r"""Lines that end in \n, \r\n or \r, and in nothing else that Unicode takes for an end."""
    rest, after_return = "", False
    for piece in pieces:
        if after_return:
            piece = piece.removeprefix("\n")
        elif not piece:
            continue
        after_return = piece.endswith("\r")
        *ended, last = piece.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        for line in ended:
            yield rest + line
            rest = ""
        rest += last
        if len(rest) > _MAX_EVENT:
            raise ValueError(f"a line of more than {_MAX_EVENT} characters")
