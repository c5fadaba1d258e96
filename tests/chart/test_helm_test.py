"""The pod of `helm test`: what it asks of the API and which commands it runs."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from chart.rendering import CHART, ROOT, Chart

SCRIPT = CHART / "files/check_service.py"
DTI = """#!{python}
import pathlib, sys
with open({log!r}, "a") as log:
    print(" ".join(sys.argv[1:]), file=log)
output = sys.argv[sys.argv.index("--output") + 1] if "--output" in sys.argv else None
if sys.argv[1] == "submit":
    assert len(list(pathlib.Path(sys.argv[2]).glob("*.png"))) == 5
if sys.argv[1] == "generate":
    pathlib.Path(output).mkdir()
    (pathlib.Path(output) / "image.png").write_bytes(b"image")
if sys.argv[1:3] == ["keys", "create"]:
    print("the-key")
sys.exit({status} if sys.argv[1] == "submit" else 0)
"""


class Ready(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/readyz" else 404)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def api() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Ready)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def _run(folder: Path, *arguments: str, status: int = 0) -> tuple[int, list[str]]:
    """Run the script with a `dti` that only writes down its arguments."""
    log = folder / "log"
    log.touch()
    dti = folder / "dti"
    dti.write_text(DTI.format(python=sys.executable, log=str(log), status=status))
    dti.chmod(0o755)
    done = subprocess.run(
        [sys.executable, SCRIPT, *arguments],
        env=os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, log.read_text().splitlines()


def test_it_learns_a_drawn_subject_and_generates_an_image(api: str, tmp_path: Path) -> None:
    code, commands = _run(tmp_path, api, "miniature")
    assert code == 0
    assert [command.split()[0] for command in commands] == ["keys", "submit", "generate", "keys"]
    assert f"--model miniature --server {api} --wait" in commands[1]


def test_it_deletes_its_tenant_when_something_fails(api: str, tmp_path: Path) -> None:
    code, commands = _run(tmp_path, api, "miniature", status=1)
    assert code != 0
    assert commands[-1] == "keys delete-tenant helm-test --yes"


def test_it_only_asks_for_readiness_without_a_model(api: str, tmp_path: Path) -> None:
    assert _run(tmp_path, api) == (0, [])


def test_it_needs_neither_torch_nor_numpy() -> None:
    code = (
        "import sys; import dti_engine.miniature.world.subjects; "
        "sys.exit(bool({'torch', 'numpy', 'ray'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_the_pod_uses_the_image_of_the_api(chart: Chart) -> None:
    pod = chart.render().get("Pod", "-test")
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    (container,) = pod["spec"]["containers"]
    assert container["image"] == "dti-api:0.1.0"
    assert container["args"] == ["http://t-dti-api.prod:80", "miniature"]


@pytest.mark.parametrize("helm", ["helm", "helm3"])
def test_the_pod_stays_until_its_log_is_read(chart: Chart, helm: str) -> None:
    # Helm 3 deletes what succeeded before `helm test --logs` reads the log.
    rendered = chart.render(helm=helm)
    for each in (rendered.get("Pod", "-test"), rendered.get("ConfigMap", "-test")):
        assert each["metadata"]["annotations"]["helm.sh/hook-delete-policy"] == (
            "before-hook-creation"
        )


def test_a_failed_check_of_the_store_prints_its_log(chart: Chart) -> None:
    annotations = chart.render().get("Job", "-store-check")["metadata"]["annotations"]
    assert annotations["helm.sh/hook-output-log-policy"] == "hook-failed"
