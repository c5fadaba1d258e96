"""The clock of a directory store, while the time of day of its host jumps."""

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from services.storage import directory_clock
from services.storage.directory import DirectoryStore
from services.storage.directory_clock import DirectoryClock

_HOUR_S = 3600.0

needs_boot_id = pytest.mark.skipif(
    not directory_clock._BOOT_ID.exists(), reason="this system has no boot id"
)


@pytest.fixture
def jump(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Return a function that moves the host's time of day, as this process sees it."""
    honest, honest_ns, moved = time.time, time.time_ns, [0.0]
    monkeypatch.setattr(time, "time", lambda: honest() + moved[0])
    monkeypatch.setattr(time, "time_ns", lambda: honest_ns() + int(moved[0] * 1e9))

    def move(seconds: float) -> None:
        moved[0] += seconds

    return move


def _other_boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, boot_id: str = "other") -> None:
    (tmp_path / boot_id).write_text(f"{boot_id}\n")
    monkeypatch.setattr(directory_clock, "_BOOT_ID", tmp_path / boot_id)


@needs_boot_id
@pytest.mark.parametrize("seconds", [-_HOUR_S, _HOUR_S])
def test_ages_stay_right_when_the_time_of_day_jumps(
    tmp_path: Path, jump: Callable[[float], None], seconds: float
) -> None:
    store = DirectoryStore(tmp_path / "store")
    store.create("before", b"")
    jump(seconds)
    other = DirectoryStore(tmp_path / "store")
    other.create("after", b"")
    for each in (store, other):
        for head in (*each.list().objects, each.head("before"), each.read("after").head):
            assert 0 <= head.age.total_seconds() < 60
            # Shown times are those of the calendar that the host has now.
            assert abs((head.date - datetime.fromtimestamp(time.time(), UTC)).total_seconds()) < 60


@needs_boot_id
def test_all_processes_of_a_boot_share_one_clock(
    tmp_path: Path, jump: Callable[[float], None]
) -> None:
    first = DirectoryClock(tmp_path / "clocks")
    jump(_HOUR_S)
    second = DirectoryClock(tmp_path / "clocks")
    assert abs(second.now_ns() - first.now_ns()) < 60e9
    assert len(list((tmp_path / "clocks").iterdir())) == 1


def test_a_boot_begins_with_the_time_of_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: Callable[[float], None]
) -> None:
    DirectoryStore(tmp_path / "store").create("a", b"")
    jump(_HOUR_S)
    _other_boot(tmp_path, monkeypatch)
    age_s = DirectoryStore(tmp_path / "store").head("a").age.total_seconds()
    assert abs(age_s - _HOUR_S) < 60


@needs_boot_id
def test_a_time_that_has_not_come_is_that_of_an_earlier_boot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dead worker's lease from a boot whose time was ahead must not stand until then."""
    DirectoryStore(tmp_path / "store").create("a", b"")
    (file,) = (tmp_path / "store/objects/a=").iterdir()
    os.utime(file, (time.time() + _HOUR_S,) * 2)
    boottime_ns = directory_clock._boottime_ns
    monkeypatch.setattr(directory_clock, "_boottime_ns", lambda: boottime_ns() + 90_000_000_000)
    age_s = DirectoryStore(tmp_path / "store").head("a").age.total_seconds()
    assert 90 <= age_s < 150


def test_without_a_boot_id_the_clock_is_the_time_of_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: Callable[[float], None]
) -> None:
    monkeypatch.setattr(directory_clock, "_BOOT_ID", tmp_path / "absent")
    store = DirectoryStore(tmp_path / "store")
    store.create("a", b"")
    jump(_HOUR_S)
    assert abs(store.head("a").age.total_seconds() - _HOUR_S) < 60
    assert not (tmp_path / "store/clocks").exists()


@needs_boot_id
def test_a_jump_makes_no_file_of_a_living_writer_look_abandoned(
    tmp_path: Path, jump: Callable[[float], None]
) -> None:
    store = DirectoryStore(tmp_path / "store")
    with store._file(b"bytes") as file:
        os.utime(file, (time.time(),) * 2)
        jump(2 * _HOUR_S)
        DirectoryStore(tmp_path / "store")
        assert file.read_bytes() == b"bytes"
