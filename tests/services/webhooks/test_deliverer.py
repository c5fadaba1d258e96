"""Every subscribed end of a job is delivered at least once, whatever fails; no other is."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
from interruptions import WRITES, Crash, at_each_request

from services.auth.tenants import rotate_webhook_secret
from services.errors import ConflictError, InvalidIdError, OutcomeUnknownError, UnavailableError
from services.ledger.deletion import delete_job, delete_tenant
from services.ledger.submissions import cancel, retry
from services.webhooks.deliverer import MAX_BACKOFF_S, MIN_BACKOFF_S, read_dead_letters
from services.webhooks.sender import DeliveryResponse, WebhookSender
from services.webhooks.subscriptions import subscribe, subscribe_retry, unsubscribe
from services.webhooks.targets import WebhookSettings

_HOURS = 3600


def _body(harness: Any, number: int = 0) -> dict[str, Any]:
    return json.loads(harness.recorder.sent[number][2])


def test_the_message_has_the_jobs_counts_and_nothing_of_its_items(
    harness: Any, receives: Any
) -> None:
    job = harness.submit(url="https://sink.test/hook?a=b", tags={"team": "shop"})
    assert harness.deliver() == []
    harness.end()
    ended = harness.now()
    assert harness.deliver() == [f"msg_{job}_00"]
    ((url, headers, body),) = harness.recorder.sent
    assert url == "https://sink.test/hook?a=b"
    assert headers["webhook-timestamp"] == str(int(ended.timestamp()))
    assert receives(harness.secret(), headers, body)
    payload = json.loads(body)
    assert payload["type"] == "training_job.ended"
    assert payload["timestamp"] == ended.isoformat()
    assert payload["data"]["counts"].pop("succeeded") == 2
    assert set(payload["data"].pop("counts").values()) == {0}
    assert payload["data"] == {"job": job, "state": "succeeded", "tags": {"team": "shop"}}
    assert b"item" not in body
    assert harness.hints() == []
    assert harness.told == ["delivered"]
    assert harness.deliver() == []


def test_a_real_server_gets_a_signed_message(harness: Any, server: Any, receives: Any) -> None:
    settings = WebhookSettings(allow_http=True, allow_private=True)
    harness.submit(url=f"http://127.0.0.1:{server.port}/hook")
    harness.end()
    deliverer = harness.deliverer(settings=settings, sender=WebhookSender(settings))
    deliverer.deliver_due()
    assert deliverer.wait(20)
    ((path, headers, body),) = server.requests
    assert path == "/hook"
    assert receives(harness.secret(), headers, body)
    assert harness.hints() == []


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_failed_and_cancelled_jobs_are_delivered_too(harness: Any, state: str) -> None:
    job = harness.submit()
    if state == "cancelled":
        cancel(harness.ledger, "acme", job)
    harness.end(fail=True)
    harness.deliver()
    assert _body(harness)["data"]["state"] == state
    assert _body(harness)["data"]["counts"][state] == 2


def test_tenants_have_secrets_of_their_own(harness: Any, receives: Any) -> None:
    for tenant in ("acme", "other"):
        harness.submit(tenant)
    harness.end()
    assert len(harness.deliver()) == 2
    for _, headers, body in harness.recorder.sent:
        claimed = [
            tenant
            for tenant in ("acme", "other")
            if receives(harness.secret(tenant), headers, body)
        ]
        assert len(claimed) == 1


def test_a_failed_delivery_is_retried_with_exponential_backoff_and_the_same_message(
    harness: Any, receives: Any
) -> None:
    job = harness.submit()
    harness.end()
    harness.recorder.answer = lambda url: DeliveryResponse(False, "answered 503")
    deliverer = harness.deliverer()
    times = []
    for _ in range(24 * 60):
        if harness.deliver(deliverer):
            times.append(harness.seconds)
        harness.seconds += 60
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert len(pauses) >= 9
    for number, pause in enumerate(pauses):
        least = min(MIN_BACKOFF_S * 2**number, MAX_BACKOFF_S)
        assert least <= pause <= 1.5 * least + 60
    bodies = {body for _, _, body in harness.recorder.sent}
    assert len(bodies) == 1
    assert set(harness.recorder.ids) == {f"msg_{job}_00"}
    stamps = [int(headers["webhook-timestamp"]) for _, headers, _ in harness.recorder.sent]
    assert len(set(stamps)) == len(stamps)
    assert all(
        receives(harness.secret(), headers, body) for _, headers, body in harness.recorder.sent
    )
    harness.recorder.answer = lambda url: DeliveryResponse(True, "answered 200")
    harness.seconds += 10 * _HOURS
    assert harness.deliver(deliverer) == [f"msg_{job}_00"]
    assert harness.hints() == []


def test_a_message_becomes_a_dead_letter_after_72_hours(harness: Any) -> None:
    job = harness.submit(url="https://sink.test/?key=secret")
    harness.end()
    harness.recorder.answer = lambda url: DeliveryResponse(False, "answered 503")
    first, deliverer = harness.now(), harness.deliverer()
    while harness.hints():
        harness.deliver(deliverer)
        harness.seconds += 600
    assert read_dead_letters(harness.ledger, "acme", "0" * 26) == []
    (outcome,) = read_dead_letters(harness.ledger, "acme", job)
    assert outcome.message == f"msg_{job}_00"
    assert outcome.reason == "answered 503"
    assert outcome.first == first
    assert timedelta(hours=72) <= outcome.given_up - first <= timedelta(hours=83)
    assert outcome.attempts == len(harness.recorder.sent) > 15
    assert harness.told.count("given_up") == 1
    assert b"secret" not in b"".join(
        harness.store.inner.read(head.key).body
        for head in harness.store.inner.list("t/acme/webhooks/").objects
    )
    delete_tenant(harness.ledger, "acme")
    assert harness.store.inner.list("t/acme/webhooks/").objects == ()


def test_a_410_gives_up_at_once(harness: Any) -> None:
    job = harness.submit()
    harness.end()
    harness.recorder.answer = lambda url: DeliveryResponse(False, "answered 410", gone=True)
    harness.deliver()
    assert harness.hints() == []
    assert [one.reason for one in read_dead_letters(harness.ledger, "acme", job)] == [
        "answered 410"
    ]


def test_a_retry_sends_another_message_with_its_own_id(harness: Any) -> None:
    job = harness.submit()
    harness.end(fail=True)
    assert harness.deliver() == [f"msg_{job}_00"]
    subscribe_retry(harness.ledger, "acme", job, "https://sink.test/hook")
    assert harness.deliver() == []  # The job has ended, but not after the retry.
    assert retry(harness.ledger, "acme", job) == 2
    assert harness.deliver() == []
    harness.end()
    assert harness.deliver() == [f"msg_{job}_01"]
    assert [_body(harness, n)["data"]["state"] for n in (0, 1)] == ["failed", "succeeded"]
    assert harness.hints() == []


def _retry(harness: Any, job: str) -> None:
    subscribe_retry(harness.ledger, "acme", job, "https://sink.test/hook")
    retry(harness.ledger, "acme", job)


@pytest.mark.parametrize("remembered", [False, True])
def test_a_retry_during_a_delivery_is_delivered_after_its_end(
    new_harness: Any, remembered: bool
) -> None:
    for at, harness in at_each_request(new_harness):
        job = harness.submit()
        harness.end(fail=True)
        if remembered:  # Whoever retries has got so far by then.
            subscribe_retry(harness.ledger, "acme", job, "https://sink.test/hook")
        with harness.store.interrupted(at, partial(_retry, harness, job)) as retried:
            harness.deliver()
        assert f"msg_{job}_01" not in harness.recorder.ids
        harness.end()
        harness.seconds += _HOURS
        harness.deliver()
        if retried:
            assert harness.recorder.ids.count(f"msg_{job}_01") == 1
            last = harness.recorder.ids.index(f"msg_{job}_01")
            assert _body(harness, last)["data"]["counts"]["succeeded"] == 2
            assert harness.hints() == []
    assert at >= 8


def test_an_undelivered_end_is_superseded_by_the_retry(harness: Any) -> None:
    job = harness.submit()
    harness.end(fail=True)
    harness.recorder.answer = lambda url: DeliveryResponse(False, "answered 503")
    harness.deliver()
    subscribe_retry(harness.ledger, "acme", job, "https://sink.test/hook")
    retry(harness.ledger, "acme", job)
    harness.end()
    harness.recorder.answer = lambda url: DeliveryResponse(True, "answered 200")
    harness.seconds += _HOURS
    assert harness.deliver() == [f"msg_{job}_01"]
    assert harness.hints() == []


def test_a_subscription_without_a_retry_is_dropped(harness: Any) -> None:
    job = harness.submit()
    harness.end()
    harness.deliver()
    subscribe_retry(harness.ledger, "acme", job, "https://sink.test/hook")
    deliverer = harness.deliverer()
    for _ in range(73):
        assert harness.deliver(deliverer) == []
        harness.seconds += _HOURS
    assert harness.hints() == []


@pytest.mark.parametrize("what", ["job", "tenant"])
@pytest.mark.parametrize("tried", [False, True])
def test_deleted_jobs_and_tenants_are_not_delivered(harness: Any, what: str, tried: bool) -> None:
    job = harness.submit()
    harness.end()
    if tried:
        harness.recorder.answer = lambda url: DeliveryResponse(False, "answered 503")
        harness.deliver()
    if what == "job":
        delete_job(harness.ledger, "acme", job)
    else:
        delete_tenant(harness.ledger, "acme")
    harness.recover()
    harness.seconds += _HOURS
    assert harness.deliver() == []
    assert harness.hints() == []
    assert harness.told[-1] == "dropped"


def test_unsubscribe_drops_the_deliveries_of_a_job(harness: Any) -> None:
    job, other = harness.submit(), harness.submit()
    subscribe_retry(harness.ledger, "acme", job, "https://sink.test/hook")
    unsubscribe(harness.ledger, "acme", job)
    assert harness.hints() == [f"webhooks/acme/{other}.00"]


def test_subscribing_again_changes_nothing(harness: Any) -> None:
    job = harness.submit()
    before = harness.store.inner.read(harness.hints()[0]).body
    subscribe(harness.store, "acme", job, "https://elsewhere.test/")
    assert [harness.store.inner.read(key).body for key in harness.hints()] == [before]
    for tenant, name in (("A/B", job), ("acme", "../x")):
        with pytest.raises(InvalidIdError):
            subscribe(harness.store, tenant, name, "https://sink.test/")


def _crash() -> None:
    raise Crash


@pytest.mark.parametrize("applied", [False, True])
def test_a_crash_at_any_write_repeats_the_same_message_id(new_harness: Any, applied: bool) -> None:
    sent, crashed = [], [True]
    while crashed:
        harness = new_harness()
        job = harness.submit()
        harness.end()
        with harness.store.interrupted(len(sent), _crash, applied=applied, writes=True) as crashed:
            harness.deliver()
        for _ in range(3):
            harness.seconds += 60
            harness.deliver()
        assert set(harness.recorder.ids) == {f"msg_{job}_00"}
        assert len({body for _, _, body in harness.recorder.sent}) == 1
        assert harness.hints() == []
        sent.append(len(harness.recorder.sent))
    # At the claim; at the deletion, before which it was delivered; none.
    assert sent == ([1, 1, 1] if applied else [1, 2, 1])


def test_a_crash_during_a_request_leaves_the_delivery_to_another_deliverer(harness: Any) -> None:
    job = harness.submit()
    harness.end()

    def crash(url: str) -> DeliveryResponse:
        raise Crash

    harness.recorder.answer = crash
    harness.deliver()
    harness.recorder.answer = lambda url: DeliveryResponse(True, "answered 200")
    assert harness.deliver() == []  # For all that others know, it is still at it.
    harness.seconds += 1.5 * MIN_BACKOFF_S
    assert harness.deliver() == [f"msg_{job}_00"]


def _lose_answer(harness: Any) -> None:
    name, _ = harness.store.requests[-1]
    raise (OutcomeUnknownError if name in WRITES else UnavailableError)("no answer")


@pytest.mark.parametrize("applied", [False, True])
def test_an_outage_at_any_request_to_the_store_loses_no_message(
    new_harness: Any, applied: bool
) -> None:
    for at, harness in at_each_request(new_harness):
        job = harness.submit()
        harness.end()
        with harness.store.interrupted(at, partial(_lose_answer, harness), applied=applied):
            try:
                harness.deliver()
            except UnavailableError:
                assert harness.recorder.sent == []
        for _ in range(2):
            harness.seconds += 60
            harness.deliver()
        assert set(harness.recorder.ids) == {f"msg_{job}_00"}
        assert len(harness.recorder.sent) <= 2
        assert harness.hints() == []
    assert at >= 8


def test_several_deliverers_send_each_message_once(harness: Any) -> None:
    jobs = [harness.submit(f"t{number % 3}", count=1) for number in range(12)]
    harness.end()
    deliverers = [harness.deliverer() for _ in range(4)]
    ready = threading.Barrier(4)

    def deliver(deliverer: Any) -> None:
        ready.wait(10)
        deliverer.deliver_due()
        assert deliverer.wait(20)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(deliver, deliverers))
    assert sorted(harness.recorder.ids) == sorted(f"msg_{job}_00" for job in jobs)
    assert harness.hints() == []


def test_a_slow_target_delays_no_other_tenant_and_not_the_loop(harness: Any) -> None:
    come, stuck = threading.Event(), threading.Event()
    slow = [harness.submit("slow", url="https://slow.test/", count=1) for _ in range(20)]
    harness.end()

    def answer(url: str) -> DeliveryResponse:
        if "slow" in url:
            stuck.set()
            assert come.wait(30)
        return DeliveryResponse(True, "answered 200")

    harness.recorder.answer = answer
    deliverer = harness.deliverer()
    assert deliverer.deliver_due() == 20
    assert stuck.wait(10)
    quick = [harness.submit("quick", count=1) for _ in range(3)]
    harness.end()
    deliverer.deliver_due()
    deadline = threading.Event()
    for _ in range(1000):
        left = {key.split("/")[1] for key in harness.hints()}
        if "quick" not in left:
            break
        deadline.wait(0.01)
    assert left == {"slow"}
    assert {f"msg_{job}_00" for job in quick} <= set(harness.recorder.ids)
    come.set()
    assert deliverer.wait(30)
    deliverer.deliver_due()
    assert deliverer.wait(30)
    assert sorted(harness.recorder.ids) == sorted(f"msg_{job}_00" for job in slow + quick)


def test_a_damaged_delivery_delays_no_other_and_is_logged_once(
    harness: Any, caplog: pytest.LogCaptureFixture
) -> None:
    bad, good = harness.submit(), harness.submit()
    harness.end()
    harness.store.inner.put(f"webhooks/acme/{bad}.00", b"x")
    harness.store.inner.put("webhooks/acme/notes.txt", b"x")
    deliverer = harness.deliverer()
    for _ in range(5):
        harness.deliver(deliverer)
        harness.seconds += 5
    assert harness.recorder.ids == [f"msg_{good}_00"]
    [record] = caplog.records
    assert vars(record)["dti_fields"]["message_id"] == f"msg_{bad}_00"


def test_unfinished_jobs_cost_two_listings(harness: Any) -> None:
    deliverer = harness.deliverer()
    harness.store.requests.clear()
    harness.deliver(deliverer)
    assert harness.store.requests == [("list", "webhooks/")]
    for _ in range(5):
        harness.submit()
    harness.store.requests.clear()
    harness.deliver(deliverer)
    assert harness.store.requests == [("list", "webhooks/"), ("list", "queue/")]


def test_a_delivery_that_is_not_due_is_read_once(harness: Any) -> None:
    for _ in range(5):
        harness.submit()
    harness.end()
    harness.recorder.answer = lambda url: DeliveryResponse(False, "answered 503")
    deliverer = harness.deliverer()
    harness.deliver(deliverer)
    for _ in range(3):
        harness.seconds += 5
        harness.store.requests.clear()
        harness.deliver(deliverer)
        assert len(harness.store.requests) == 2
    other = harness.deliverer()
    harness.deliver(other)
    harness.store.requests.clear()
    harness.deliver(other)
    assert len(harness.store.requests) == 2


def test_a_secret_in_a_url_is_in_no_log(harness: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    settings = WebhookSettings(allow_http=True)
    harness.submit(url="http://127.0.0.1:1/?key=hidden")
    harness.submit(url="http://user:hidden@sink.test/")
    harness.end()
    sender = WebhookSender(settings, resolve=lambda *_: ["127.0.0.1"])
    deliverer = harness.deliverer(settings=settings, sender=sender)
    deliverer.deliver_due()
    assert deliverer.wait(20)
    assert harness.told == ["failed", "failed"]
    assert caplog.records
    assert "hidden" not in caplog.text
    assert "hidden" not in str([vars(record) for record in caplog.records])


def test_receivers_of_the_old_and_the_new_secret_accept_every_message(
    harness: Any, receives: Any
) -> None:
    harness.submit()
    harness.end()
    old = harness.secret()
    new = rotate_webhook_secret(harness.store, "acme", timedelta(hours=1))
    newest = rotate_webhook_secret(harness.store, "acme", timedelta(hours=2))
    assert harness.secret() == newest
    harness.deliver()
    [(_, headers, body)] = harness.recorder.sent
    assert all(receives(secret, headers, body) for secret in (old, new, newest))
    harness.submit()
    harness.end()
    harness.seconds += 3601
    harness.deliver()
    (_, headers, body) = harness.recorder.sent[-1]
    assert not receives(old, headers, body)
    assert receives(new, headers, body)
    assert receives(newest, headers, body)
    with pytest.raises(ConflictError):
        rotate_webhook_secret(harness.store, "acme", timedelta(-1))
