"""No route shows one tenant anything of another.

Routes are taken from the app, so that a new route is tested as well, or fails here because there is
nothing to test it with.
"""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.routing import iter_route_contexts

_SECRETS = ("rexsecret", "tagsecret", "reasonsecret", "promptsecret")
_DOCS = ("/docs", "/docs/start.js", "/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css")
_OPEN = {"/healthz", "/readyz", "/metrics", "/openapi.json", *_DOCS}
"""For everyone: they show nothing of any tenant."""

_SHARED = {"/v1/models", "/v1/models/{model}"}
"""The same for all tenants."""

_LINKS = ("/images/{tenant}/{image}", "/images/{tenant}/{job}/{index}")
"""For who has a link that was signed, whoever that is."""


def _routes(app: Any) -> Iterator[tuple[str, str]]:
    for route in iter_route_contexts(app.routes):
        for method in sorted((route.methods or set()) - {"HEAD"}):
            yield method, route.path


class Belongings:
    """The resources of the tenant acme, with an id for every parameter of a path."""

    def __init__(self, site: Any) -> None:
        self.site = site
        self.sha256 = site.upload(b"of acme alone")
        subjects = site.subjects("rexsecret", "bad")
        tags = {"of": "tagsecret"}
        created = site.submit({"subjects": subjects, "tags": tags}, key="one").json()
        self.job = created["job"]
        site.work_off(lambda attempt: "reasonsecret" if attempt.item.name == "bad" else "")
        [self.token] = site.tokens(self.job)
        self.image, link = site.keep()
        prompt = {"prompts": ["promptsecret"], "tags": tags}
        self.images = site.order_of(prompt, key="two").json()["job"]
        site.generate_off()
        [generated] = site.get(f"/v1/generation-jobs/{self.images}/items").json()["items"]
        self.erasure = site.post("/v1/erasures", {"subject": "nobody"}).json()["id"]
        self.links = dict(zip(_LINKS, (link, generated["url"]), strict=True))
        self.generated = generated["sha256"]
        self.ids = {
            "job": self.job,
            "index": "0",
            "token": self.token,
            "sha256": self.sha256,
            "image": self.image,
            "tenant": "acme",
            "model": "miniature",
            "erasure": self.erasure,
        }

    def path(self, path: str) -> str:
        images = path.startswith(("/v1/generation-jobs/", "/images/"))
        ids = self.ids | ({"job": self.images} if images else {})
        return re.sub(r"\{(\w+)\}", lambda found: ids[found[1]], path)

    def ask(self, method: str, path: str, tenant: str | None) -> Any:
        how: dict[str, Any] = {"headers": {"Idempotency-Key": "one"}}
        if (method, path) == ("POST", "/v1/training-jobs"):
            how["json"] = {"subjects": self.site.subjects("of other")}
        elif (method, path) == ("POST", "/v1/generation-jobs"):
            how["json"] = {"prompts": ["of other"]}
        elif (method, path) == ("POST", "/v1/uploads"):
            how["json"] = {"files": [{"sha256": self.sha256, "size": 13}]}
        elif (method, path) == ("POST", "/v1/erasures"):
            how["json"] = {"subject": "nobody"}
        elif path == "/v1/images/generations":
            how["json"] = {"prompt": "a <dog>", "tokens": {"<dog>": "dog"}}
        elif method == "PUT":
            how["content"] = b"of acme alone"
        return self.site.ask(method, self.path(path), tenant, **how)

    def secrets(self, path: str) -> list[str]:
        """Return all values that no other tenant may see, except those in its own request."""
        artifact = self.site.get(f"/v1/tokens/{self.token}").json()["sha256"]
        ids = (self.job, self.images, self.token, artifact, self.image, self.generated, "acme")
        return [*_SECRETS, *(one for one in ids if one not in path)]

    def state(self) -> dict[str, bytes]:
        store = self.site.store
        heads = self.site.ledger.heads("")
        return {head.key: store.read(head.key).body for head in heads if "other" not in head.key}


@pytest.fixture
def belongings(new_image_site: Any) -> Belongings:
    # A forged key is sent to every route.
    return Belongings(new_image_site(unknown_keys_burst=1000))


def test_no_route_shows_or_changes_data_of_another_tenant(belongings: Belongings) -> None:
    before = belongings.state()
    tried = 0
    for method, path in _routes(belongings.site.app):
        if path in _OPEN:
            continue
        answer = belongings.ask(method, path, "other")
        where = f"{method} {path}: {answer.status_code} {answer.text}"
        if "{" in path and method != "PUT" and path not in _SHARED:
            assert answer.status_code == 404, where
        else:  # A list, or something of its own.
            assert answer.status_code in (200, 201, 202), where
            if method == "GET" and path not in _SHARED:
                assert not any(answer.json().get(name) for name in answer.json()), where
        shown = answer.text + str(answer.headers)
        found = [secret for secret in belongings.secrets(belongings.path(path)) if secret in shown]
        assert found == [], where
        if method == "POST" and path == "/v1/uploads":
            assert answer.json()["files"][0]["present"] is False, where
        if method in ("POST", "PUT") and "{job}" not in path:
            for kind in ("training", "generation"):
                for job in belongings.site.get(f"/v1/{kind}-jobs", "other").json()["jobs"]:
                    belongings.site.ask("DELETE", f"/v1/{kind}-jobs/{job['job']}", "other")
            for head in belongings.site.ledger.heads("t/other/"):
                belongings.site.store.delete(head.key)
        tried += 1
    assert tried >= 36
    assert belongings.state() == before


def test_every_route_requires_a_key(belongings: Belongings) -> None:
    before = belongings.state()
    key, _, secret = belongings.site.keys["acme"].rpartition("_")
    wrong = f"{key}_{'b' if secret[0] == 'a' else 'a'}{secret[1:]}"
    for method, path in _routes(belongings.site.app):
        answer = belongings.ask(method, path, None)
        if path in _OPEN:
            assert answer.status_code == 200
            assert [one for one in belongings.secrets("") if one in answer.text] == []
            continue
        if path in _LINKS:  # Nor does its place alone.
            assert answer.status_code == 404
            continue
        assert answer.status_code == 401, f"{method} {path}"
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        belongings.site.keys["forged"] = wrong
        assert belongings.ask(method, path, "forged").status_code == 401, f"{method} {path}"
    assert belongings.state() == before


def test_the_tenant_itself_reaches_every_route(belongings: Belongings) -> None:
    """This proves that the resources that are refused to the other tenant exist."""
    routes = list(_routes(belongings.site.app))
    order = {"GET": 0, "PUT": 1, "POST": 2, "DELETE": 3}
    # What goes on with a job before its end, and the job last: all else goes with it.
    last = [
        (method, f"/v1/{kind}-jobs/{{job}}{rest}")
        for kind in ("training", "generation")
        for method, rest in (("POST", "/cancel"), ("DELETE", ""))
    ]
    routes.sort(key=lambda one: (order[one[0]], one in last))
    for method, path in routes:
        answer = belongings.ask(method, path, "acme")
        if path in _LINKS:
            answer = belongings.site.client.get(belongings.links[path])
        if method == "POST" and path in ("/v1/training-jobs", "/v1/generation-jobs"):
            assert answer.status_code == 422  # The key has made another job.
        else:
            assert answer.status_code < 300, f"{method} {path}: {answer.text}"


def test_a_route_that_ignores_the_tenant_fails_these_tests(belongings: Belongings) -> None:
    """The tests above see what they are to see."""
    site = belongings.site

    @site.app.get("/v1/forgetful/{job}")
    def forgetful(job: str) -> dict[str, str]:
        return {"job": job}

    with pytest.raises(AssertionError, match="GET /v1/forgetful"):
        test_no_route_shows_or_changes_data_of_another_tenant(belongings)

    @site.app.get("/v1/unheard-of/{thing}")
    def unheard_of(name: str) -> dict[str, str]:
        return {}

    with pytest.raises((KeyError, AssertionError)):
        test_every_route_requires_a_key(belongings)
