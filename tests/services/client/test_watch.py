"""A job as it goes on, on the real API: with events, without, and across restarts."""

import threading
from collections.abc import Iterator

import httpx
import pytest
from hosted import STEPS, Hosted, wait_until

from services.client import watch as watching
from services.client.client import Client
from services.client.errors import ApiKeyRefusedError, GoneError, ResourceNotFoundError
from services.client.uploader import content_of
from services.client.watch import Disconnected, ItemsAdvanced, JobChanged, Update


def submit(client: Client, *names: str) -> str:
    """Return a job of these subjects."""
    bundle = content_of(b"a bundle")
    client.upload([bundle])
    subjects = [
        {"id": name, "bundle": bundle.sha256, "placeholder": f"<{name}>", "initializer": "dog"}
        for name in names
    ]
    return client.submit({"subjects": subjects}, " ".join(names)).job


class WithoutEvents(httpx.BaseTransport):
    """A transport that drops event streams, as a proxy may."""

    def __init__(self, answer: httpx.Response) -> None:
        self._http, self._answer, self.refused = httpx.HTTPTransport(), answer, 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/events"):
            self.refused += 1
            return httpx.Response(
                self._answer.status_code, headers=self._answer.headers, content=b"{}"
            )
        return self._http.handle_request(request)

    def close(self) -> None:
        self._http.close()


def check_whole(updates: list[Update]) -> None:
    """They tell of two items, from the beginning to the end."""
    last = updates[-1]
    assert isinstance(last, JobChanged)
    assert last.job.state == "succeeded"
    assert last.job.counts.succeeded == 2
    advanced = [each for each in updates if isinstance(each, ItemsAdvanced) and each.progress]
    assert {index for each in advanced for index in each.progress} == {0, 1}
    furthest = [step.step for each in advanced for step in each.progress.values()]
    assert max(furthest) == STEPS
    assert all(step.phase == "training" for step in advanced[-1].progress.values() if step.step)


def end_when_seen(service: Hosted, updates: Iterator[Update]) -> list[Update]:
    """Return all updates; items end once their last step was seen."""
    received: list[Update] = []
    service.may_end.clear()
    for update in updates:
        received.append(update)
        if isinstance(update, ItemsAdvanced):
            steps = {
                i: each.step
                for h in received
                if isinstance(h, ItemsAdvanced)
                for i, each in h.progress.items()
            }
            if list(steps.values()) == [STEPS, STEPS]:
                service.may_end.set()
    return received


def test_events_tell_of_progress_and_end(service: Hosted, client: Client) -> None:
    job = submit(client, "rex", "tom")
    with service.at_work():
        updates = end_when_seen(service, client.watch(job))
    check_whole(updates)
    assert not any(isinstance(each, Disconnected) for each in updates)


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(404),
        httpx.Response(200, headers={"Content-Type": "application/json"}),
    ],
)
def test_without_events_the_job_is_polled(
    service: Hosted, answer: httpx.Response, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "_POLL_INTERVAL_S", 0.02)
    transport = WithoutEvents(answer)
    with service.client(transport=transport) as client, service.at_work():
        check_whole(end_when_seen(service, client.watch(submit(client, "rex", "tom"))))
    assert transport.refused == 1


def test_a_service_that_goes_away_is_waited_for(service: Hosted, client: Client) -> None:
    job = submit(client, "rex", "tom")
    received: list[Update] = []
    back: threading.Thread | None = None
    service.may_end.clear()
    with service.at_work():
        for update in client.watch(job):
            received.append(update)
            if isinstance(update, JobChanged) and back is None:
                service.stop(at_once=True)
                back = threading.Thread(target=service.start)
            elif isinstance(update, Disconnected) and back and not back.ident:
                back.start()
                service.may_end.set()
    assert back
    back.join()
    last = received[-1]
    assert isinstance(last, JobChanged)
    assert last.job.state == "succeeded"
    missed = [each for each in received if isinstance(each, Disconnected)]
    assert "no response from" in missed[0].reason
    assert 0 < missed[0].pause_s <= 10


def test_streams_that_end_early_are_taken_up_again_without_a_word(
    service: Hosted, client: Client
) -> None:
    job = submit(client, "rex")
    updates = client.watch(job)
    assert isinstance(next(updates), JobChanged)
    assert service._server
    service._server.release()  # lets all listeners go, and takes no more
    update = next(update for update in updates)
    assert isinstance(update, JobChanged)
    updates.close()


def test_a_job_that_is_deleted_meanwhile_is_gone(service: Hosted, client: Client) -> None:
    job = submit(client, "rex")
    updates = client.watch(job)
    assert isinstance(next(updates), JobChanged)
    client.delete_job(job)
    with pytest.raises(GoneError):
        list(updates)


def test_permanent_errors_are_raised(service: Hosted, client: Client) -> None:
    with pytest.raises(ResourceNotFoundError):
        list(client.watch("0" * 26))
    service.key = "dti_0000_wrong"
    with service.client() as other_client, pytest.raises(ApiKeyRefusedError):
        list(other_client.watch("0" * 26))


def test_an_ended_job_is_reported_at_once(service: Hosted, client: Client) -> None:
    job = submit(client, "rex")
    with service.at_work():
        wait_until(lambda: client.job(job).ended)
    *_, last = client.watch(job)
    assert isinstance(last, JobChanged)
    assert last.job.ended
