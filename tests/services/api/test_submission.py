"""A submission creates one job per Idempotency-Key, or reports every error."""

import json
from typing import Any

import pytest

from services.contracts.training import TrainingItem, TrainingJobSpec
from services.ledger.jobs import read_spec
from services.ledger.keys import JobKeys
from services.settings import ApiSettings
from services.webhooks import subscriptions as hints


def test_one_idempotency_key_creates_one_job(site: Any) -> None:
    body = {"subjects": site.subjects("rex", "ada"), "tags": {"project": "pets"}}
    first = site.submit(body, key="one")
    assert first.status_code == 202
    job = first.json()["job"]
    assert first.headers["Location"] == f"/v1/training-jobs/{job}"
    assert first.json()["created"] is True
    assert (first.json()["count"], first.json()["state"]) == (2, "queued")
    assert first.json()["tags"] == {"project": "pets"}
    assert "Idempotency-Replayed" not in first.headers
    again = site.submit(body, key="one")
    assert again.status_code == 202
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.json() == first.json() | {"created": False}
    assert len(site.get("/v1/training-jobs").json()["jobs"]) == 1
    assert site.get(first.headers["Location"]).json() == first.json() | {"created": None}


def test_an_idempotency_key_of_another_request_is_refused(site: Any) -> None:
    site.submit({"subjects": site.subjects("rex")}, key="one")
    answer = site.submit({"subjects": site.subjects("ada")}, key="one")
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "header Idempotency-Key"
    assert len(site.get("/v1/training-jobs").json()["jobs"]) == 1


@pytest.mark.parametrize(("headers", "status"), [({}, 400), ({"Idempotency-Key": "x" * 256}, 422)])
def test_a_submission_requires_an_idempotency_key(site: Any, headers: Any, status: int) -> None:
    answer = site.post("/v1/training-jobs", {"subjects": site.subjects("a")}, headers=headers)
    assert answer.status_code == status
    assert "Idempotency-Key" in answer.json()["detail"]
    assert site.get("/v1/training-jobs").json()["jobs"] == []


def test_workers_get_the_settings_of_the_request(site: Any) -> None:
    subject = {
        "id": "ada",
        "images": [{"name": "ada.jpg", "sha256": "0" * 64}],
        "kind": "person",
        "consent": {"attested_by": "a", "basis": "b", "expires_at": "2999-01-01T00:00:00Z"},
        "training": {"seed": 7, "steps": 50},
        "placeholder": "<ada>",
        "initializer": "robot",
    }
    answer = site.submit({"subjects": [subject], "overrides": {"lr": 0.1}, "validation_images": 2})
    spec = read_spec(site.ledger, JobKeys("acme", answer.json()["job"]))
    item = spec.item(0)
    assert item.name == "ada"
    work = TrainingItem.model_validate(item.work)
    assert work.images[0].name == "ada.jpg"
    assert work.training.steps == 50
    assert work.consent
    order = TrainingJobSpec.model_validate(spec.shared)
    assert (order.model, order.recipe, order.validation_images) == ("miniature", "miniature", 2)
    assert (order.config["lr"], order.config["steps"]) == (0.1, 200)
    assert spec.record.pool == "miniature"
    assert spec.record.batch.startswith("dti-4-64-")


def test_a_class_word_that_the_model_does_not_know_is_refused_with_near_ones(site: Any) -> None:
    subject = {"id": "ada", "bundle": "0" * 64, "initializer": "dogs"}
    answer = site.submit({"subjects": [subject], "dry_run": True})
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["pointer"] == "#/subjects/0/initializer"
    assert "near ones are dog" in error["detail"]


@pytest.mark.parametrize(("fields", "expected"), [({}, "refused"), ({"force": True}, "forced")])
def test_workers_are_told_what_to_do_with_photographs(
    site: Any, fields: dict[str, Any], expected: str
) -> None:
    subject = {"id": "ada", "bundle": "0" * 64}
    draft = site.submit({"subjects": [subject], "dry_run": True, **fields})
    assert draft.json()["learns_photographs"] is False
    answer = site.submit({"subjects": [subject], **fields})
    spec = read_spec(site.ledger, JobKeys("acme", answer.json()["job"]))
    assert spec.shared["photographs"] == expected


def test_a_manifest_replaces_subjects(site: Any) -> None:
    subjects = site.subjects(*(f"s{number}" for number in range(3)))
    lines = b"\n".join(json.dumps(subject).encode() for subject in subjects) + b"\n\n"
    inline = site.submit({"subjects": subjects}, key="one").json()
    manifest = site.submit({"manifest": site.upload(lines)}, key="one")
    assert manifest.headers["Idempotency-Replayed"] == "true"
    assert manifest.json()["job"] == inline["job"]


def test_errors_in_a_manifest_name_their_lines(site: Any) -> None:
    lines = b'{"id": "a", "bundle": "%s"}\n{"id": 1}\nnonsense\n' % (b"0" * 64)
    answer = site.submit({"manifest": site.upload(lines)})
    assert answer.status_code == 422
    pointers = {error["pointer"] for error in answer.json()["errors"]}
    assert pointers >= {"#/manifest/2/id", "#/manifest/3"}
    missing = site.submit({"manifest": "0" * 64})
    assert missing.status_code == 422
    assert "upload it" in missing.json()["detail"]


def test_a_dry_run_describes_the_job_and_creates_nothing(site: Any) -> None:
    there = site.upload(b"bundle")
    subjects = [
        {"id": "rex", "bundle": there},
        {"id": "ada", "bundle": "1" * 64, "training": {"steps": 50}},
    ]
    before = site.ledger.heads("")
    answer = site.submit({"subjects": subjects, "dry_run": True, "recipe": "miniature-fast"})
    assert answer.status_code == 200
    problem = answer.json()
    assert (problem["count"], problem["recipe"], problem["steps"]) == (2, "miniature-fast", 150)
    assert (problem["missing"], problem["missing_uploads"]) == (1, ["1" * 64])
    assert problem["config"]["steps"] == 100
    assert [head.key for head in site.ledger.heads("")] == [head.key for head in before]


def test_missing_uploads_are_found_among_many(site: Any) -> None:
    there = site.upload(b"bundle")
    subjects = [{"id": "there", "bundle": there}, *site.subjects(*map(str, range(1200)))]
    problem = site.submit({"subjects": subjects, "dry_run": True}).json()
    assert (problem["missing"], len(problem["missing_uploads"])) == (1200, 1000)
    assert there not in problem["missing_uploads"]


_PERSON = {"id": "ada", "bundle": "0" * 64, "kind": "person"}
_EXPIRED = {"attested_by": "a", "basis": "b", "expires_at": "2020-01-01T00:00:00Z"}
_GOOD = {"id": "rex", "bundle": "0" * 64}


@pytest.mark.parametrize(
    ("body", "pointer", "words"),
    [
        ({}, "#", "either subjects or the digest"),
        ({"subjects": []}, "#/subjects", "at least 1"),
        ({"subjects": [_GOOD], "manifest": "0" * 64}, "#", "either subjects or the digest"),
        ({"subjects": [_GOOD], "colour": 1}, "#/colour", "Extra inputs"),
        ({"subjects": [_GOOD | {"colour": 1}]}, "#/subjects/0/colour", "Extra inputs"),
        ({"subjects": [_GOOD, _GOOD]}, "#/subjects", "2 items are called 'rex'"),
        ({"subjects": [{"id": "rex"}]}, "#/subjects/0", "either bundle or images"),
        ({"subjects": [_PERSON]}, "#/subjects/0", "consent record"),
        (
            {"subjects": [_GOOD, _PERSON | {"consent": _EXPIRED}]},
            "#/subjects/1/consent/expires_at",
            "expired",
        ),
        ({"subjects": [_GOOD], "validation_images": "4"}, "#/validation_images", "valid integer"),
        ({"subjects": [_GOOD], "model": "sdxl"}, "#/model", "there are miniature"),
        ({"subjects": [_GOOD], "recipe": "x"}, "#/recipe", "known are"),
        ({"subjects": [_GOOD], "overrides": {"steps": 0}}, "#/overrides", "greater than 0"),
        ({"subjects": [_GOOD], "overrides": {"x": 1}}, "#/overrides", "x is unknown"),
        (
            {"subjects": [_GOOD | {"training": {"kappa": 1.0}}], "overrides": {"method": "ti"}},
            "#/overrides",
            "kappa must be 0",
        ),
        ({"subjects": [_GOOD], "tags": {"a:b": "c"}}, "#/tags/a:b/[key]", "pattern"),
        ({"subjects": [_GOOD], "webhook": {"url": "http://a"}}, "#/webhook/url", "https://"),
        ({"subjects": [_GOOD], "webhook": {"url": "https://a:x/"}}, "#/webhook/url", "https://"),
        ({"subjects": [_GOOD], "webhook": {"url": "https://u@a/"}}, "#/webhook/url", "https://"),
        ({"subjects": [_GOOD], "webhook": {"url": "https://[::1]/"}}, "#/webhook/url", "public"),
    ],
)
def test_errors_name_their_place(site: Any, body: Any, pointer: str, words: str) -> None:
    answer = site.submit(body)
    assert answer.status_code == 422, answer.text
    [*errors] = answer.json()["errors"]
    assert errors[0]["pointer"] == pointer
    assert words in errors[0]["detail"]
    assert site.get("/v1/training-jobs").json()["jobs"] == []


def test_a_subjects_settings_must_fit_the_jobs_config(site: Any) -> None:
    overrides = {"method": "ti", "kappa": 0.0, "magnitude": "initializer"}
    subjects = [_GOOD, {"id": "b", "bundle": "0" * 64, "training": {"kappa": 0.1}}]
    answer = site.submit({"subjects": subjects, "overrides": overrides})
    assert answer.status_code == 422
    [error] = answer.json()["errors"]
    assert error["pointer"] == "#/subjects/1/training"
    assert "kappa must be 0" in error["detail"]


def test_non_finite_numbers_are_refused(site: Any) -> None:
    body = b'{"subjects": [{"id": "a", "bundle": "%s"}], "overrides": {"lr": NaN}}' % (b"0" * 64)
    headers = {"Idempotency-Key": "one"}
    answer = site.ask("POST", "/v1/training-jobs", content=body, headers=headers)
    assert answer.status_code == 422


@pytest.mark.parametrize("body", [b"", b"{", b"\xff"])
def test_malformed_json_is_a_400(site: Any, body: bytes) -> None:
    answer = site.ask("POST", "/v1/training-jobs", content=body, headers={"Idempotency-Key": "one"})
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_job_has_at_most_ten_thousand_subjects(site: Any) -> None:
    names = [str(number) for number in range(10_001)]
    assert site.submit({"subjects": site.subjects(*names)}).status_code == 422
    answer = site.submit({"subjects": site.subjects(*names[:-1])})
    assert answer.status_code == 202
    assert answer.json()["counts"]["queued"] == 10_000


def test_only_the_first_errors_are_listed(site: Any) -> None:
    answer = site.submit({"subjects": [{"id": str(number)} for number in range(300)]})
    assert answer.status_code == 422
    assert len(answer.json()["errors"]) == 100
    assert answer.json()["detail"].startswith("the request has 300 errors")


def test_a_webhook_is_subscribed_before_the_response_also_on_replay(
    site: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {"subjects": site.subjects("rex"), "webhook": {"url": "https://a.example/hook"}}
    with monkeypatch.context() as patch:

        def die(*_: Any) -> None:
            raise OSError("the process dies")

        patch.setattr(hints, "subscribe", die)
        assert site.submit(body, key="one").status_code == 500
    job = site.submit(body, key="one").json()["job"]
    [(ending, _)] = hints.list_pending(site.ledger)
    assert (ending.tenant, ending.job, ending.retries) == ("acme", job, 0)
    spec = read_spec(site.ledger, JobKeys("acme", job))
    assert TrainingJobSpec.model_validate(spec.shared).webhook == "https://a.example/hook"
    # A retry has an end of its own, if there is something to retry.
    site.post(f"/v1/training-jobs/{job}/retry")
    assert len(hints.list_pending(site.ledger)) == 1
    site.work_off(lambda attempt: "no")
    site.post(f"/v1/training-jobs/{job}/retry")
    assert [ending.retries for ending, _ in hints.list_pending(site.ledger)] == [0, 1]
    site.ask("DELETE", f"/v1/training-jobs/{job}")
    assert hints.list_pending(site.ledger) == []


def test_private_webhooks_need_the_operators_setting(new_site: Any) -> None:
    site = new_site(settings=ApiSettings(allow_private_webhooks=True))
    body = {"subjects": site.subjects("rex"), "webhook": {"url": "http://127.0.0.1:9/hook"}}
    assert site.submit(body).status_code == 202


def test_the_quota_counts_open_items_only(new_site: Any) -> None:
    site = new_site()
    site.limit("acme", open_items=5)
    first = site.submit({"subjects": site.subjects("a", "b", "c")}, key="one")
    assert first.status_code == 202
    refused = site.submit({"subjects": site.subjects("d", "e", "f")})
    assert refused.status_code == 429
    assert int(refused.headers["Retry-After"]) > 0
    assert "3 items were submitted while 3 are open" in refused.json()["detail"]
    # What the key has made already is no new one, and others have limits of their own.
    site.submit({"subjects": site.subjects("d", "e")})
    again = site.submit({"subjects": site.subjects("a", "b", "c")}, key="one")
    assert again.status_code == 202
    assert site.submit({"subjects": site.subjects("d", "e", "f")}, "other").status_code == 202
    site.work_off()
    assert site.submit({"subjects": site.subjects("d", "e", "f")}).status_code == 202
    never = site.submit({"subjects": site.subjects(*"abcdef")})
    assert never.status_code == 422


def test_submissions_increase_a_cached_count_of_open_items(new_site: Any) -> None:
    site = new_site(settings=ApiSettings(quota_cache_ttl_s=1000))
    site.limit("acme", open_items=3)
    statuses = [site.submit({"subjects": site.subjects("a", "b")}).status_code for _ in range(2)]
    assert statuses == [202, 429]


def test_jobs_that_are_submitted_at_once_never_exceed_the_quota(site: Any, at_once: Any) -> None:
    site.limit("acme", open_items=10)
    site.get("/v1/audit")  # The new limits are in force.
    answers = at_once(30, lambda: site.submit({"subjects": site.subjects(*"abcde")}).status_code)
    assert set(answers) == {202, 429}
    assert 1 <= answers.count(202) <= 2
    site.work_off()
    assert site.submit({"subjects": site.subjects(*"abcde")}).status_code == 202
