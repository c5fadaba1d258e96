"""Event streams of jobs: every change is sent, and one poller per job reads the store."""

import threading
from typing import Any

import pytest

from services.auth.keys import revoke_key
from services.errors import UnavailableError
from services.settings import ApiSettings


def _path(url: str, job: str) -> str:
    return f"{url}/v1/training-jobs/{job}/events"


def test_a_stream_follows_a_job_to_its_end(site: Any, parts: Any) -> None:
    job = site.make("rex", "ada")
    with (
        site.served() as url,
        parts.http.stream("GET", _path(url, job), headers=site.headers(), timeout=20) as answer,
    ):
        assert answer.headers["content-type"].startswith("text/event-stream")
        heard = parts.events(answer.iter_lines())
        name, first = next(heard)
        assert (name, first["state"]) == ("job", "queued")
        worker = site.worker()
        attempts = worker.claim(2)
        said = {"step": 50, "steps": 200, "loss": 0.5, "phase": "training"}
        attempts[0].report_progress(said)
        worker.heartbeat()
        progress = next(data for name, data in heard if name == "progress")
        while progress != {str(attempts[0].item_ref.index): said}:
            progress = next(data for name, data in heard if name == "progress")
        for attempt in attempts:
            attempt.succeed(b"")
        *rest, (last, end) = [event for event in heard if event[0] != ":"]
        assert (last, end["state"], end["counts"]["succeeded"]) == ("end", "succeeded", 2)
        assert rest[-1] == ("job", end)
        worker.end()


def test_a_stream_of_an_ended_job_ends_at_once(site: Any, parts: Any) -> None:
    job = site.make("rex")
    site.work_off()
    headers = {"Last-Event-ID": "whatever"}
    answer = site.get(_path("", job), headers=headers)
    assert [name for name, _ in parts.events(iter(answer.text.splitlines()))] == ["job", "end"]


def test_a_stream_ends_when_its_job_is_deleted(site: Any, parts: Any) -> None:
    job = site.make("rex")
    with (
        site.served() as url,
        parts.http.stream("GET", _path(url, job), headers=site.headers(), timeout=20) as answer,
    ):
        heard = parts.events(answer.iter_lines())
        assert next(heard)[0] == "job"
        parts.http.delete(f"{url}/v1/training-jobs/{job}", headers=site.headers())
        assert [event for event in heard if event[0] != ":"][-1] == ("end", {"state": "deleted"})


def test_an_idle_stream_sends_comments(site: Any, parts: Any) -> None:
    job = site.make("rex")
    with (
        site.served() as url,
        parts.http.stream("GET", _path(url, job), headers=site.headers(), timeout=20) as answer,
    ):
        heard = parts.events(answer.iter_lines())
        assert [next(heard)[0] for _ in range(4)] == ["job", ":", ":", ":"]


def test_streams_of_one_job_share_a_poller_that_ends_with_the_last(site: Any, parts: Any) -> None:
    job = site.make("rex")
    streams = site.app.state.service.events
    looks: list[str] = []
    read = streams._read

    def counted(tenant: str, job: str) -> Any:
        looks.append(threading.current_thread().name)
        return read(tenant, job)

    streams._read = counted
    with site.served() as url, parts.http.Client(headers=site.headers(), timeout=20) as client:
        answers = [client.stream("GET", _path(url, job)) for _ in range(10)]
        heard = [parts.events(answer.__enter__().iter_lines()) for answer in answers]
        assert all(next(events)[0] == "job" for events in heard)
        assert streams.num_polled_jobs == 1
        for answer in answers[:-1]:
            answer.__exit__(None, None, None)
        before = len(looks)
        parts.until(lambda: len(looks) > before + 2)
        assert streams.num_polled_jobs == 1
        answers[-1].__exit__(None, None, None)
        parts.until(lambda: streams.num_polled_jobs == 0)
        assert site.app.state.service.shares.event_streams.used == 0
        # The last read may have been under way.
        before = len(looks)
        threading.Event().wait(0.3)
        assert len(looks) <= before + 1


def test_a_tenant_has_a_limited_number_of_streams(new_site: Any, parts: Any) -> None:
    site = new_site(settings=ApiSettings(event_poll_interval_s=0.02, max_streams_per_tenant=1))
    job, theirs = site.make("rex"), site.make("rex", tenant="other")
    with site.served() as url, parts.http.Client(headers=site.headers(), timeout=5) as client:
        with client.stream("GET", _path(url, job)) as answer:
            heard = parts.events(answer.iter_lines())  # Kept: the stream is closed with it.
            assert next(heard)[0] == "job"
            refused = client.get(_path(url, job))
            assert refused.status_code == 429
            assert refused.headers["Retry-After"]
            headers = site.headers("other")
            with parts.http.stream("GET", _path(url, theirs), headers=headers) as other:
                assert other.status_code == 200
        parts.until(lambda: site.app.state.service.events.num_polled_jobs == 0)
        with client.stream("GET", _path(url, job)) as answer:
            assert answer.status_code == 200


def test_an_unavailable_store_ends_no_stream(site: Any, parts: Any) -> None:
    job = site.make("rex")
    streams = site.app.state.service.events
    read, trouble = streams._read, [True] * 3

    def failing(tenant: str, job: str) -> Any:
        if trouble:
            trouble.pop()
            raise UnavailableError("the store did not answer")
        return read(tenant, job)

    streams._read = failing
    with (
        site.served() as url,
        parts.http.stream("GET", _path(url, job), headers=site.headers(), timeout=20) as answer,
    ):
        name, view = next(event for event in parts.events(answer.iter_lines()) if event[0] != ":")
        assert (name, view["job"], trouble) == ("job", job, [])


def test_a_stream_ends_when_its_key_is_revoked(
    site: Any, parts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from services.api.jobs import events as streams

    monkeypatch.setattr(streams, "_KEY_CHECK_INTERVAL_S", 0.05)
    authenticator = site.app.state.service.authenticator
    monkeypatch.setattr(authenticator._keys, "_ttl_s", 0.0)
    job = site.make("rex")
    with (
        site.served() as url,
        parts.http.stream("GET", _path(url, job), headers=site.headers(), timeout=20) as answer,
    ):
        heard = parts.events(answer.iter_lines())
        assert next(heard)[0] == "job"
        revoke_key(site.store, site.keys["acme"].split("_")[1])
        assert [name for name, _ in heard if name != ":"] == []


def test_a_stopping_server_ends_its_streams(site: Any, parts: Any) -> None:
    job = site.make("rex")
    with (
        parts.run(site.app) as (url, server),
        parts.http.stream("GET", _path(url, job), headers=site.headers(), timeout=20) as answer,
    ):
        heard = parts.events(answer.iter_lines())
        assert next(heard)[0] == "job"
        server.handle_exit(15, None)
        # Ended in order: a connection that is cut raises.
        assert [name for name, _ in heard if name != ":"] == []
