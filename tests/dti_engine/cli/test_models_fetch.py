"""`dti models fetch` from a server that speaks as the hub does."""

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

COMMIT = "0123456789abcdef0123456789abcdef01234567"
INDEX = json.dumps({"_class_name": "StableDiffusionPipeline"}).encode()
WEIGHTS = bytes(range(256)) * 4096
FILES = {
    "model_index.json": INDEX,
    "unet/config.json": b"{}",
    "unet/diffusion_pytorch_model.safetensors": WEIGHTS,
    "unet/diffusion_pytorch_model.fp16.safetensors": b"half",
    "unet/diffusion_pytorch_model.bin": b"pickle",
    "v1-5-pruned.safetensors": b"everything again",
}
LOADED = list(FILES)[:3]


class Hub(ThreadingHTTPServer):
    """A hub with one model, `stable-diffusion-v1-5/stable-diffusion-v1-5`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.downloads: list[tuple[str, str]] = []
        """Files that were downloaded, each with the range that was asked for."""
        self.tokens: set[str] = set()
        self.cut = False
        """Whether connections break in the middle of the weights."""


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        self.server.tokens.add(self.headers.get("Authorization", ""))
        if self.path.startswith("/api/models/stable-diffusion-v1-5/stable-diffusion-v1-5"):
            if "/tree/" in self.path:
                tree = [
                    {"type": "file", "path": name, "size": len(body), "oid": "0" * 40}
                    for name, body in FILES.items()
                ]
                self._send(200, json.dumps(tree).encode())
                return
            siblings = [{"rfilename": name} for name in FILES]
            model = {"id": "stable-diffusion-v1-5/stable-diffusion-v1-5", "sha": COMMIT}
            self._send(200, json.dumps({**model, "siblings": siblings}).encode())
            return
        found = re.search(r"/resolve/[^/]+/(.+)$", self.path)
        if not found or found[1] not in FILES:
            self._send(404, b"")
            return
        body = FILES[found[1]]
        asked = self.headers.get("Range", "")
        start = int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0
        if with_body:
            self.server.downloads.append((found[1], asked))
        cut = self.server.cut and with_body and body is WEIGHTS
        self._send(206 if start else 200, body[start:], body, with_body, cut)

    def _send(
        self,
        status: int,
        body: bytes,
        whole: bytes = b"",
        with_body: bool = True,
        cut: bool = False,
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(whole).hexdigest()}"')
        if status == 206:
            first = len(whole) - len(body)
            self.send_header("Content-Range", f"bytes {first}-{len(whole) - 1}/{len(whole)}")
        self.end_headers()
        if with_body:
            self.wfile.write(body[: len(body) // 2] if cut else body)
        if cut:
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def fetch(hub: Hub, cache: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_address[1]}",
        "HF_HOME": str(cache),
        "HF_TOKEN": "hf_secret",
        "HF_HUB_DISABLE_XET": "1",
        "COLUMNS": "200",
    }
    code = "from dti_engine.cli.app import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, "models", "fetch", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_the_files_that_are_loaded_are_fetched_once_with_the_token(
    hub: Hub, tmp_path: Path
) -> None:
    done = fetch(hub, tmp_path, "sd15", "miniature", "--json")
    assert done.returncode == 0, done.stderr
    model, miniature = json.loads(done.stdout)
    assert model["bytes"] == sum(len(FILES[name]) for name in LOADED)
    for name in LOADED:
        assert (Path(model["folder"]) / name).read_bytes() == FILES[name]
    assert sorted({name for name, _ in hub.downloads}) == sorted(LOADED)
    assert "Bearer hf_secret" in hub.tokens
    assert miniature["name"] == "miniature"
    hub.downloads.clear()
    assert fetch(hub, tmp_path, "sd15").returncode == 0
    assert hub.downloads == [], "everything is there"


def test_an_interrupted_download_continues_with_the_file_at_which_it_stopped(
    hub: Hub, tmp_path: Path
) -> None:
    hub.cut = True
    done = fetch(hub, tmp_path, "sd15")
    assert done.returncode == 2
    assert "downloading it failed" in done.stderr
    hub.cut = False
    hub.downloads.clear()
    done = fetch(hub, tmp_path, "sd15")
    assert done.returncode == 0, done.stderr
    assert [name for name, _ in hub.downloads] == ["unet/diffusion_pytorch_model.safetensors"]


def test_unknown_names_are_refused_before_anything_is_fetched(hub: Hub, tmp_path: Path) -> None:
    done = fetch(hub, tmp_path, "sd15", "sdx")
    assert done.returncode == 2
    assert "'sdx' is no name of `dti models`" in done.stderr
    assert not hub.tokens
