"""The standard error of real processes, as a collector of logs reads it."""

import fcntl
import json
import os
import pty
import re
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from services import logs

_TALKER = Path(__file__).with_name("talker.py")
_ROOT = Path(__file__).parents[2]
_SERVER = """
import logging.config
import uvicorn
from services import logs

async def app(scope, receive, send):
    assert scope["type"] == "http"
    if scope["path"] == "/breaks":
        raise RuntimeError("as asked")
    with logs.bound(request="req-1"):
        logs.logger("app").info("asked", path=scope["path"])
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})

# What `uvicorn` has set up when it imports an app.
logging.config.dictConfig(uvicorn.config.LOGGING_CONFIG)
logs.configure("api", as_json=True)
uvicorn.run(app, port=0, log_config=None, lifespan="off")
"""


def _talk(scene: str, form: str = "json") -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        [sys.executable, str(_TALKER), scene, form], capture_output=True, cwd=_ROOT, check=False
    )


def _lines(scene: str) -> list[dict[str, Any]]:
    done = _talk(scene)
    assert done.stdout == b""
    return [json.loads(line, parse_constant=pytest.fail) for line in done.stderr.splitlines()]


def test_each_line_is_an_event_with_its_fields_and_ids() -> None:
    full, slow, again = _lines("said")
    written = datetime.fromisoformat(full.pop("time"))
    assert abs(datetime.now(UTC) - written) < timedelta(minutes=5)
    assert full == {
        "level": "info",
        "process": "talker",
        "logger": "talker",
        "event": "pool is 100% full",
        "slots": 4,
        "loss": 0.5,
    }
    assert slow["level"] == "warning"
    assert {name: slow[name] for name in ("request", "job", "item", "steps")} == {
        "request": "req-1",
        "job": "job-1",
        "item": "7",
        "steps": {"done": 1},
    }
    assert "worker" not in slow
    # A field does not replace what each line has by itself.
    assert (again["level"], again["level_"], again["time_"]) == ("info", "mine", "mine")
    assert "request" not in again


def test_ids_are_handed_to_other_threads_and_processes() -> None:
    requests = {line["event"]: line.get("request") for line in _lines("threads")}
    assert requests == {
        "not handed on": None,
        "handed on": "req-1",
        "still here": "req-1",
        "gone": None,
    }


def test_ids_are_bound_until_the_end_of_a_block_even_if_it_breaks() -> None:
    def work() -> None:
        with logs.bound(job="a"), logs.bound(job="b", item=1):
            assert logs.ids() == {"job": "b", "item": "1"}
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert logs.ids() == {}


def test_no_text_breaks_a_line_of_json() -> None:
    hostile, number, keys = _lines("hostile")
    assert hostile["event"] == "line\nbreak \x1b[31m and \u2028 and \ud800"
    assert hostile["alias"] == "\r\nlevel=error \u202e"
    assert number["loss"] == "nan"
    assert keys["keys"] == "{(1, 2): 3}"


def test_no_text_breaks_a_plain_line_or_commands_a_terminal() -> None:
    text = _talk("hostile", "plain").stderr.decode()
    assert len(text.splitlines()) == 3
    assert r"line\nbreak \x1b[31m and \u2028 and \ud800 alias=\r\nlevel=error \u202e" in text


@pytest.mark.parametrize("form", ["json", "plain"])
def test_credentials_and_words_of_clients_are_not_written(form: str) -> None:
    text = _talk("secret", form).stderr.decode()
    for secret in ("s3cr3t", "MfKQ9r8G", "5e1f", "AK%2F1", "secret dog", "cat", "hush"):
        assert secret not in text, secret
    # Which key it was stays, wherever it stood: in an event, a field, within one, an exception.
    assert text.count("dti_abcdefghijklmn23_***") >= 4
    assert "X-Amz-Signature=***&X-Amz-Expires=60" in text
    assert text.count("(withheld)") == 4
    assert "dti_http_request_seconds_bucket" in text
    assert "DTI_S3_ENDPOINT" in text
    # Its requests are not for our logs, what it warns of is.
    assert "HTTP Request" not in text
    assert "slow https://s3" in text


def test_an_exception_is_one_field() -> None:
    failed, warned, thread, end = _lines("exceptions")
    assert (failed["event"], failed["level"], failed["pool"]) == ("it failed", "error", "sdxl")
    assert re.search(r"KeyError: 'inner'.*direct cause.*outer\nline$", failed["exception"], re.S)
    assert "DeprecationWarning: this is old" in warned["event"]
    assert thread["exception"].endswith("ZeroDivisionError: division by zero")
    assert (end["level"], end["process"]) == ("critical", "talker")
    assert end["exception"].endswith("SystemError: the end")
    assert _talk("exceptions").returncode == 1


def test_a_terminal_gets_lines_for_people() -> None:
    controller, terminal = pty.openpty()
    command = [sys.executable, str(_TALKER), "exceptions", "auto"]
    with subprocess.Popen(command, stderr=terminal, cwd=_ROOT):
        os.close(terminal)
        text = b""
        with suppress(OSError):  # once all that was written is read
            while True:
                text += os.read(controller, 1 << 16)
    os.close(controller)
    lines = text.decode().splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d ERROR   talker: it failed pool=sdxl", lines[0])
    assert lines[1] == "    Traceback (most recent call last):"


def test_output_that_is_no_terminal_gets_json() -> None:
    assert json.loads(_talk("said", "auto").stderr.splitlines()[0])["event"] == "pool is 100% full"


def test_uvicorn_writes_as_all_others_do() -> None:
    server = subprocess.Popen(
        [sys.executable, "-c", _SERVER], stderr=subprocess.PIPE, cwd=_ROOT, text=True
    )
    lines: list[dict[str, Any]] = []
    try:
        assert server.stderr is not None
        port = None
        while port is None:
            lines.append(json.loads(server.stderr.readline()))
            found = re.search(r"http://127.0.0.1:(\d+)", lines[-1]["event"])
            port = found and found[1]
        key = "dti_abcdefghijklmn23_" + "q" * 52
        urllib.request.urlopen(f"http://127.0.0.1:{port}/a?key={key}", timeout=30).close()
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/breaks", timeout=30)
        refused.value.close()
    finally:
        server.terminate()
        rest = server.communicate(timeout=30)[1]
    lines += [json.loads(line) for line in rest.splitlines()]
    assert {line["process"] for line in lines} == {"api"}
    records = {(line["logger"], line["event"]): line for line in lines}
    assert records["app", "asked"]["request"] == "req-1"
    access = [event for logger, event in records if logger == "uvicorn.access"]
    assert any("/a?key=dti_abcdefghijklmn23_***" in event and "204" in event for event in access)
    (broken,) = [line for line in lines if "exception" in line]
    assert broken["exception"].endswith("RuntimeError: as asked")


_ACTOR = """
from services import logs
logs.configure("worker", as_json=True, on_ray=True)
logs.logger("actor").info("claimed", slots=4)
"""
_RAYLET = """
import subprocess, sys
subprocess.run([sys.executable, "-c", sys.argv[1]], stdout=subprocess.DEVNULL, check=True)
"""
"""Starts the code it is given, as Ray starts an actor; keeps its errors in a file."""
_START = """
import subprocess, sys
with open(sys.argv[3], "w") as errors:
    subprocess.run([sys.executable, "-c", sys.argv[4], sys.argv[5]], stderr=errors, check=True)
"""


@pytest.mark.parametrize("words", [("/usr/bin/ray", "start"), ("ray.scripts.scripts", "start")])
@pytest.mark.parametrize("wanted", ["1", "0"])
def test_lines_of_an_actor_reach_the_output_of_ray_start_if_they_are_to(
    tmp_path: Path, words: tuple[str, str], wanted: str
) -> None:
    errors = tmp_path / "errors"
    done = subprocess.run(
        [sys.executable, "-c", _START, *words, errors, _RAYLET, _ACTOR],
        capture_output=True,
        text=True,
        cwd=_ROOT,
        env={**os.environ, "DTI_LOG_TO_CONTAINER": wanted},
        check=True,
    )
    there, elsewhere = done.stdout, errors.read_text()
    if wanted == "0":
        there, elsewhere = elsewhere, there
    assert json.loads(there)["event"] == "claimed"
    assert elsewhere == done.stderr == ""


def test_lines_of_an_actor_without_ray_start_go_to_standard_error() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _ACTOR],
        capture_output=True,
        text=True,
        cwd=_ROOT,
        env={**os.environ, "DTI_LOG_TO_CONTAINER": "1"},
        check=True,
    )
    assert json.loads(done.stderr)["event"] == "claimed"


_LONG_LINES = """
import os, sys
from services import logs
logs.configure("worker", as_json=True, on_ray=True)
ready, begin = map(int, sys.argv[1:])
os.write(ready, b".")
os.read(begin, 1)
for number in range(10):
    logs.logger("actor").info("failed", number=number, text="x" * 100_000)
"""
_START_THREE = """
import os, subprocess, sys
(waiting, ready), (begin, go) = os.pipe(), os.pipe()
command = [sys.executable, "-c", sys.argv[3], str(ready), str(begin)]
actors = [subprocess.Popen(command, pass_fds=(ready, begin)) for _ in range(3)]
for _ in actors:
    os.read(waiting, 1)
os.close(go)
sys.exit(sum(actor.wait() for actor in actors))
"""


def test_long_lines_of_several_actors_do_not_mix() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _START_THREE, "/usr/bin/ray", "start", _LONG_LINES],
        capture_output=True,
        cwd=_ROOT,
        env={**os.environ, "DTI_LOG_TO_CONTAINER": "1"},
        check=True,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert sorted(line["number"] for line in lines) == sorted([*range(10)] * 3)
    assert {len(line["text"]) for line in lines} == {100_000}


def test_an_actor_that_is_suspended_while_it_writes_does_not_silence_the_others() -> None:
    reading, writing = os.pipe()
    fcntl.flock(writing, fcntl.LOCK_EX)
    # An opening of its own, as other processes have: locks belong to openings.
    with open(f"/proc/self/fd/{writing}", "wb") as output:
        subprocess.run(
            [sys.executable, "-c", _START, "ray", "start", os.devnull, _RAYLET, _ACTOR],
            stdout=output,
            cwd=_ROOT,
            env={**os.environ, "DTI_LOG_TO_CONTAINER": "1"},
            check=True,
        )
    os.close(writing)
    with open(reading, "rb") as lines:
        assert json.loads(lines.read())["event"] == "claimed"
