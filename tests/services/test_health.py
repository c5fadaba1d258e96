"""Probes and metrics of a process that answers nothing else."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from services.errors import SettingsError
from services.health import Liveness, ProbeResponse, serve_pages


@contextmanager
def served(liveness: Liveness) -> Iterator[str]:
    def metrics() -> ProbeResponse:
        return ProbeResponse(200, "text/plain", b"dti_items 1")

    def broken() -> ProbeResponse:
        raise KeyError("seat")

    pages = {"/metrics": metrics, "/healthz": liveness.page, "/broken": broken}
    server = serve_pages(pages, 0, "127.0.0.1")
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_pages_are_served_at_a_port_of_their_own() -> None:
    with served(Liveness(10)) as url:
        answer = httpx.get(f"{url}/metrics")
        assert (answer.text, answer.headers["content-type"]) == ("dti_items 1", "text/plain")
        assert httpx.get(f"{url}/healthz").json() == {"status": "ok", "ages_s": {}}
        assert httpx.get(f"{url}/").status_code == 404


def test_a_process_with_a_loop_that_stands_still_is_not_healthy() -> None:
    now = 0.0
    liveness = Liveness(10, lambda: now)
    liveness.beat("one")
    liveness.beat("two")
    now = 8.0
    liveness.beat("one")
    with served(liveness) as url:
        answer = httpx.get(f"{url}/healthz")
        assert answer.status_code == 200
        assert answer.json() == {"status": "ok", "ages_s": {"one": 0, "two": 8}}
        now = 11.0
        answer = httpx.get(f"{url}/healthz")
        assert answer.status_code == 503
        assert answer.json() == {"status": "stalled", "ages_s": {"one": 3, "two": 11}}
    liveness.beat("two")
    assert json.loads(liveness.page().body)["status"] == "ok"


def test_a_port_that_is_taken_is_an_error_of_the_settings() -> None:
    with served(Liveness(10)) as url, pytest.raises(SettingsError, match="cannot listen on port"):
        serve_pages({}, int(url.rpartition(":")[2]), "127.0.0.1")


def test_the_error_of_a_page_is_logged_and_others_are_served(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with served(Liveness(10)) as url, caplog.at_level(logging.ERROR):
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.get(f"{url}/broken")
        assert httpx.get(f"{url}/healthz").status_code == 200
    (record,) = caplog.records
    assert "page failed" in record.getMessage()
    assert "KeyError: 'seat'" in caplog.text
    assert "KeyError" not in capsys.readouterr().err
