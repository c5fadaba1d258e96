"""The running app does what /openapi.json says, whatever is sent to it (schemathesis).

There is one test for each operation, so that they spread over processes, and a failure names its
operation.
"""

import random
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import schemathesis
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from services.api.app import create_app
from services.contracts.models import MINIATURE
from services.ledger.ledger import Ledger
from services.storage.memory import MemoryStore

pytestmark = pytest.mark.slow

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    unsupported_method,
]
_SEED = 11


def _documented_routes(app: FastAPI) -> list[str]:
    return sorted(
        f"{method} {route.path}"
        for route in iter_route_contexts(app.routes)
        if route.include_in_schema
        for method in route.methods or ()
    )


# Known before any app runs, as the tests are collected by them.
_OPERATIONS = _documented_routes(create_app(Ledger.open(MemoryStore()), MINIATURE))


class Ground:
    """A served app with jobs, tokens and images, and ids that are mostly theirs."""

    def __init__(self, site: Any, url: str) -> None:
        self.site = site
        self.url = url
        self.rng = random.Random(_SEED)
        schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
        found = (operation.ok() for operation in schema.get_all_operations())
        self.operations = {operation.label: operation for operation in found}
        self.refill()

    def refill(self) -> None:
        site = self.site
        self.job = site.make("rex", "bad", "ada", tags={"project": "pets"})
        site.work_off(lambda attempt: "no" if attempt.item.name == "bad" else "")
        self.open = site.make("rex", "ada")
        self.token = site.tokens(self.job)[0]
        self.sha256 = site.upload(b"image")
        self.erasure = site.post("/v1/erasures", {"subject": "nobody"}).json()["id"]
        self.image, self.link = site.keep()
        for job in site.get("/v1/generation-jobs?limit=200").json()["jobs"]:
            # A generated request may be for thousands of images, which nobody generates here.
            site.ask("DELETE", f"/v1/generation-jobs/{job['job']}")
        self.images = site.order({"prompts": ["a"], "seeds": {"count": 3}})
        site.generate_off()
        self.waiting = site.order({"prompts": ["a"], "seeds": {"count": 3}})
        [item] = site.get(f"/v1/generation-jobs/{self.images}/items?limit=1").json()["items"]
        self.generated = item["url"]

    def fill_in(self, case: Any) -> None:
        """Replace generated ids by ids of existing objects, three times of four."""
        if case.method == "DELETE" or case.path.endswith("/cancel"):
            self.refill()
        is_of_images = not case.path.startswith("/v1/training-jobs")
        ended, going_on = (self.images, self.waiting) if is_of_images else (self.job, self.open)
        known = {
            "job": ended
            if case.path.endswith(("/events", "/image"))
            else self.rng.choice([ended, going_on]),
            "token": self.token,
            "sha256": self.sha256,
            "erasure": self.erasure,
            "index": self.rng.randrange(3),
            "image": self.image,
            "tenant": "acme",
            "model": "miniature",
        }
        for name in case.path_parameters or {}:
            if self.rng.random() < 0.75:
                case.path_parameters[name] = known[name]
        if self.rng.random() < 0.5:
            return
        if case.path == "/images/{tenant}/{image}":
            case.path_parameters = {"tenant": "acme", "image": self.image}
            case.query = dict(parse_qsl(urlsplit(self.link).query))
        elif case.path.startswith("/images/"):
            case.path_parameters = {"tenant": "acme", "job": self.images, "index": 0}
            case.query = dict(parse_qsl(urlsplit(self.generated).query))
        elif case.method == "PUT":
            case.body = b"image"
        elif case.path == "/v1/images/generations":
            case.body = {"prompt": "a <rex>", "stream": self.rng.random() < 0.5}
        elif (case.method, case.path) == ("POST", "/v1/training-jobs"):
            case.headers = {"Idempotency-Key": str(self.rng.random())}
            case.body = {"subjects": self.site.subjects("rex")}
        elif (case.method, case.path) == ("POST", "/v1/generation-jobs"):
            case.headers = {"Idempotency-Key": str(self.rng.random())}
            case.body = {"prompts": ["a"], "seeds": {"count": 2}}


@pytest.fixture(scope="module")
def ground(request: pytest.FixtureRequest) -> Iterator[Ground]:
    site = request.getfixturevalue("module_site")
    with site.served() as url:
        yield Ground(site, url)


def test_every_route_is_documented(ground: Ground) -> None:
    assert sorted(ground.operations) == _documented_routes(ground.site.app) == _OPERATIONS


@pytest.mark.parametrize("label", _OPERATIONS)
def test_every_response_is_as_documented_whatever_the_request(ground: Ground, label: str) -> None:
    # Seeded anew, so that an operation is tried in the same way alone and after others.
    ground.rng = random.Random(f"{_SEED} {label}")
    ground.refill()
    operation = ground.operations[label]
    statuses: list[int] = []
    for mode in GenerationMode:
        # An operation without parameters and body has no invalid cases.
        with suppress(Unsatisfiable):
            _try(ground, operation.as_strategy(generation_mode=mode), statuses)
    # It went deeper than being refused: it was answered as it is meant to be, too.
    assert min(statuses) < 300


def _try(ground: Ground, cases: Any, statuses: list[int]) -> None:
    @given(case=cases)
    @settings(
        max_examples=8,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def run(case: Any) -> None:
        ground.fill_in(case)
        answer = case.call(base_url=ground.url, headers=ground.site.headers(), timeout=20)
        statuses.append(answer.status_code)
        case.validate_response(answer, checks=CHECKS)

    run()
