"""Server-sent events, however they are cut into pieces."""

import json

import pytest

from services.client.sse import Event, events

TEXT = (
    'event: job\ndata: {"a": 1}\n\n'
    ": still here\n\n"
    "event: progress\r\ndata: one\r\ndata:  two\r\n\r\n"
    "data: \u2028\u0085\x0b plain\rid: 7\rretry: 5\r\r"
    "event: empty\n\n"
    "event: end\ndata:x\n\n"
    "event: cut\ndata: off"
)
MEANT = [
    Event("job", json.dumps({"a": 1})),
    Event("", ""),
    Event("progress", "one\n two"),
    Event("message", "\u2028\u0085\x0b plain"),
    Event("end", "x"),
]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 1000])
def test_events_are_read_from_pieces_of_any_size(size: int) -> None:
    pieces = [TEXT[at : at + size] for at in range(0, len(TEXT), size)]
    assert list(events(pieces)) == MEANT


def test_a_return_at_the_end_of_a_piece_may_be_followed_by_its_newline_or_by_nothing() -> None:
    assert list(events(["data: a\r", "\n\r", "\ndata: b\r", "\r"])) == [
        Event("message", "a"),
        Event("message", "b"),
    ]


def test_an_event_without_an_end_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.client.sse._MAX_EVENT", 100)
    with pytest.raises(ValueError, match="more than 100"):
        list(events("x" for _ in range(1000)))
    with pytest.raises(ValueError, match="more than 100"):
        list(events("data: x\n" for _ in range(1000)))
    assert len(list(events(": here\n\n" for _ in range(1000)))) == 1000
