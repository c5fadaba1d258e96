"""The service behind nginx with kept connections: a body is never taken for a request."""

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import which
from typing import Any

import pytest

from services.local.service import free_port

NGINX = which("nginx") or which("nginx", path="/usr/sbin")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(NGINX is None, reason="nginx is not installed"),
]

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "behind-a-proxy.md"

CONFIG = """
worker_processes 1; daemon off; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  map $http_upgrade $forwarded_connection {{ default upgrade; '' ''; }}
  {block}
}}
"""

NO_UPGRADE = 'proxy_set_header Connection "";'
UPGRADE = (
    "proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $forwarded_connection;"
)


def documented_block(upstream: str, port: int, *, passes_upgrade: bool) -> str:
    """Return the configuration of the page, with the addresses of this test."""
    block = PAGE.read_text().partition("```nginx\n")[2].partition("```")[0]
    changes = {"127.0.0.1:8000": upstream, "listen 80;": f"listen 127.0.0.1:{port};"}
    if passes_upgrade:
        changes |= {NO_UPGRADE: UPGRADE, "keepalive 16;": "keepalive 2;"}
    for old, new in changes.items():
        assert block.count(old) == 1, old
        block = block.replace(old, new)
    return block


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def nginx(folder: Path, upstream: str, *, passes_upgrade: bool = False) -> Iterator[int]:
    """Run nginx before the service, and yield its port."""
    port = free_port()
    config = folder / "nginx.conf"
    block = documented_block(upstream, port, passes_upgrade=passes_upgrade)
    config.write_text(CONFIG.format(folder=folder, block=block))
    command = [str(NGINX), "-p", str(folder), "-c", str(config)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            end = time.monotonic() + 10
            while not is_listening(port):
                assert time.monotonic() < end, (folder / "error.log").read_text()
                time.sleep(0.05)
            yield port
        finally:
            process.terminate()


def test_no_body_becomes_a_request_of_another_client(site: Any, parts: Any, tmp_path: Path) -> None:
    deletion = f"DELETE /v1/uploads/{site.upload(b'image')} HTTP/1.1\r\nHost: a\r\nX: "
    attack = (
        "POST /healthz HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: foo\r\n"
        f"Content-Length: {len(deletion)}\r\n\r\n"
    )
    wrong: list[int] = []
    with (
        site.served() as url,
        nginx(tmp_path, url.removeprefix("http://"), passes_upgrade=True) as port,
    ):
        limits = parts.http.Limits(max_keepalive_connections=1)
        with parts.http.Client(headers=site.headers(), limits=limits, timeout=10) as victim:
            for _ in range(1000):
                with socket.create_connection(("127.0.0.1", port)) as attacker:
                    attacker.sendall(attack.encode())
                    attacker.sendall(deletion.encode())
                    answer = victim.get(f"http://127.0.0.1:{port}/v1/models")
                if answer.status_code != 200 or "data" not in answer.json():
                    wrong.append(answer.status_code)
    assert wrong == []
    assert site.get(f"/v1/uploads/{parts.sha256('image')}").status_code == 200


def test_the_documented_configuration_serves_uploads_and_links(
    site: Any, parts: Any, tmp_path: Path
) -> None:
    body = "x" * 2_000_000  # more than nginx takes by default
    with site.served() as url, nginx(tmp_path, url.removeprefix("http://")) as port:
        base = f"http://127.0.0.1:{port}"
        with parts.http.Client(base_url=base, headers=site.headers(), timeout=10) as client:
            upload = client.put(f"/v1/uploads/{parts.sha256(body)}", content=body.encode())
            assert upload.status_code == 201, upload.text
            assert client.get("/v1/models").status_code == 200
            slash = client.get("/v1/models/", follow_redirects=True)
            assert slash.status_code == 200
