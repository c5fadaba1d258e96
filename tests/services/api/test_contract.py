"""The running app does what /openapi.json says, whatever is sent to it (schemathesis)."""

import random
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import schemathesis
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

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    unsupported_method,
]
_SEED = 11


class Ground:
    """A served app with something in it, and ids that mostly are some of it."""

    def __init__(self, site: Any, url: str) -> None:
        self.site = site
        self.url = url
        self.chance = random.Random(_SEED)
        self.refill()

    def refill(self) -> None:
        site = self.site
        self.job = site.make("rex", "bad", "ada", tags={"project": "pets"})
        site.work_off(lambda attempt: "no" if attempt.item.name == "bad" else "")
        self.open = site.make("rex", "ada")
        self.token = site.tokens(self.job)[0]
        self.sha256 = site.upload(b"image")
        self.image, self.link = site.keep()
        for job in site.get("/v1/generation-jobs?limit=200").json()["jobs"]:
            # What was made up may have thousands of images, which nobody generates here.
            site.ask("DELETE", f"/v1/generation-jobs/{job['job']}")
        self.images = site.order({"prompts": ["a"], "seeds": {"count": 3}})
        site.generate_off()
        self.waiting = site.order({"prompts": ["a"], "seeds": {"count": 3}})
        [item] = site.get(f"/v1/generation-jobs/{self.images}/items?limit=1").json()["items"]
        self.generated = item["url"]

    def fill_in(self, case: Any) -> None:
        """Ids that are there in place of those that were made up, three times of four."""
        if case.method == "DELETE" or case.path.endswith("/cancel"):
            self.refill()
        is_of_images = not case.path.startswith("/v1/training-jobs")
        ended, going_on = (self.images, self.waiting) if is_of_images else (self.job, self.open)
        known = {
            "job": ended
            if case.path.endswith(("/events", "/image"))
            else self.chance.choice([ended, going_on]),
            "token": self.token,
            "sha256": self.sha256,
            "index": self.chance.randrange(3),
            "image": self.image,
            "tenant": "acme",
            "model": "miniature",
        }
        for name in case.path_parameters or {}:
            if self.chance.random() < 0.75:
                case.path_parameters[name] = known[name]
        if self.chance.random() < 0.5:
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
            case.body = {"prompt": "a <rex>", "stream": self.chance.random() < 0.5}
        elif (case.method, case.path) == ("POST", "/v1/training-jobs"):
            case.headers = {"Idempotency-Key": str(self.chance.random())}
            case.body = {"subjects": self.site.subjects("rex")}
        elif (case.method, case.path) == ("POST", "/v1/generation-jobs"):
            case.headers = {"Idempotency-Key": str(self.chance.random())}
            case.body = {"prompts": ["a"], "seeds": {"count": 2}}


@pytest.fixture(scope="module")
def ground(request: pytest.FixtureRequest) -> Iterator[Ground]:
    site = request.getfixturevalue("module_site")
    with site.served() as url:
        yield Ground(site, url)


def test_every_response_is_as_documented_whatever_the_request(ground: Ground) -> None:
    schema = schemathesis.openapi.from_url(f"{ground.url}/openapi.json")
    tried: dict[str, list[int]] = {}
    for found in schema.get_all_operations():
        operation = found.ok()
        statuses = tried.setdefault(operation.label, [])
        for mode in GenerationMode:
            # Where nothing is asked for, nothing can be wrong.
            with suppress(Unsatisfiable):
                _try(ground, operation.as_strategy(generation_mode=mode), statuses)
    assert set(tried) == {
        f"{method} {route.path}"
        for route in iter_route_contexts(ground.site.app.routes)
        if route.include_in_schema
        for method in route.methods or ()
    }
    # It went deeper than being refused: each was answered as it is meant to be, too.
    refused = [label for label, statuses in tried.items() if min(statuses) >= 300]
    assert refused == []


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
