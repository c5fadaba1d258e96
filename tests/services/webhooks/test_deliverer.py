"""Every subscribed end of a job is delivered at least once, whatever fails; no other is."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from itertools import pairwise
from typing import Any

import pytest

from services.errors import InvalidIdError, OutcomeUnknownError, UnavailableError
from services.ledger.deletion import delete_job, delete_tenant
from services.ledger.submissions import cancel, retry
from services.webhooks.deliverer import MAX_BACKOFF_S, MIN_BACKOFF_S, read_dead_letters
from services.webhooks.sender import DeliveryResponse, WebhookSender
from services.webhooks.subscriptions import subscribe, subscribe_retry, unsubscribe
from services.webhooks.targets import WebhookSettings

_HOURS = 3600


class Crash(BaseException):
    """The process is gone: nothing of it runs on."""


def _body(scene: Any, number: int = 0) -> dict[str, Any]:
    return json.loads(scene.recorder.sent[number][2])


def test_the_message_has_the_jobs_counts_and_nothing_of_its_items(
    scene: Any, receives: Any
) -> None:
    job = scene.submit(url="https://sink.test/hook?a=b", tags={"team": "shop"})
    assert scene.deliver() == []
    scene.end()
    ended = scene.now()
    assert scene.deliver() == [f"msg_{job}_00"]
    ((url, headers, body),) = scene.recorder.sent
    assert url == "https://sink.test/hook?a=b"
    assert headers["webhook-timestamp"] == str(int(ended.timestamp()))
    assert receives(scene.secret(), headers, body)
    told = json.loads(body)
    assert told["type"] == "training_job.ended"
    assert told["timestamp"] == ended.isoformat()
    assert told["data"]["counts"].pop("succeeded") == 2
    assert set(told["data"].pop("counts").values()) == {0}
    assert told["data"] == {"job": job, "state": "succeeded", "tags": {"team": "shop"}}
    assert b"item" not in body
    assert scene.hints() == []
    assert scene.told == ["delivered"]
    assert scene.deliver() == []


def test_a_real_server_gets_a_signed_message(scene: Any, server: Any, receives: Any) -> None:
    settings = WebhookSettings(allow_http=True, allow_private=True)
    scene.submit(url=f"http://127.0.0.1:{server.port}/hook")
    scene.end()
    deliverer = scene.deliverer(settings=settings, sender=WebhookSender(settings))
    deliverer.deliver_due()
    assert deliverer.wait(20)
    ((path, headers, body),) = server.requests
    assert path == "/hook"
    assert receives(scene.secret(), headers, body)
    assert scene.hints() == []


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_failed_and_cancelled_jobs_are_delivered_too(scene: Any, state: str) -> None:
    job = scene.submit()
    if state == "cancelled":
        cancel(scene.ledger, "acme", job)
    scene.end(fail=True)
    scene.deliver()
    assert _body(scene)["data"]["state"] == state
    assert _body(scene)["data"]["counts"][state] == 2


def test_tenants_have_secrets_of_their_own(scene: Any, receives: Any) -> None:
    for tenant in ("acme", "other"):
        scene.submit(tenant)
    scene.end()
    assert len(scene.deliver()) == 2
    for _, headers, body in scene.recorder.sent:
        taken = [
            tenant for tenant in ("acme", "other") if receives(scene.secret(tenant), headers, body)
        ]
        assert len(taken) == 1


def test_a_failed_delivery_is_retried_with_exponential_backoff_and_the_same_message(
    scene: Any, receives: Any
) -> None:
    job = scene.submit()
    scene.end()
    scene.recorder.answer = lambda url: DeliveryResponse(False, "answered 503")
    deliverer = scene.deliverer()
    times = []
    for _ in range(24 * 60):
        if scene.deliver(deliverer):
            times.append(scene.seconds)
        scene.seconds += 60
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert len(pauses) >= 9
    for number, pause in enumerate(pauses):
        least = min(MIN_BACKOFF_S * 2**number, MAX_BACKOFF_S)
        assert least <= pause <= 1.5 * least + 60
    bodies = {body for _, _, body in scene.recorder.sent}
    assert len(bodies) == 1
    assert set(scene.recorder.ids) == {f"msg_{job}_00"}
    stamps = [int(headers["webhook-timestamp"]) for _, headers, _ in scene.recorder.sent]
    assert len(set(stamps)) == len(stamps)
    assert all(receives(scene.secret(), headers, body) for _, headers, body in scene.recorder.sent)
    scene.recorder.answer = lambda url: DeliveryResponse(True, "answered 200")
    scene.seconds += 10 * _HOURS
    assert scene.deliver(deliverer) == [f"msg_{job}_00"]
    assert scene.hints() == []


def test_a_message_becomes_a_dead_letter_after_72_hours(scene: Any) -> None:
    job = scene.submit(url="https://sink.test/?key=secret")
    scene.end()
    scene.recorder.answer = lambda url: DeliveryResponse(False, "answered 503")
    first, deliverer = scene.now(), scene.deliverer()
    while scene.hints():
        scene.deliver(deliverer)
        scene.seconds += 600
    assert read_dead_letters(scene.ledger, "acme", "0" * 26) == []
    (outcome,) = read_dead_letters(scene.ledger, "acme", job)
    assert outcome.message == f"msg_{job}_00"
    assert outcome.reason == "answered 503"
    assert outcome.first == first
    assert timedelta(hours=72) <= outcome.given_up - first <= timedelta(hours=83)
    assert outcome.attempts == len(scene.recorder.sent) > 15
    assert scene.told.count("given_up") == 1
    assert b"secret" not in b"".join(
        scene.store.inner.read(head.key).body
        for head in scene.store.inner.list("t/acme/webhooks/").objects
    )
    delete_tenant(scene.ledger, "acme")
    assert scene.store.inner.list("t/acme/webhooks/").objects == ()


def test_a_410_gives_up_at_once(scene: Any) -> None:
    job = scene.submit()
    scene.end()
    scene.recorder.answer = lambda url: DeliveryResponse(False, "answered 410", gone=True)
    scene.deliver()
    assert scene.hints() == []
    assert [one.reason for one in read_dead_letters(scene.ledger, "acme", job)] == ["answered 410"]


def test_a_retry_sends_another_message_with_its_own_id(scene: Any) -> None:
    job = scene.submit()
    scene.end(fail=True)
    assert scene.deliver() == [f"msg_{job}_00"]
    subscribe_retry(scene.ledger, "acme", job, "https://sink.test/hook")
    assert scene.deliver() == []  # The job has ended, but not after the retry.
    assert retry(scene.ledger, "acme", job) == 2
    assert scene.deliver() == []
    scene.end()
    assert scene.deliver() == [f"msg_{job}_01"]
    assert [_body(scene, n)["data"]["state"] for n in (0, 1)] == ["failed", "succeeded"]
    assert scene.hints() == []


def _retry(scene: Any, job: str, _: str) -> None:
    subscribe_retry(scene.ledger, "acme", job, "https://sink.test/hook")
    retry(scene.ledger, "acme", job)


@pytest.mark.parametrize("remembered", [False, True])
def test_a_retry_during_a_delivery_is_delivered_after_its_end(
    new_scene: Any, remembered: bool
) -> None:
    at, retried = 0, [True]
    while retried:
        scene = new_scene()
        job = scene.submit()
        scene.end(fail=True)
        if remembered:  # Whoever retries has got so far by then.
            subscribe_retry(scene.ledger, "acme", job, "https://sink.test/hook")
        with scene.store.interrupted(at, partial(_retry, scene, job)) as retried:
            scene.deliver()
        assert f"msg_{job}_01" not in scene.recorder.ids
        scene.end()
        scene.seconds += _HOURS
        scene.deliver()
        if retried:
            assert scene.recorder.ids.count(f"msg_{job}_01") == 1
            last = scene.recorder.ids.index(f"msg_{job}_01")
            assert _body(scene, last)["data"]["counts"]["succeeded"] == 2
            assert scene.hints() == []
        at += 1
    assert at > 8


def test_an_undelivered_end_is_superseded_by_the_retry(scene: Any) -> None:
    job = scene.submit()
    scene.end(fail=True)
    scene.recorder.answer = lambda url: DeliveryResponse(False, "answered 503")
    scene.deliver()
    subscribe_retry(scene.ledger, "acme", job, "https://sink.test/hook")
    retry(scene.ledger, "acme", job)
    scene.end()
    scene.recorder.answer = lambda url: DeliveryResponse(True, "answered 200")
    scene.seconds += _HOURS
    assert scene.deliver() == [f"msg_{job}_01"]
    assert scene.hints() == []


def test_a_subscription_without_a_retry_is_dropped(scene: Any) -> None:
    job = scene.submit()
    scene.end()
    scene.deliver()
    subscribe_retry(scene.ledger, "acme", job, "https://sink.test/hook")
    deliverer = scene.deliverer()
    for _ in range(73):
        assert scene.deliver(deliverer) == []
        scene.seconds += _HOURS
    assert scene.hints() == []


@pytest.mark.parametrize("what", ["job", "tenant"])
@pytest.mark.parametrize("tried", [False, True])
def test_deleted_jobs_and_tenants_are_not_delivered(scene: Any, what: str, tried: bool) -> None:
    job = scene.submit()
    scene.end()
    if tried:
        scene.recorder.answer = lambda url: DeliveryResponse(False, "answered 503")
        scene.deliver()
    if what == "job":
        delete_job(scene.ledger, "acme", job)
    else:
        delete_tenant(scene.ledger, "acme")
    scene.recover()
    scene.seconds += _HOURS
    assert scene.deliver() == []
    assert scene.hints() == []
    assert scene.told[-1] == "dropped"


def test_unsubscribe_drops_the_deliveries_of_a_job(scene: Any) -> None:
    job, other = scene.submit(), scene.submit()
    subscribe_retry(scene.ledger, "acme", job, "https://sink.test/hook")
    unsubscribe(scene.ledger, "acme", job)
    assert scene.hints() == [f"webhooks/acme/{other}.00"]


def test_subscribing_again_changes_nothing(scene: Any) -> None:
    job = scene.submit()
    before = scene.store.inner.read(scene.hints()[0]).body
    subscribe(scene.store, "acme", job, "https://elsewhere.test/")
    assert [scene.store.inner.read(key).body for key in scene.hints()] == [before]
    for tenant, name in (("A/B", job), ("acme", "../x")):
        with pytest.raises(InvalidIdError):
            subscribe(scene.store, tenant, name, "https://sink.test/")


def _crash(_: str) -> None:
    raise Crash


@pytest.mark.parametrize("applied", [False, True])
def test_a_crash_at_any_write_repeats_the_same_message_id(new_scene: Any, applied: bool) -> None:
    sent, crashed = [], [True]
    while crashed:
        scene = new_scene()
        job = scene.submit()
        scene.end()
        with scene.store.interrupted(len(sent), _crash, applied=applied, writes=True) as crashed:
            scene.deliver()
        for _ in range(3):
            scene.seconds += 60
            scene.deliver()
        assert set(scene.recorder.ids) == {f"msg_{job}_00"}
        assert len({body for _, _, body in scene.recorder.sent}) == 1
        assert scene.hints() == []
        sent.append(len(scene.recorder.sent))
    # At the claim; at the deletion, before which it was delivered; none.
    assert sent == ([1, 1, 1] if applied else [1, 2, 1])


def test_a_crash_during_a_request_leaves_the_delivery_to_another_deliverer(scene: Any) -> None:
    job = scene.submit()
    scene.end()

    def crash(url: str) -> DeliveryResponse:
        raise Crash

    scene.recorder.answer = crash
    scene.deliver()
    scene.recorder.answer = lambda url: DeliveryResponse(True, "answered 200")
    assert scene.deliver() == []  # For all that others know, it is still at it.
    scene.seconds += 1.5 * MIN_BACKOFF_S
    assert scene.deliver() == [f"msg_{job}_00"]


def _say_nothing(name: str) -> None:
    writes = name in ("create", "replace", "put", "delete")
    raise (OutcomeUnknownError if writes else UnavailableError)("no answer")


@pytest.mark.parametrize("applied", [False, True])
def test_an_outage_at_any_request_to_the_store_loses_no_message(
    new_scene: Any, applied: bool
) -> None:
    at, happened = 0, [True]
    while happened:
        scene = new_scene()
        job = scene.submit()
        scene.end()
        with scene.store.interrupted(at, _say_nothing, applied=applied) as happened:
            try:
                scene.deliver()
            except UnavailableError:
                assert scene.recorder.sent == []
        for _ in range(2):
            scene.seconds += 60
            scene.deliver()
        assert set(scene.recorder.ids) == {f"msg_{job}_00"}
        assert len(scene.recorder.sent) <= 2
        assert scene.hints() == []
        at += 1
    assert at > 8


def test_several_deliverers_send_each_message_once(scene: Any) -> None:
    jobs = [scene.submit(f"t{number % 3}", count=1) for number in range(12)]
    scene.end()
    deliverers = [scene.deliverer() for _ in range(4)]
    ready = threading.Barrier(4)

    def deliver(deliverer: Any) -> None:
        ready.wait(10)
        deliverer.deliver_due()
        assert deliverer.wait(20)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(deliver, deliverers))
    assert sorted(scene.recorder.ids) == sorted(f"msg_{job}_00" for job in jobs)
    assert scene.hints() == []


def test_a_slow_target_delays_no_other_tenant_and_not_the_loop(scene: Any) -> None:
    come, stuck = threading.Event(), threading.Event()
    slow = [scene.submit("slow", url="https://slow.test/", count=1) for _ in range(20)]
    scene.end()

    def answer(url: str) -> DeliveryResponse:
        if "slow" in url:
            stuck.set()
            assert come.wait(30)
        return DeliveryResponse(True, "answered 200")

    scene.recorder.answer = answer
    deliverer = scene.deliverer()
    assert deliverer.deliver_due() == 20
    assert stuck.wait(10)
    quick = [scene.submit("quick", count=1) for _ in range(3)]
    scene.end()
    deliverer.deliver_due()
    deadline = threading.Event()
    for _ in range(1000):
        left = {key.split("/")[1] for key in scene.hints()}
        if "quick" not in left:
            break
        deadline.wait(0.01)
    assert left == {"slow"}
    assert {f"msg_{job}_00" for job in quick} <= set(scene.recorder.ids)
    come.set()
    assert deliverer.wait(30)
    deliverer.deliver_due()
    assert deliverer.wait(30)
    assert sorted(scene.recorder.ids) == sorted(f"msg_{job}_00" for job in slow + quick)


def test_a_damaged_delivery_delays_no_other_and_is_logged_once(
    scene: Any, caplog: pytest.LogCaptureFixture
) -> None:
    bad, good = scene.submit(), scene.submit()
    scene.end()
    scene.store.inner.put(f"webhooks/acme/{bad}.00", b"x")
    scene.store.inner.put("webhooks/acme/notes.txt", b"x")
    deliverer = scene.deliverer()
    for _ in range(5):
        scene.deliver(deliverer)
        scene.seconds += 5
    assert scene.recorder.ids == [f"msg_{good}_00"]
    [record] = caplog.records
    assert vars(record)["dti_fields"]["message_id"] == f"msg_{bad}_00"


def test_unfinished_jobs_cost_two_listings(scene: Any) -> None:
    deliverer = scene.deliverer()
    scene.store.requests.clear()
    scene.deliver(deliverer)
    assert scene.store.requests == [("list", "webhooks/")]
    for _ in range(5):
        scene.submit()
    scene.store.requests.clear()
    scene.deliver(deliverer)
    assert scene.store.requests == [("list", "webhooks/"), ("list", "queue/")]


def test_a_delivery_that_is_not_due_is_read_once(scene: Any) -> None:
    for _ in range(5):
        scene.submit()
    scene.end()
    scene.recorder.answer = lambda url: DeliveryResponse(False, "answered 503")
    deliverer = scene.deliverer()
    scene.deliver(deliverer)
    for _ in range(3):
        scene.seconds += 5
        scene.store.requests.clear()
        scene.deliver(deliverer)
        assert len(scene.store.requests) == 2
    other = scene.deliverer()
    scene.deliver(other)
    scene.store.requests.clear()
    scene.deliver(other)
    assert len(scene.store.requests) == 2


def test_a_secret_in_a_url_is_in_no_log(scene: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    settings = WebhookSettings(allow_http=True)
    scene.submit(url="http://127.0.0.1:1/?key=hidden")
    scene.submit(url="http://user:hidden@sink.test/")
    scene.end()
    sender = WebhookSender(settings, resolve=lambda *_: ["127.0.0.1"])
    deliverer = scene.deliverer(settings=settings, sender=sender)
    deliverer.deliver_due()
    assert deliverer.wait(20)
    assert scene.told == ["failed", "failed"]
    assert caplog.records
    assert "hidden" not in caplog.text
    assert "hidden" not in str([vars(record) for record in caplog.records])
