"""The commands of docs/reference/api.md run as they stand there."""

import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import iter_route_contexts
from stub_engine import SECRET, StubEngine

from services.metrics import PrometheusMetrics
from services.settings import ApiSettings

GUIDE = Path(__file__).parents[3] / "docs/reference/api.md"


def _commands() -> list[str]:
    found = re.findall(r"```bash\n(.*?)```", GUIDE.read_text(), re.S)
    assert len(found) > 5
    return found


def test_the_commands_of_the_guide_run(
    new_site: Any, tmp_path: Path, engine_at: tuple[StubEngine, str]
) -> None:
    site = new_site(
        settings=ApiSettings(event_poll_interval_s=0.05, engines_url=engine_at[1]),
        engine_secret=SECRET,
        metrics=PrometheusMetrics(process="api"),
    )
    (tmp_path / "rex.zip").write_bytes(b"images of rex")
    stopped = threading.Event()

    def work() -> None:
        while not stopped.is_set():
            site.work_off()
            site.generate_off()

    worker = threading.Thread(target=work)
    worker.start()
    try:
        with site.served() as url:
            access = {"DTI_SERVER": url, "DTI_API_KEY": site.keys["acme"]}
            done = subprocess.run(
                ["bash", "-xeuo", "pipefail", "-c", "\n".join(_commands())],
                cwd=tmp_path,
                env=os.environ | access,
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
    finally:
        stopped.set()
        worker.join()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "event: end" in done.stdout
    assert '"missing":0' in done.stdout
    assert '"action":"token.delete"' in done.stdout
    assert "dti_http_requests_total{" in done.stdout
    assert (tmp_path / "rex.safetensors").stat().st_size > 100
    assert "event: image_generation.completed" in done.stdout
    for name in ("linked.png", "mix.png", "bulk.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_the_guides_example_with_openais_client_runs(image_site: Any, tmp_path: Path) -> None:
    [code] = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.S)
    with image_site.served() as url:
        access = {"DTI_SERVER": url, "DTI_API_KEY": image_site.keys["acme"]}
        subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | access, check=True
        )
    assert {path.name for path in tmp_path.iterdir()} == {"rex-7.png", "rex-8.png"}


def test_the_guide_shows_every_route(site: Any) -> None:
    commands = "\n".join(_commands())
    for name, variable in (
        ("job", "JOB2"),
        ("job", "JOB"),
        ("token", "TOKEN"),
        ("sha256", "SHA"),
        ("image", "IMAGE"),
        ("model", "MODEL"),
        ("erasure", "ERASURE"),
    ):
        commands = commands.replace(f"/${variable}", f"/{{{name}}}")
    commands = commands.replace("/items/0", "/items/{index}")
    missing = [
        route.path
        for route in iter_route_contexts(site.app.routes)
        if route.path.startswith("/v1") and f"$DTI_SERVER{route.path}" not in commands
    ]
    assert missing == []


@pytest.mark.parametrize(
    "status", [400, 401, 403, 404, 405, 408, 409, 410, 413, 422, 429, 500, 503, 504]
)
def test_the_guide_explains_each_status(status: int) -> None:
    table = GUIDE.read_text().split("| status |")[1].split("\n\n")[0]
    assert str(status) in table
