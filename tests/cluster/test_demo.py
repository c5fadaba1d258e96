"""The demo of the service, with few steps: from nothing to a page, and to an end by Ctrl-C."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from .conftest import SECONDS

pytestmark = pytest.mark.ray

_COMMAND = [
    *(sys.executable, "-c", "from services.cli_app import main; main()", "demo-service"),
    *("--steps", "6", "--generation-steps", "3", "--output"),
]


def test_the_demo_learns_generates_and_shows_what_came_of_it(tmp_path: Path) -> None:
    output = tmp_path / "out"
    done = subprocess.run(
        [*_COMMAND, str(output)], capture_output=True, text=True, timeout=3 * SECONDS, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((output / "results.json").read_text())
    assert found["counts"] == {"subjects": 4, "images": 4 * 6 + 2 * 7}
    assert all(0 <= each["subject_score"] <= 1 for each in found["means"].values())
    assert all(each["token"].startswith("tok_") for each in found["subjects"])
    assert found["settings"]["training steps"] == 6
    assert {"learn 4 subjects", "start the service"} <= found["seconds"].keys()
    for figure in found["figures"]:
        assert f"{figure['value']}  {figure['words']}" in done.stdout
    assert "38  images generated" in done.stdout
    assert "gallery.html" in done.stdout

    page = (output / "gallery.html").read_text()
    assert page.count("data:image/png;base64,") == 4 * (5 + 6) + 2 * 7
    assert not re.search(r'(src|href)="(?!data:)', page)
    images = [*output.glob("images/*.png"), *output.glob("blends/*.png")]
    assert len(images) == 38
    for path in images:
        with Image.open(path) as image:
            assert image.size == (64, 64)


def test_ctrl_c_stops_the_service_and_keeps_what_there_is(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with subprocess.Popen(
        [*_COMMAND, str(output)],
        env=os.environ,
        stderr=subprocess.PIPE,
        text=True,
        # Shells start what runs in the background with SIGINT ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        assert process.stderr
        for line in process.stderr:
            if "learn 4 subjects" in line:
                break
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(SECONDS) == 130, rest
    assert "stop the service" in rest
    assert "interrupted; the service is stopped" in rest
    assert "Traceback" not in rest
    (store,) = output.glob("store-*")
    end = time.monotonic() + 30
    while (left := _using(store)) and time.monotonic() < end:
        time.sleep(0.5)
    assert left == []


def _using(store: Path) -> list[str]:
    """Return processes that were given this store."""
    found: list[str] = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if str(store) in line:
            found.append(line)
    return found
