"""Training jobs are read, cancelled, retried and deleted."""

from collections.abc import Callable
from typing import Any

import pytest

from services.contracts.models import MINIATURE


def _path(job: str, rest: str = "") -> str:
    return f"/v1/training-jobs/{job}{rest}"


def test_a_finished_job_shows_its_tokens(site: Any) -> None:
    job = site.make("rex", "ada")
    assert site.work_off() == 2
    view = site.get(_path(job)).json()
    assert (view["state"], view["counts"]["succeeded"], view["progress"]) == ("succeeded", 2, 1.0)
    items = site.get(_path(job, "/items")).json()
    assert [item["id"] for item in items["items"]] == ["rex", "ada"]
    assert items["next"] is None
    rex = items["items"][0]
    assert rex["token"].startswith(f"tok_{job}")
    assert rex["report"] == {"placeholder": "<rex>", "steps": 2}
    one = site.get(_path(job, "/items/0")).json()
    assert one == rex | {"attempts": one["attempts"]}
    assert [attempt["cause"] for attempt in one["attempts"]] == ["succeeded"]


def test_a_failure_shows_its_reason_and_each_attempt_its_own(site: Any) -> None:
    job = site.make("rex", "bad")
    reason = "rex-1.jpg: is blurred; rex-2.jpg: is too small"
    site.work_off(lambda attempt: reason if attempt.item.name == "bad" else "")
    view = site.get(_path(job)).json()
    assert view["state"] == "partially_succeeded"
    [failed] = site.get(_path(job, "/items?state=failed")).json()["items"]
    assert (failed["index"], failed["reason"], failed["token"]) == (1, reason, None)
    [attempt] = site.get(_path(job, "/items/1")).json()["attempts"]
    assert (attempt["cause"], attempt["reason"]) == ("failed", reason)


def test_a_retry_repeats_failed_items(site: Any) -> None:
    job = site.make("rex", "bad")
    site.work_off(lambda attempt: "no" if attempt.item.name == "bad" else "")
    assert site.post(_path(job, "/retry")).json() == {"retried": 1}
    assert site.get(_path(job)).json()["state"] == "running"
    site.work_off()
    assert site.get(_path(job)).json()["state"] == "succeeded"
    attempts = site.get(_path(job, "/items/1")).json()["attempts"]
    assert [(one["round"], one["cause"]) for one in attempts] == [(0, "failed"), (1, "succeeded")]
    assert site.post(_path(job, "/retry")).json() == {"retried": 0}


def test_a_cancelled_job_cannot_be_retried(site: Any) -> None:
    job = site.make("rex", "ada")
    view = site.post(_path(job, "/cancel")).json()
    assert (view["state"], view["counts"]["cancelled"]) == ("cancelled", 2)
    assert site.post(_path(job, "/cancel")).status_code == 200
    assert site.post(_path(job, "/retry")).status_code == 409
    assert site.work_off() == 0


def test_running_items_show_the_progress_that_workers_report(site: Any, parts: Any) -> None:
    job = site.make("rex", "ada")
    worker = site.worker()
    [attempt] = worker.claim(1)
    attempt.report_progress({"step": 50, "steps": 200, "loss": 0.5, "phase": "training"})
    worker.heartbeat()
    path, expected = (
        _path(job, f"/items/{attempt.item_ref.index}"),
        {"step": 50, "steps": 200, "loss": 0.5},
    )
    parts.until(lambda: site.get(path).json()["progress"])
    assert site.get(path).json()["progress"] == expected | {"phase": "training"}
    view = site.get(_path(job)).json()
    assert (view["state"], view["progress"]) == ("running", 0.125)
    attempt.succeed(b"")
    worker.end()


def test_a_job_of_a_model_no_longer_offered_has_a_warning(
    site: Any, new_site: Callable[..., Any]
) -> None:
    job = site.make("rex")
    assert site.get(f"/v1/training-jobs/{job}").json()["warning"] is None
    later = new_site(site.store, models={"other": MINIATURE["miniature"]})
    path = f"/v1/training-jobs/{job}"
    warning = later.get(path).json()["warning"]
    assert "miniature is no longer offered" in warning
    assert later.get("/v1/training-jobs").json()["jobs"][0]["warning"] == warning
    assert later.post(f"{path}/cancel").json()["warning"] is None, "it has ended"


def test_a_deleted_job_is_gone_with_its_tokens_and_audited(site: Any, parts: Any) -> None:
    job, other_job = site.make("rex"), site.make("ada")
    site.work_off()
    [token] = site.tokens(job)
    assert site.ask("DELETE", _path(job)).status_code == 204
    assert site.ask("DELETE", _path(job)).status_code == 204
    for path in ("", "/items", "/items/0", "/events"):
        assert site.get(_path(job, path)).status_code == 410
    for path in ("/cancel", "/retry"):
        assert site.post(_path(job, path)).status_code == 410
    assert site.get(f"/v1/tokens/{token}").status_code == 410
    assert [view["job"] for view in site.get("/v1/training-jobs").json()["jobs"]] == [other_job]
    entries = site.get("/v1/audit").json()["entries"]
    assert {(entry["action"], entry["what"]) for entry in entries} == {("training-job.delete", job)}
    body = {"subjects": site.subjects("x")}
    again = site.submit(body, key="one")
    site.ask("DELETE", again.headers["Location"])
    assert site.submit(body, key="one").status_code == 410


def test_pages_join_without_gap_or_repetition(site: Any) -> None:
    jobs = [site.make(*(f"{number}-{n}" for n in range(5))) for number in range(5)]
    for path, kind, name, count in (
        ("/v1/training-jobs", "jobs", "job", 5),
        (_path(jobs[0], "/items"), "items", "index", 5),
    ):
        for limit in (1, 2, 5, 6):
            seen, cursor = [], ""
            while cursor is not None:
                after = f"&cursor={cursor}" if cursor else ""
                page = site.get(f"{path}?limit={limit}{after}").json()
                assert len(page[kind]) <= limit
                seen += [one[name] for one in page[kind]]
                cursor = page["next"]
            assert len(set(seen)) == len(seen) == count


@pytest.mark.parametrize(
    "path",
    [
        "/v1/training-jobs?limit=0",
        "/v1/training-jobs?limit=201",
        "/v1/training-jobs?cursor=x",
        "/v1/training-jobs?colour=1",
        "/v1/training-jobs?limit=1&limit=2",
        "/v1/training-jobs/{job}?limit=1",
        "/v1/training-jobs/{job}/items?state=lost",
        "/v1/training-jobs/{job}/items?cursor=-1",
        "/v1/training-jobs/{job}/items/-1",
    ],
)
def test_invalid_page_parameters_are_refused(site: Any, path: str) -> None:
    answer = site.get(path.replace("{job}", site.make("rex")))
    assert answer.status_code == 422, answer.text


@pytest.mark.parametrize("job", ["x", "7zzzzzzzzz0000000000000000", "..%2F..", "%00", "%ff"])
def test_unknown_jobs_and_items_are_not_found(site: Any, job: str) -> None:
    for method, rest in (("GET", ""), ("GET", "/items"), ("POST", "/cancel"), ("DELETE", "")):
        answer = site.ask(method, _path(job, rest))
        assert answer.status_code == 404, (method, rest, answer.text)
    assert site.get(_path(site.make("rex"), "/items/1")).status_code == 404


def _files(*names: str) -> dict[str, Any]:
    images = [{"name": name, "sha256": f"{number:064x}"} for number, name in enumerate(names)]
    return {"id": "rex", "images": images, "initializer": "dog"}


@pytest.mark.parametrize(
    ("subject", "told"),
    [
        (_files("a.jpg", "A.JPG"), "names that are one on some systems"),
        (
            _files()
            | {"images": [{"name": name, "sha256": "0" * 64} for name in ("a.png", "b.png")]},
            "two images are the same file",
        ),
        (_files("a.jpg") | {"initializer": None}, "there is no initializer"),
        (_files("a.jpg") | {"id": "\u732b"}, "no placeholder can be made of the id"),
    ],
)
def test_what_a_worker_would_refuse_without_its_images_is_refused_when_the_job_is_made(
    module_site: Any, subject: dict[str, Any], told: str
) -> None:
    answer = module_site.submit({"subjects": [subject]})
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["pointer"] == "#/subjects/0"
    assert told in answer.json()["detail"]


@pytest.mark.parametrize(
    "subject",
    [
        _files("a.jpg", "b.webp"),
        _files("a.jpg", "mask.dat", "bundle.json") | {"initializer": None, "id": "\u732b"},
        {"id": "\u732b", "bundle": "0" * 64},
    ],
)
def test_what_a_bundle_json_may_still_tell_is_left_to_the_worker(
    module_site: Any, subject: dict[str, Any]
) -> None:
    assert module_site.submit({"subjects": [subject]}).status_code == 202


CONTROLS = ["\x00", "\n", "\x1b", "\x7f", "\x9b", "\u061c", "\u200f", "\u2028", "\u202e", "\u2066"]


@pytest.mark.parametrize("control", CONTROLS)
def test_names_have_no_control_and_no_bidirectional_characters(
    module_site: Any, control: str
) -> None:
    bad = f"a{control}b"
    one = {"id": "rex", "bundle": "0" * 64}
    consent = {"attested_by": "a", "basis": "b"}
    for body in (
        {"subjects": [one | {"id": bad}]},
        {"subjects": [one | {"initializer": bad}]},
        {"subjects": [_files(f"{bad}.jpg")]},
        {"subjects": [one | {"consent": consent | {"attested_by": bad}}]},
        {"subjects": [one | {"consent": consent | {"basis": bad}}]},
        {"subjects": [one], "tags": {bad: "x"}},
        {"subjects": [one], "tags": {"x": bad}},
    ):
        assert module_site.submit(body).status_code == 422, body
    assert module_site.generate(tokens={"<rex>": bad}).status_code == 422
    job = {"prompts": ["a <x>"], "placeholder": "<x>", "tokens": [bad]}
    assert module_site.order_of(job).status_code == 422


def test_names_may_be_written_in_any_script(module_site: Any) -> None:
    for name in ("\u732b", "M\u00fcller & Co.", "\u05d0\u05d1", "\U0001f469\u200d\U0001f680 a"):
        subject = {"id": name, "bundle": "0" * 64}
        tags = {"name": name, name.replace(":", ""): "x"}
        assert module_site.submit({"subjects": [subject], "tags": tags}).status_code == 202
