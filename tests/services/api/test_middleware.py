"""The middleware: request ids, keys, rates and sizes; every error is a problem."""

import json
import logging
import sys
import threading
from typing import Any

import pytest

from dti_engine.errors import DTIError
from services import logs
from services.api.problems import PROBLEM_TYPES, problem_type_of
from services.errors import (
    AccessDeniedError,
    OutcomeUnknownError,
    ServiceError,
    UnavailableError,
)
from services.metrics import PrometheusMetrics
from services.settings import ApiSettings


def _is_problem(answer: Any, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert problem["request"] == answer.headers["X-Request-Id"]
    assert problem["type"].startswith("urn:dti:problem:")
    assert problem["title"]
    assert problem["detail"]
    return problem


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/v1/nothing", 404),
        ("DELETE", "/v1/training-jobs", 405),
        ("PATCH", "/healthz", 405),
        ("GET", "/v1/training-jobs/x", 404),
        ("GET", "/v1/training-jobs?limit=x", 422),
        ("POST", "/v1/training-jobs", 400),
    ],
)
def test_every_error_is_a_problem(site: Any, method: str, path: str, status: int) -> None:
    _is_problem(site.ask(method, path), status)


def test_unknown_paths_require_a_key(site: Any) -> None:
    _is_problem(site.get("/v1/nothing", None), 401)
    _is_problem(site.get("/v1", None), 401)


@pytest.mark.parametrize(
    "credential",
    ["", "Bearer", "Bearer ", "Basic abc", "Bearer x", "Bearer dti_a_b", "bearer \xe9"],
)
def test_an_invalid_credential_is_refused(site: Any, credential: str) -> None:
    headers = {"Authorization": credential.encode("latin-1")}
    problem = _is_problem(site.client.get("/v1/audit", headers=headers), 401)
    assert "Authorization: Bearer" in problem["detail"]


def test_the_request_id_is_the_clients_or_a_new_one(site: Any) -> None:
    own = site.get("/healthz").headers["X-Request-Id"]
    assert own != site.get("/healthz").headers["X-Request-Id"]
    for request_id, is_kept in (("abc-1", True), ("a b", False), ("x" * 65, False), ("", False)):
        answer = site.get("/v1/training-jobs/x", headers={"X-Request-Id": request_id})
        assert (answer.headers["X-Request-Id"] == request_id) is is_kept
        assert answer.json()["request"] == answer.headers["X-Request-Id"]


def test_too_many_requests_get_retry_after(site: Any) -> None:
    site.limit("acme", requests_per_second=0.1, burst=2)
    site.get("/v1/audit")
    answers = [site.get("/v1/audit") for _ in range(2)]
    problem = _is_problem(answers[-1], 429)
    assert problem["type"] == "urn:dti:problem:limit-exceeded"
    assert 1 <= int(answers[-1].headers["Retry-After"]) <= 10
    assert site.get("/v1/audit", "other").status_code == 200
    assert site.get("/healthz").status_code == 200


def test_large_bodies_are_refused_with_and_without_content_length(new_site: Any) -> None:
    site = new_site(settings=ApiSettings(max_body_bytes=100))
    headers = {"Idempotency-Key": "one", "Content-Type": "application/json"}
    for path in ("/v1/training-jobs", "/v1/uploads"):
        for body in (b"x" * 101, iter([b"x" * 60, b"x" * 60])):
            _is_problem(site.ask("POST", path, content=body, headers=headers), 413)
    assert site.submit({"subjects": []}).status_code == 422


def test_an_unavailable_store_is_a_503(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    site.get("/v1/audit")

    def fail(*_: Any, **__: Any) -> Any:
        raise OutcomeUnknownError("writing 't/acme/secret' timed out")

    for name in ("read", "list", "head", "create"):
        monkeypatch.setattr(site.store, name, fail)
    for answer in (site.get("/v1/training-jobs"), site.get("/readyz")):
        problem = _is_problem(answer, 503)
        assert "secret" not in problem["detail"]
        assert answer.headers["Retry-After"]
    assert site.get("/healthz").status_code == 200


def test_an_internal_error_is_logged_and_shows_no_details(
    site: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("secret")

    site.get("/v1/audit")
    monkeypatch.setattr(site.store, "list", fail)
    answer = site.get("/v1/training-jobs")
    problem = _is_problem(answer, 500)
    assert "secret" not in json.dumps(problem)
    assert "RuntimeError: secret" in caplog.text
    monkeypatch.setattr(
        site.store, "list", lambda *_, **__: (_ for _ in ()).throw(AccessDeniedError("secret"))
    )
    assert "secret" not in json.dumps(_is_problem(site.get("/v1/training-jobs"), 500))


def test_requests_are_logged_with_their_ids(
    site: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        logs.configure("api", as_json=True)
        site.submit({"subjects": site.subjects("rex")}, key="one")
        lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    finally:
        root.handlers[:] = before
        root.setLevel(level)
        logging.captureWarnings(False)
    [submitted] = [line for line in lines if line["event"] == "job submitted"]
    [request] = [line for line in lines if line["event"] == "request"]
    assert submitted["request"] == request["request"]
    assert submitted["job"]
    assert (request["route"], request["status"]) == ("/v1/training-jobs", 202)


def test_requests_are_counted_by_route(new_site: Any) -> None:
    site = new_site(metrics=PrometheusMetrics(process="api"))
    site.get("/v1/training-jobs")
    site.get("/v1/training-jobs/x")
    site.get("/v1/training-jobs/y")
    answer = site.get("/metrics", None)
    assert answer.headers["content-type"].startswith("text/plain")
    counted = 'dti_http_requests_total{method="GET",route="/v1/training-jobs/{job}",status="4xx"} 2'
    assert counted in answer.text
    assert 'dti_http_request_seconds_count{route="/v1/training-jobs"} 1' in answer.text
    assert "acme" not in answer.text


def test_metrics_can_have_a_port_of_their_own(new_site: Any) -> None:
    site = new_site(serves_metrics=False)
    assert site.get("/metrics", None).status_code == 404
    assert "/metrics" not in site.get("/openapi.json", None).json()["paths"]
    assert site.get("/healthz", None).status_code == 200


def _tree(root: type[DTIError]) -> list[type[DTIError]]:
    return [root, *(one for child in root.__subclasses__() for one in _tree(child))]


def test_client_errors_and_server_errors_have_different_statuses() -> None:
    """The exceptions are listed by name, so that a new error needs a decision."""
    internal = {
        error.__name__
        for error in _tree(ServiceError)
        if error.__module__ == "services.errors" and problem_type_of(error("x")).status == 500
    }
    assert internal == {
        "ServiceError",
        "SettingsError",
        "UnknownTenantError",
        "LedgerError",
        "LeaseLostError",
        "SupersededError",
        "DamagedRecordError",
        "StorageError",
        "InvalidKeyError",
        "InvalidRangeError",
        "NotFoundError",
        "PreconditionFailedError",
        "AlreadyExistsError",
        "AccessDeniedError",
        "StoreRefusedError",
    }
    assert problem_type_of(OutcomeUnknownError("x")) == PROBLEM_TYPES[UnavailableError]
