"""Answers that are errors."""

import json
import pickle

import pytest

from dti_engine.errors import FailedError
from services.client import errors as problems
from services.client.errors import problem_error, upload_error


@pytest.mark.parametrize(
    ("status", "kind", "is_failure"),
    [
        (400, problems.RefusedError, False),
        (401, problems.ApiKeyRefusedError, False),
        (403, problems.ApiKeyRefusedError, False),
        (404, problems.ResourceNotFoundError, False),
        (409, problems.RequestConflictError, False),
        (410, problems.GoneError, False),
        (413, problems.RefusedError, False),
        (422, problems.RefusedError, False),
        (429, problems.OverloadedError, True),
        (500, problems.BrokenServerError, True),
        (503, problems.OverloadedError, True),
    ],
)
def test_a_status_is_a_kind_of_error(status: int, kind: type, is_failure: bool) -> None:
    error = problem_error(status, b'{"title": "T", "detail": "what to do"}')
    assert type(error) is kind
    assert "what to do" in str(error)
    assert (error.status, error.title, error.detail) == (status, "T", "what to do")
    assert isinstance(error, FailedError) == is_failure
    assert pickle.loads(pickle.dumps(error)).status == status


def test_all_that_is_wrong_is_listed_once() -> None:
    body = {
        "detail": "2 things must be mended: #/tags: too many",
        "errors": [
            {"pointer": "#/tags", "detail": "too many"},
            {"pointer": "#/recipe", "detail": "unknown"},
        ],
    }
    assert str(problem_error(422, json.dumps(body).encode())) == (
        "2 things must be mended: #/tags: too many\n  #/recipe: unknown"
    )
    body["errors"] = [{"pointer": f"#/{n}", "detail": "wrong"} for n in range(50)]
    lines = str(problem_error(422, json.dumps(body).encode())).splitlines()
    assert lines[-1] == "  and 30 more"
    assert len(lines) == 22


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"errors": 3}', b"null", b"\xff"])
def test_an_answer_that_is_no_problem_of_ours_is_one_all_the_same(body: bytes) -> None:
    assert "502" in str(problem_error(502, body))


def test_a_store_answers_in_its_own_words() -> None:
    error = upload_error("s3", 403, b"<Error><Message>Policy expired</Message></Error>")
    assert str(error) == "the store of uploads, s3, answered 403: Policy expired"
