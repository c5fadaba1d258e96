"""/openapi.json is complete, and its examples are valid."""

import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from services.api.generation_jobs.schemas import GenerationJobRequest
from services.api.training_jobs.schemas import TrainingJobRequest


@pytest.fixture
def document(site: Any) -> dict[str, Any]:
    answer = site.get("/openapi.json", None)
    assert answer.status_code == 200
    return answer.json()


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            yield f"{method.upper()} {path}", operation


def _validator(document: dict[str, Any], schema: Any) -> Any:
    whole = schema | {"components": document["components"]}
    return jsonschema.Draft202012Validator(
        whole, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    )


def test_every_route_documents_its_purpose_and_its_errors(document: dict[str, Any]) -> None:
    for name, operation in _operations(document):
        assert operation["summary"], name
        assert operation["description"], name
        if "/v1/" not in name:
            assert "security" not in operation
            continue
        assert operation["security"] == [{"key": []}], name
        assert {"401", "403", "422", "429", "500", "503"} <= operation["responses"].keys(), name
        if "{" in name and not name.startswith("PUT"):
            assert "404" in operation["responses"], name
        for status, answer in operation["responses"].items():
            if status >= "400":
                assert list(answer["content"]) == ["application/problem+json"], name
    ids = [operation["operationId"] for _, operation in _operations(document)]
    assert len(set(ids)) == len(ids)
    scheme = document["components"]["securitySchemes"]["key"]
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")


def test_every_response_has_a_valid_example(document: dict[str, Any]) -> None:
    seen = 0
    for name, operation in _operations(document):
        contents = [answer.get("content", {}) for answer in operation["responses"].values()]
        contents.append(operation.get("requestBody", {}).get("content", {}))
        for content in contents:
            for kind in ("application/json", "application/problem+json"):
                if kind not in content:
                    continue
                reference = content[kind]["schema"]["$ref"].rpartition("/")[2]
                schema = document["components"]["schemas"][reference]
                assert schema.get("examples"), f"{name}: {reference} has no example"
                for example in schema["examples"]:
                    _validator(document, schema).validate(example)
                    seen += 1
        for parameter in operation.get("parameters", ()):
            for example in parameter.get("examples", ()):
                _validator(document, parameter["schema"]).validate(example)
                seen += 1
    assert seen > 100


def test_examples_of_requests_are_valid(document: dict[str, Any]) -> None:
    import json

    examples = document["components"]["schemas"]["TrainingJobRequest"]["examples"]
    assert len(examples) > 1
    for example in examples:
        TrainingJobRequest.model_validate_json(json.dumps(example), strict=True)
    for example in document["components"]["schemas"]["GenerationJobRequest"]["examples"]:
        GenerationJobRequest.model_validate_json(json.dumps(example), strict=True)


def test_the_first_example_creates_a_job(site: Any, document: dict[str, Any]) -> None:
    example = document["components"]["schemas"]["TrainingJobRequest"]["examples"][0]
    assert site.submit(example).status_code == 202


def test_the_documentation_page_needs_no_other_host(site: Any) -> None:
    page = site.get("/docs", None)
    policy = page.headers["content-security-policy"]
    assert "script-src 'self';" in policy
    assert "frame-ancestors 'none'" in policy
    assert re.findall("https?:|//", page.text.replace("<!doctype", "")) == []
    assert "<script>" not in page.text  # The policy forbids scripts within the page.
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(loaded) == 4
    for path in loaded:
        if path != "data:,":
            assert site.get(f"/{path}", None).status_code == 200
    assert "openapi.json" in site.get("/docs/start.js", None).text


@pytest.mark.parametrize(
    "path", ["/docs", "/healthz", "/v1/models", "/v1/nothing", "/openapi.json"]
)
def test_every_response_has_security_headers(site: Any, path: str) -> None:
    headers = site.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "default-src 'none'" in site.get(path, None).headers["content-security-policy"]


@pytest.mark.parametrize("module", ["services.api.app", "services.api.__main__"])
def test_the_api_loads_no_torch_no_numpy_and_no_ray(module: str) -> None:
    code = (
        f"import {module}, sys; "
        "sys.exit(', '.join({'torch', 'numpy', 'ray'} & sys.modules.keys()) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
