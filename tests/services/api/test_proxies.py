"""Behind a proxy: a path prefix in everything that the API says of itself, HEAD, CORS, slashes."""

from typing import Any

import pytest

PUBLIC = "https://example.com/dti"


def test_everything_that_the_api_says_of_itself_has_the_prefix_of_its_public_url(
    new_image_site: Any,
) -> None:
    site = new_image_site(public_url=PUBLIC)
    job = site.submit({"subjects": site.subjects("rex")})
    assert job.headers["Location"] == f"/dti/v1/training-jobs/{job.json()['job']}"
    _, link = site.keep()
    assert link.startswith(f"{PUBLIC}/images/acme/")
    order = site.order({"prompts": ["a dog"]})
    site.generate_off()
    (item,) = site.get(f"/v1/generation-jobs/{order}/items").json()["items"]
    assert item["url"].startswith(f"{PUBLIC}/images/acme/")
    slash = site.get("/v1/training-jobs/?limit=2", follow_redirects=False)
    assert (slash.status_code, slash.headers["Location"]) == (307, "/dti/v1/training-jobs?limit=2")
    # The page's paths are relative to its own.
    assert "url: 'openapi.json'" in site.get("/docs", None).text
    assert site.get("/openapi.json", None).json()["servers"] == [{"url": "/dti"}]


def test_a_redirect_has_neither_scheme_nor_host_that_only_the_proxy_knows(site: Any) -> None:
    answer = site.get("/v1/models/", headers={"Host": "10.0.0.7:8000"}, follow_redirects=False)
    assert answer.headers["Location"] == "/v1/models"
    assert "servers" not in site.get("/openapi.json", None).json()


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/docs", "/v1/models", "/v1/images"])
def test_head_is_get_without_the_body(module_site: Any, path: str) -> None:
    get, head = module_site.get(path), module_site.ask("HEAD", path)
    assert (get.status_code, head.status_code, head.content) == (200, 200, b"")
    assert head.headers["content-length"] == get.headers["content-length"]
    assert head.headers["content-type"] == get.headers["content-type"]


def test_head_is_refused_where_get_would_be(module_site: Any) -> None:
    assert module_site.ask("HEAD", "/v1/models", None).status_code == 401
    assert module_site.ask("HEAD", "/v1/models?x=1").status_code == 422
    assert module_site.ask("HEAD", "/v1/nothing").status_code == 404
    assert module_site.ask("HEAD", "/v1/images/generations").status_code == 404
    job = module_site.make("rex")
    assert module_site.ask("HEAD", f"/v1/training-jobs/{job}/events").status_code == 405


def test_a_page_of_another_site_gets_no_permission_to_send_requests(module_site: Any) -> None:
    """API keys do not belong into pages, so that preflight requests of browsers are refused."""
    asks = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    for path in ("/v1/images/generations", "/v1/models", "/healthz"):
        answer = module_site.ask("OPTIONS", path, None, headers=asks)
        assert answer.status_code in (401, 405), path
        assert not any(name.startswith("access-control") for name in answer.headers)
    answer = module_site.get("/v1/models", headers=asks)
    assert answer.status_code == 200
    assert not any(name.startswith("access-control") for name in answer.headers)


@pytest.mark.parametrize(
    "accept", [None, "*/*", "application/json", "text/html,*/*;q=0.8", "image/png", "text/plain"]
)
def test_any_accept_header_gets_json(module_site: Any, accept: str | None) -> None:
    headers = {} if accept is None else {"Accept": accept}
    answer = module_site.get("/v1/models", headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")


@pytest.mark.parametrize(
    "content_type", ["application/json", "application/json; charset=utf-8", "text/plain", ""]
)
def test_any_content_type_of_a_json_body_is_read(module_site: Any, content_type: str) -> None:
    answer = module_site.ask(
        "POST",
        "/v1/images/generations",
        content=b'{"prompt": "a dog", "steps": 2}',
        headers={"Content-Type": content_type},
    )
    assert answer.status_code == 200, answer.text
