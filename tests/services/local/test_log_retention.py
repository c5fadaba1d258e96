"""The logs of workers that remain when the service stops."""

import os
from pathlib import Path

import pytest

from services.local import service as local_service
from services.local.service import keep_logs


@pytest.fixture
def ray(tmp_path: Path) -> Path:
    """Return a folder as Ray leaves it after two starts of its node."""
    for number, session in enumerate(("session_1", "session_2")):
        logs = tmp_path / "ray" / session / "logs"
        (logs / "serve").mkdir(parents=True)
        (logs / f"worker-a{number}.err").write_text(f"said by {number}\n")
        (logs / f"worker-a{number}.out").touch()
        (logs / "raylet.out").write_text("of Ray itself\n")
        (logs / "serve" / f"replica_{number}.log").write_text("an engine\n")
    (tmp_path / "ray" / "session_latest").symlink_to(tmp_path / "ray" / "session_2")
    return tmp_path / "ray"


def names(folder: Path) -> list[str]:
    return sorted(log.name for log in folder.iterdir())


def test_the_logs_of_workers_and_engines_are_kept(ray: Path, tmp_path: Path) -> None:
    logs = tmp_path / "workers"
    keep_logs(ray, logs)
    assert names(logs) == ["replica_0.log", "replica_1.log", "worker-a0.err", "worker-a1.err"]
    assert (logs / "worker-a1.err").read_text() == "said by 1\n"


def test_of_a_long_log_the_end_is_kept(
    ray: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_service, "_MAX_LOG_BYTES", 100)
    log = ray / "session_2" / "logs" / "worker-long.err"
    log.write_text("".join(f"line {number}\n" for number in range(1000)))
    keep_logs(ray, tmp_path / "workers")
    lines = (tmp_path / "workers" / "worker-long.err").read_text().splitlines()
    assert lines[-1] == "line 999"
    assert 5 < len(lines) < 12
    assert all(line.startswith("line ") for line in lines), "half a line"


def test_the_oldest_go_when_there_are_too_many(
    ray: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = tmp_path / "workers"
    logs.mkdir()
    for number in range(9):  # of earlier runs
        log = logs / f"worker-old{number}.err"
        log.write_text("x" * 100)
        os.utime(log, (1000 + number, 1000 + number))
    monkeypatch.setattr(local_service, "_MAX_LOGS_BYTES", 400)
    keep_logs(ray, logs)
    assert names(logs)[:4] == ["replica_0.log", "replica_1.log", "worker-a0.err", "worker-a1.err"]
    assert names(logs)[4:] == ["worker-old6.err", "worker-old7.err", "worker-old8.err"]


def test_nothing_is_no_trouble(tmp_path: Path) -> None:
    keep_logs(tmp_path / "ray", tmp_path / "workers")
