"""Erasures: nothing that was learned or made of a subject is left, and the rest stays."""

import hashlib
import json
import re
from dataclasses import replace
from typing import Any

import pytest
from interruptions import InterruptibleStore

from services.api.erasures.erase import Eraser
from services.api.erasures.selection import Target
from services.ledger.deletion import delete_token
from services.ledger.ids import token_id
from services.ledger.recovery import Recovery
from services.storage.memory import MemoryStore

CANARY = "canary-subject"


def _bodies(store: Any) -> dict[str, bytes]:
    keys = [head.key for head in store.list(limit=1000).objects]
    return {key: store.read(key).body for key in keys}


def _places(site: Any, *needles: str) -> list[str]:
    return _places_in(site.store, *needles)


def _places_in(store: Any, *needles: str) -> list[str]:
    """Return the keys at which one of the texts, or its plain digest, is found.

    The mark of a deleted upload has its digest for a day, since forms may still be valid.
    """
    texts = {*needles, *(hashlib.sha256(needle.encode()).hexdigest() for needle in needles)}
    return [
        key
        for key, body in _bodies(store).items()
        if "/deleted-uploads/" not in key
        and any(text in key or text.encode() in body for text in texts)
    ]


def _one_by_one(function: Any, over: Any) -> list[Any]:
    return [function(each) for each in over]


def _train(site: Any, *names: str, key: str | None = None, **how: Any) -> str:
    subjects = [{"id": name, "bundle": site.upload(f"photos of {name}".encode())} for name in names]
    answer = site.submit({"subjects": subjects} | how, key=key)
    assert answer.status_code == 202, answer.text
    return answer.json()["job"]


def _erase(site: Any, **target: str) -> Any:
    answer = site.post("/v1/erasures", target)
    assert answer.status_code == 200, answer.text
    return answer.json()


def _generate(site: Any, *tokens: str, **how: Any) -> str:
    body = {"prompts": ["a <dog>"], "placeholder": "<dog>", "tokens": list(tokens)}
    return site.order(body | how)


def test_nothing_of_an_erased_subject_is_left(image_site: Any) -> None:
    site = image_site
    whole = _train(site, CANARY, key=f"train {CANARY}")
    mixed = _train(site, CANARY, "tom")
    other = _train(site, "tom", tags={"a": "b"})
    manifest = json.dumps({"id": CANARY, "bundle": site.upload(b"more photos")})
    site.submit({"manifest": site.upload(manifest.encode())})
    failing = f"{CANARY}/1.png is damaged"
    site.work_off(lambda at: failing if at.keys.job == mixed and at.item.name == CANARY else "")
    generated = _generate(site, CANARY, "tom")
    site.generate_off()
    by_id = _generate(site, site.tokens(whole)[0])
    image, link = site.keep()
    mine = site.generate(tokens={"<rex>": CANARY}, response_format="url").json()["data"][0]["id"]
    assert _places(site, CANARY, f"photos of {CANARY}")

    receipt = _erase(site, subject=CANARY)

    assert _places(site, CANARY, f"photos of {CANARY}", "more photos", failing) == []
    assert receipt["finished"]
    assert receipt["what"] == "subject"
    assert receipt["counts"] == {
        "tokens": 2,
        "images": 2,
        "items": 5,
        "jobs": 3,
        "uploads": 3,
        "aliases": 2,
        "idempotency_records": 5,
        "old_versions": 0,
    }
    for job in (whole, by_id):
        kind = "training" if job == whole else "generation"
        assert site.get(f"/v1/{kind}-jobs/{job}").status_code == 410
    assert site.get(f"/v1/images/{mine}").status_code == 404
    # What is left works as before.
    items = site.get(f"/v1/training-jobs/{mixed}/items").json()["items"]
    assert [(item["id"], item["state"]) for item in items] == [
        ("erased-0", "deleted"),
        ("tom", "succeeded"),
    ]
    assert len(site.tokens(mixed)) == len(site.tokens(other)) == 1
    states = site.get(f"/v1/generation-jobs/{generated}/items").json()["items"]
    assert [item["state"] for item in states] == ["deleted", "succeeded"]
    assert site.get(f"/v1/images/{image}").status_code == 200
    assert site.client.get(link).status_code == 200
    assert len(site.get("/v1/tokens?alias=tom").json()["tokens"]) == 2
    assert site.get(f"/v1/tokens?alias={CANARY}").json()["tokens"] == []


def test_running_items_are_stopped_and_leave_nothing(site: Any) -> None:
    job = _train(site, CANARY, "tom")
    worker = site.worker()
    attempts = {attempt.item.name: attempt for attempt in worker.claim(2)}
    attempts[CANARY].checkpoint(1, f"state of {CANARY}".encode())
    receipt = _erase(site, subject=CANARY)
    assert receipt["counts"]["items"] == 1
    worker.heartbeat()
    assert attempts[CANARY].stop_reason == "deleted"
    assert attempts["tom"].stop_reason is None
    # A worker that has not noticed yet saves once more; it removes that when it notices.
    attempts[CANARY].abandon()
    attempts["tom"].succeed(b"token", {})
    worker.end()
    assert _places(site, CANARY) == []
    assert site.get(f"/v1/training-jobs/{job}").json()["state"] == "succeeded"


def test_jobs_with_a_tag_are_erased(site: Any) -> None:
    tagged = _train(site, "rex", "tom", tags={"customer": "7"})
    shared = site.upload(b"photos of rex")
    other = _train(site, "rex", tags={"customer": "8"})
    site.work_off()
    _generate(site, "tom")
    receipt = _erase(site, tag="customer:7")
    assert site.get(f"/v1/training-jobs/{tagged}").status_code == 410
    # Another job trains from the same file, and the alias of rex stays with its token.
    assert site.get(f"/v1/uploads/{shared}").status_code == 200
    assert len(site.get("/v1/tokens?alias=rex").json()["tokens"]) == 1
    assert len(site.tokens(other)) == 1
    assert receipt["counts"]["uploads"] == 1
    assert receipt["counts"]["jobs"] == 2
    assert _places(site, "photos of tom") == []


def test_a_job_is_erased_after_its_tokens_were_deleted(site: Any) -> None:
    job = _train(site, CANARY)
    site.work_off()
    delete_token(site.ledger, "acme", token_id(job, 0, 0))
    assert _places(site, CANARY)
    assert _erase(site, job=job)["counts"]["jobs"] == 1
    assert _places(site, CANARY) == []
    assert _erase(site, job=job)["counts"]["jobs"] == 1
    assert _erase(site, job="0" * 26)["counts"]["jobs"] == 0


def test_receipts_are_listed_without_names(site: Any) -> None:
    _train(site, CANARY)
    receipt = _erase(site, subject=CANARY)
    assert _erase(site, subject=CANARY)["id"] == receipt["id"]
    other = _erase(site, subject="nobody")
    assert re.fullmatch("[0-9a-f]{32}", other["id"])
    listed = site.get("/v1/erasures").json()["erasures"]
    assert {each["id"] for each in listed} == {receipt["id"], other["id"]}
    assert site.get(f"/v1/erasures/{receipt['id']}").json()["counts"] == receipt["counts"]
    pages = site.get("/v1/erasures?limit=1").json()
    assert site.get(f"/v1/erasures?limit=1&cursor={pages['next']}").json()["next"] is None
    assert site.get(f"/v1/erasures/{'0' * 32}").status_code == 404
    assert site.get("/v1/erasures", "other").json()["erasures"] == []
    entries = site.get("/v1/audit").json()["entries"]
    assert [entry["action"] for entry in entries] == ["erasure"] * 3


@pytest.mark.parametrize(
    "body", [{}, {"subject": "a", "job": "0" * 26}, {"tag": "x"}, {"job": "x"}]
)
def test_an_erasure_names_one_thing(site: Any, body: Any) -> None:
    assert site.post("/v1/erasures", body).status_code == 422


@pytest.mark.parametrize("applied", [False, True])
def test_an_erasure_that_died_is_completed_by_the_same_request(
    image_site: Any, applied: bool
) -> None:
    site = image_site
    _train(site, CANARY, "tom")
    _train(site, CANARY)
    site.work_off()
    _generate(site, CANARY, "tom")
    site.generate(tokens={"<rex>": CANARY}, response_format="url")
    before = _bodies(site.store)
    for number in range(200):
        store: Any = InterruptibleStore(MemoryStore())
        for key, body in before.items():
            store.inner.put(key, body)
        ledger = replace(site.ledger, store=store, lease_store=store, gather=_one_by_one)
        eraser = Eraser(ledger, replace(site.images, ledger=ledger), "acme", "key")
        with store.crashing(number, applied=applied) as reached:
            eraser.erase(Target("subject", CANARY))
        # A supervisor that meets what the crash has left must not lose what else there is to erase.
        Recovery(ledger).sweep()
        Recovery(ledger).recover()
        assert eraser.erase(Target("subject", CANARY)).record.finished
        assert _places_in(store, CANARY, f"photos of {CANARY}") == [], f"after write {number}"
        assert _places_in(store, "tom")
        if not reached:
            return
    raise AssertionError("the erasure does not end")


def test_uploads_are_listed_in_pages(site: Any) -> None:
    digests = sorted(site.upload(name) for name in (b"a", b"b", b"c"))
    site.upload(b"d", "other")
    first = site.get("/v1/uploads?limit=2").json()
    assert [upload["sha256"] for upload in first["uploads"]] == digests[:2]
    second = site.get(f"/v1/uploads?limit=2&cursor={first['next']}").json()
    assert [upload["sha256"] for upload in second["uploads"]] == digests[2:]
    assert second["next"] is None
    assert second["uploads"][0]["size"] == 1
