"""JSON bodies: no key twice in one object, and no more values than a request needs."""

import json
import secrets
from typing import Any

import pytest
from fastapi.exceptions import RequestValidationError

from services.api.request_body import find_repeated_key, parse_body
from services.api.uploads import UploadsRequest

DIGEST = "0" * 64
SUBJECT = f'{{"id": "rex", "bundle": "{DIGEST}"}}'

REPEATED = [
    ("/v1/training-jobs", f'{{"subjects": [{SUBJECT}], "dry_run": false, "dry_run": true}}', ""),
    (
        "/v1/training-jobs",
        f'{{"subjects": [{SUBJECT}, {{"id": "a", "bundle": "{DIGEST}", "id": "b"}}]}}',
        "subjects/1/id",
    ),
    (
        "/v1/training-jobs",
        f'{{"subjects": [{SUBJECT}], "overrides": {{"steps": 1, "st\\u0065ps": 2}}}}',
        "overrides/steps",
    ),
    ("/v1/generation-jobs", '{"prompts": ["a"], "prompts": ["b"]}', "prompts"),
    (
        "/v1/generation-jobs",
        '{"prompts": ["a <x>"], "variants": [{"tokens": {"<x>": "a", "<x>": "b"}}]}',
        "variants/0/tokens/<x>",
    ),
    ("/v1/images/generations", '{"prompt": "a", "n": 1, "n": 2}', "n"),
    (
        "/v1/images/generations",
        '{"prompt": "a", "blends": {"<x>": [{"token": "a", "weight": 1}, '
        '{"token": "b", "weight": 1, "weight": 2}]}}',
        "blends/<x>/1/weight",
    ),
    (
        "/v1/uploads",
        f'{{"files": [{{"sha256": "{DIGEST}", "size": 1, "size": 2}}]}}',
        "files/0/size",
    ),
    ("/v1/erasures", '{"subject": "rex", "subject": "tom"}', "subject"),
]


@pytest.mark.parametrize(("path", "body", "pointer"), REPEATED)
def test_a_repeated_key_is_refused_by_its_place(
    module_site: Any, path: str, body: str, pointer: str
) -> None:
    headers = {"Idempotency-Key": secrets.token_hex(8), "Content-Type": "application/json"}
    answer = module_site.ask("POST", path, content=body.encode(), headers=headers)
    assert answer.status_code == 422, answer.text
    (error,) = answer.json()["errors"]
    assert error["pointer"] == f"#/{pointer or 'dry_run'}"
    assert "given more than once" in error["detail"]
    # The same body with the key once is not refused for its form.
    once = json.dumps(json.loads(body)).encode()
    answer = module_site.ask("POST", path, content=once, headers=headers)
    assert "more than once" not in answer.text


def test_a_repeated_key_in_a_manifest_is_refused_by_its_line(site: Any) -> None:
    lines = f'{SUBJECT}\n{{"id": "a", "bundle": "{DIGEST}", "id": "b"}}\n'
    answer = site.submit({"manifest": site.upload(lines.encode())})
    assert answer.status_code == 422
    assert [each["pointer"] for each in answer.json()["errors"]] == ["#/manifest/2/id"]


def test_a_line_of_a_manifest_has_a_largest_size(site: Any) -> None:
    answer = site.submit({"manifest": site.upload(b"[" * 300_000)})
    assert answer.status_code == 422
    assert "a subject has at most 262144" in answer.json()["detail"]


@pytest.mark.parametrize(
    "body", ["1", "null", "[]", "{}", '{"a": {"a": [{"a": 1}, {"a": 2}]}, "b": 1}', "1" * 5000]
)
def test_keys_of_different_objects_are_not_repeated(body: str) -> None:
    assert find_repeated_key(body.encode()) is None


def test_the_first_of_several_repeated_keys_is_found() -> None:
    assert find_repeated_key(b'[[{"b": [0, {"a": 1, "a": 1}], "b": 1}]]') == (0, 0, "b", 1, "a")


@pytest.mark.parametrize(
    "body",
    [
        b'{"files":[' + b"[]," * 200_000 + b"1]}",
        b'{"files":[' + b"{}," * 200_000 + b"1]}",
        b'{"files":[' + b'"",' * 200_000 + b"1]}",
        b'{"files":[' + b'"\\"",' * 200_000 + b"1]}",
        b'{"files":{' + b'"":1,' * 200_000 + b"}}",
        b"[" * 200_000,
    ],
)
def test_more_values_than_a_request_needs_are_refused_before_they_are_parsed(body: bytes) -> None:
    with pytest.raises(RequestValidationError) as caught:
        parse_body(UploadsRequest, body)
    (error,) = caught.value.errors()
    assert "values" in error["msg"]


@pytest.mark.parametrize("end", [b'"', b"", b'"' + b"x" * 1_000_000, b'"\\' + b"x" * 1_000_000])
def test_text_that_does_not_end_is_counted_in_one_pass(end: bytes) -> None:
    with pytest.raises(RequestValidationError) as caught:
        parse_body(UploadsRequest, b'{"files":"' + b"," * 200_000 + end)
    (error,) = caught.value.errors()
    assert error["type"] == "json_invalid"


def test_text_may_have_any_number_of_commas() -> None:
    with pytest.raises(RequestValidationError) as caught:
        parse_body(UploadsRequest, json.dumps({"files": ',[{"' * 100_000}).encode())
    (error,) = caught.value.errors()
    assert error["loc"] == ("body", "files")


def test_very_many_errors_are_told_by_their_number() -> None:
    body = json.dumps({f"key {number}": 1 for number in range(20_000)}).encode()
    with pytest.raises(RequestValidationError) as caught:
        parse_body(UploadsRequest, body)
    (error,) = caught.value.errors()
    assert "20001 errors" in error["msg"]


@pytest.mark.parametrize(
    "path", ["/v1/images/generations", "/v1/uploads", "/v1/erasures", "/healthz", "/v1/nothing"]
)
def test_only_jobs_have_large_bodies(module_site: Any, path: str) -> None:
    answer = module_site.ask("POST", path, content=b" " * (2**20 + 1))
    assert answer.status_code == 413
