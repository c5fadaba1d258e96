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

CONFIG = """
worker_processes 1; daemon off; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  map $http_upgrade $forwarded_connection {{ default upgrade; '' ''; }}
  upstream api {{ server {upstream}; keepalive 2; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://api; proxy_http_version 1.1; proxy_request_buffering off;
      proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $forwarded_connection;
    }}
  }}
}}
"""


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def nginx(folder: Path, upstream: str) -> Iterator[int]:
    """Run nginx before the service, and yield its port."""
    port = free_port()
    config = folder / "nginx.conf"
    config.write_text(CONFIG.format(folder=folder, upstream=upstream, port=port))
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
    with site.served() as url, nginx(tmp_path, url.removeprefix("http://")) as port:
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
