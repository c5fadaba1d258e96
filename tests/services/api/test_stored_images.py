"""Stored images and their signed links, which expire and rotate their keys."""

from typing import Any

import httpx2
import pytest
from stub_engine import StubEngine

from services.api.images.store import KEYS_TTL_S, MAX_KEYS, SignedLinks, rotate_link_keys
from services.errors import DeletedError, UnknownImageError
from services.ledger.deletion import delete_tenant
from services.storage.memory import MemoryStore


def test_a_link_needs_no_key(image_site: Any) -> None:
    image, link = image_site.keep()
    assert link.startswith(f"http://testserver/images/acme/{image}?")
    answer = image_site.client.get(link)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    assert answer.content.startswith(b"\x89PNG")
    assert answer.headers["Cache-Control"] == "private, no-store"
    own = image_site.get(f"/v1/images/{image}")
    assert own.content == answer.content


def test_links_begin_with_the_public_url(new_image_site: Any) -> None:
    image_site = new_image_site(public_url="https://dti.example/api/")
    _, link = image_site.keep()
    assert link.startswith("https://dti.example/api/images/acme/")


def test_changed_links_are_refused(image_site: Any) -> None:
    image, link = image_site.keep()
    other, other_image = image_site.keep("other")
    address, _, query = link.partition("?")
    expires = int(query.partition("&")[0].partition("=")[2])
    wrong = [
        address,
        f"{address}?{query[:-1]}",
        f"{address}?{query}a",
        f"{address}?{query[:-4]}%C3%A9",
        link.replace(str(expires), str(expires + 1)),
        link.replace(f"/acme/{image}", f"/other/{other}"),
        link.replace("/acme/", "/other/"),
        f"{address}?{other_image.partition('?')[2]}",
        link.replace("/acme/", "/No%20name/"),
    ]
    for one in wrong:
        answer = image_site.client.get(one)
        assert answer.status_code == 404, one
        assert "is not valid or has expired" in answer.json()["detail"]
    assert image_site.client.get(other_image).status_code == 200


def test_links_expire() -> None:
    now = [1000.0]
    links = SignedLinks(MemoryStore(), clock=lambda: now[0])
    link = links.sign("/images/acme/x", 60)
    query = dict(part.split("=") for part in link.partition("?")[2].split("&"))
    assert query["expires"] == "1060"
    links.verify("/images/acme/x", 1060, query["signature"])
    now[0] = 1060.0
    with pytest.raises(UnknownImageError, match="has expired"):
        links.verify("/images/acme/x", 1060, query["signature"])


def test_links_of_older_keys_verify_until_their_key_is_dropped() -> None:
    now, store = [0.0], MemoryStore()
    links = SignedLinks(store, clock=lambda: now[0])

    def signature() -> str:
        return links.sign("/a", 10_000 - now[0]).rpartition("=")[2]

    first = signature()
    for rotation in range(1, MAX_KEYS):
        rotate_link_keys(store)
        links.verify("/a", 10_000, signature())  # This process does not know the rotation yet.
        now[0] += KEYS_TTL_S
        assert signature() != first
        if rotation < MAX_KEYS - 1:
            links.verify("/a", 10_000, first)
    with pytest.raises(UnknownImageError):
        links.verify("/a", 10_000, first)


def test_every_process_verifies_links_that_another_signs_right_after_a_rotation() -> None:
    store = MemoryStore()
    early, late = (SignedLinks(store, clock=lambda: 0) for _ in range(2))
    early.sign("/a", 9)
    rotate_link_keys(store)
    signature = late.sign("/a", 9).rpartition("=")[2]
    assert signature != early.sign("/a", 9).rpartition("=")[2]
    early.verify("/a", 9, signature)


def test_all_processes_of_a_store_share_keys_and_no_two_stores_do() -> None:
    store = MemoryStore()
    first, second = (SignedLinks(store, clock=lambda: 0) for _ in range(2))
    link = first.sign("/a", 9)
    assert link == second.sign("/a", 9)
    assert link != SignedLinks(MemoryStore(), clock=lambda: 0).sign("/a", 9)
    assert link != first.sign("/b", 9).replace("/b", "/a")


@pytest.mark.parametrize("kind", ["moto"])
def test_presigned_urls_of_the_store_are_used_if_it_has_them(
    store: Any, new_image_site: Any
) -> None:
    image_site = new_image_site(store)
    image, link = image_site.keep()
    assert "/images/acme/" not in link.replace(f"t/acme/images/{image}.png", "")
    answer = httpx2.get(link)
    assert answer.headers["content-type"] == "image/png"
    assert answer.content == image_site.get(f"/v1/images/{image}").content
    [listed] = image_site.get("/v1/images").json()["images"]
    assert httpx2.get(listed["url"]).content == answer.content


def test_stored_images_are_listed_newest_first(image_site: Any) -> None:
    stored = [image_site.keep()[0] for _ in range(5)]
    found: list[str] = []
    cursor = ""
    while True:
        page = image_site.get(f"/v1/images?limit=2{cursor}").json()
        found += [image["id"] for image in page["images"]]
        for image in page["images"]:
            assert len(image_site.client.get(image["url"]).content) == image["size"]
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
    # Those of one millisecond are in any order.
    assert sorted(found) == sorted(stored)
    assert found == sorted(stored)


def test_a_deleted_image_is_gone_and_audited(image_site: Any) -> None:
    image, link = image_site.keep()
    assert image_site.ask("DELETE", f"/v1/images/{image}", "other").status_code == 404
    assert image_site.ask("DELETE", f"/v1/images/{image}").status_code == 204
    for answer in (image_site.client.get(link), image_site.get(f"/v1/images/{image}")):
        assert answer.status_code == 404
    assert image_site.ask("DELETE", f"/v1/images/{image}").status_code == 404
    [entry] = image_site.get("/v1/audit").json()["entries"]
    assert (entry["action"], entry["what"]) == ("image.delete", image)


def test_stored_images_are_deleted_with_their_tenant(image_site: Any) -> None:
    _, link = image_site.keep()
    delete_tenant(image_site.ledger, "acme")
    assert image_site.client.get(link).status_code == 404
    images = image_site.app.state.service.images
    with pytest.raises(DeletedError):
        images.save("acme", b"of a request that was under way")
    assert image_site.ledger.heads("t/acme/images/") == []


@pytest.mark.parametrize("stream", [True, False])
def test_a_tenant_deleted_during_a_request_stores_nothing(
    image_site: Any, engine: StubEngine, stream: bool
) -> None:
    image_site.generate()  # The key is known for some seconds more.
    delete_tenant(image_site.ledger, "acme")
    answer = image_site.generate(response_format="url", stream=stream)
    assert answer.status_code == (200 if stream else 410)
    assert "acme was deleted" in answer.text
    assert image_site.ledger.heads("t/acme/images/") == []


def test_malformed_image_ids_are_not_found(image_site: Any) -> None:
    for name in ("x", "..", "%2e%2e", "a" * 26 + "%2F..", "7zk3v9q0d1m2n3p4q5r6s7t8v9"):
        assert image_site.get(f"/v1/images/{name}").status_code == 404


def test_a_stream_can_return_links(image_site: Any, parts: Any) -> None:
    answer = image_site.generate(response_format="url", stream=True)
    *_, (name, data) = parts.events(iter(answer.text.splitlines()))
    assert (name, data["b64_json"]) == ("image_generation.completed", None)
    assert image_site.client.get(data["url"]).content.startswith(b"\x89PNG")
