"""`python -m services.api` as a process: start, help, invalid settings, and shutdown."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from services.auth.keys import create_key
from services.settings import ApiSettings
from services.storage.directory import DirectoryStore


@contextmanager
def _process(*arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "services.api", *arguments],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _url(process: subprocess.Popen[str]) -> str:
    assert process.stderr
    for line in process.stderr:
        if found := re.search(r"http://127\.0\.0\.1:\d+", line):
            return found[0]
    raise AssertionError("it never listened")


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_process_serves_a_store_and_ends_streams_on_a_signal(
    tmp_path: Path, number: signal.Signals
) -> None:
    key = create_key(DirectoryStore(tmp_path), "acme").credential
    headers = {"Authorization": f"Bearer {key}", "Idempotency-Key": "one"}
    order = {"subjects": [{"id": "rex", "bundle": "0" * 64}]}
    with _process("--store", str(tmp_path), "--port", "0") as process:
        url = _url(process)
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        assert httpx.get(f"{url}/readyz").status_code == 200
        response = httpx.post(f"{url}/v1/training-jobs", json=order, headers=headers)
        assert response.status_code == 202
        events = f"{url}{response.headers['Location']}/events"
        with httpx.stream("GET", events, headers=headers, timeout=20) as answer:
            lines = answer.iter_lines()
            assert next(lines) == "event: job"
            process.send_signal(number)
            list(lines)  # To the end: a connection that is cut raises.
        # As it ends who was stopped by that signal.
        assert process.wait(20) in (-number, 128 + number)


def test_invalid_settings_end_the_process_with_an_explanation(tmp_path: Path) -> None:
    for arguments, environment, words in (
        (["--store", "ftp://x"], {}, "no kind of store"),
        (
            ["--store", str(tmp_path)],
            {"DTI_EVENT_POLL_INTERVAL_S": "0"},
            "DTI_EVENT_POLL_INTERVAL_S is '0'",
        ),
        (["--store", str(tmp_path), "--models", str(tmp_path / "x")], {}, "cannot read"),
        ([], {}, "store"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "services.api", *arguments],
            env=os.environ | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert words in done.stderr.replace("\n", " ")


def test_help_has_every_setting() -> None:
    done: Any = subprocess.run(
        [sys.executable, "-m", "services.api", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"COLUMNS": "120"},
    )
    for name in ApiSettings.model_fields:
        assert f"DTI_{name.upper()}" in done.stdout
    assert "DTI_STORE" in done.stdout
