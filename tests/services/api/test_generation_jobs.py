"""Generation jobs: requests, routes, links, and that images are not tokens."""

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest

from services.contracts.generation import build_image_spec
from services.ledger.attempts import Attempt

PNG = b"\x89PNG of "


def _order(**how: Any) -> dict[str, Any]:
    return {"prompts": ["a red dog"], "seeds": [1, 2]} | how


def _path(job: str, rest: str = "") -> str:
    return f"/v1/generation-jobs/{job}{rest}"


def test_each_prompt_is_generated_with_each_token_and_each_seed(site: Any) -> None:
    for name in ("rex", "tom"):
        site.make(name)
    site.work_off()
    order = {
        "prompts": ["a photo of a <dog> on a beach", "a <dog>"],
        "placeholder": "<dog>",
        "tokens": ["rex", "tom"],
        "seeds": {"first": 5, "count": 2},
        "steps": 7,
        "size": "64x32",
        "negative_prompt": "a cat",
    }
    job = site.order(order)
    view = site.get(_path(job)).json()
    assert (view["kind"], view["count"], view["model"]) == ("generation", 8, "miniature")
    asked: dict[str, Any] = {}
    site.generate_off(lambda attempt: asked.update({attempt.item.name: _asked(attempt)}) or "")
    items = site.get(_path(job, "/items")).json()["items"]
    assert [item["id"] for item in items][:5] == [
        "0000-rex-a-photo-of-a-dog-on-a-beach-5",
        "0001-rex-a-photo-of-a-dog-on-a-beach-6",
        "0002-tom-a-photo-of-a-dog-on-a-beach-5",
        "0003-tom-a-photo-of-a-dog-on-a-beach-6",
        "0004-rex-a-dog-5",
    ]
    assert asked[items[3]["id"]] == {
        "prompt": "a photo of a <dog> on a beach",
        "tokens": {"<dog>": "tom"},
        "seed": 6,
        "steps": 7,
        "width": 64,
        "height": 32,
        "negative_prompt": "a cat",
    }


def _asked(attempt: Attempt) -> dict[str, Any]:
    image = build_image_spec(attempt.item.work, attempt.shared)
    return image.model_dump(mode="json", exclude_defaults=True)


def test_variants_have_tokens_blends_and_names_and_prompts_may_name_token_ids(site: Any) -> None:
    job = site.make("rex", "tom")
    site.work_off()
    token = site.tokens(job)[0]
    variants = [
        {"tokens": {"<a>": "rex", "<b>": token}},
        {"name": "half", "blends": {"<a>": {"a": "rex", "b": "tom", "t": 0.25}}},
        {"name": "end", "blends": {"<a>": {"a": "rex", "b": "tom", "t": 1}}},
    ]
    order = {"prompts": [f"a <a> and a <{token}>"], "variants": variants}
    job = site.order(order)
    asked: list[Any] = []
    site.generate_off(lambda attempt: asked.append((attempt.item_ref.index, _asked(attempt))) or "")
    asked.sort(key=lambda one: one[0])
    inline = {f"<{token}>": token}
    assert asked[0][1]["tokens"] == {"<a>": "rex", "<b>": token} | inline
    parts = [{"token": "rex", "weight": 0.75}, {"token": "tom", "weight": 0.25}]
    assert (asked[1][1]["tokens"], asked[1][1]["blends"]) == (inline, {"<a>": parts})
    assert asked[2][1]["tokens"] == {"<a>": "tom"} | inline
    names = [item["id"] for item in site.get(_path(job, "/items")).json()["items"]]
    assert names[0].startswith(f"0000-rex-{token[-8:]}-a-a-and-a-tok")
    assert names[1].startswith("0001-half-")


def test_images_are_downloaded_by_key_or_link_and_deleted_singly(site: Any) -> None:
    job = site.order(_order())
    assert site.get(_path(job, "/items/0/image")).status_code == 404
    site.generate_off()
    items = site.get(_path(job, "/items")).json()["items"]
    answer = site.get(_path(job, "/items/1/image"))
    assert answer.content == PNG + items[1]["id"].encode()
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["etag"].strip('"') == items[1]["sha256"]
    link = urlsplit(items[1]["url"])
    linked = f"{link.path}?{link.query}"
    assert site.get(linked, None).content == answer.content
    assert site.get(linked.replace(f"/{job}/1", f"/{job}/0"), None).status_code == 404
    assert site.get(_path(job, "/items/2/image")).status_code == 404
    for _ in range(2):
        assert site.ask("DELETE", _path(job, "/items/1/image")).status_code == 204
    for response in (site.get(_path(job, "/items/1/image")), site.get(linked, None)):
        assert response.status_code == 410
    assert site.get(_path(job)).json()["counts"]["deleted"] == 1
    assert site.get(_path(job, "/items/1")).json()["url"] is None
    assert site.get(_path(job, "/items/0/image")).status_code == 200


def test_a_generation_job_has_all_routes_of_a_training_job(site: Any) -> None:
    job = site.order(_order())
    site.generate_off(lambda attempt: "no" if attempt.item_ref.index == 1 else "")
    assert site.get(_path(job)).json()["state"] == "partially_succeeded"
    assert site.get(_path(job, "/items?state=failed")).json()["items"][0]["reason"] == "no"
    assert site.post(_path(job, "/retry")).json() == {"retried": 1}
    site.generate_off()
    one = site.get(_path(job, "/items/1")).json()
    assert [attempt["cause"] for attempt in one["attempts"]] == ["failed", "succeeded"]
    assert site.get(_path(job, "/items/1/image")).status_code == 200
    other = site.order(_order(seeds=[3]))
    assert site.post(_path(other, "/cancel")).json()["state"] == "cancelled"
    assert site.generate_off() == 0
    assert site.ask("DELETE", _path(job)).status_code == 204
    for rest in ("", "/items", "/items/0/image", "/events"):
        assert site.get(_path(job, rest)).status_code == 410
    jobs = site.get("/v1/generation-jobs").json()["jobs"]
    assert [view["job"] for view in jobs] == [other]
    entries = site.get("/v1/audit").json()["entries"]
    assert entries[0]["action"] == "generation-job.delete"


def test_a_job_of_one_kind_does_not_exist_for_the_other(site: Any) -> None:
    subjects, images = site.make("rex"), site.order(_order())
    for kind, job in (("generation", subjects), ("training", images)):
        path = f"/v1/{kind}-jobs/{job}"
        for method, rest in (
            *(("GET", rest) for rest in ("", "/items", "/items/0", "/events")),
            *(("POST", rest) for rest in ("/cancel", "/retry")),
            ("DELETE", ""),
        ):
            assert site.ask(method, path + rest).status_code == 404, (method, path, rest)
    for kind, job in (("training", subjects), ("generation", images)):
        jobs = site.get(f"/v1/{kind}-jobs").json()["jobs"]
        assert [view["job"] for view in jobs] == [job]
        assert site.get(f"/v1/{kind}-jobs/{job}").json()["state"] == "queued"


def test_a_list_finds_few_jobs_among_many_of_the_other_kind(site: Any) -> None:
    submitted: list[str] = []
    for number in range(4):
        for name in range(6):
            site.make(f"{number}-{name}")
        submitted.append(site.order(_order(seeds=[number])))
    seen, cursor = [], ""
    while cursor is not None:
        after = f"&cursor={cursor}" if cursor else ""
        page = site.get(f"/v1/generation-jobs?limit=3{after}").json()
        seen += [view["job"] for view in page["jobs"]]
        cursor = page["next"]
    assert seen == submitted[::-1]


def test_images_are_not_listed_as_tokens(site: Any) -> None:
    job = site.order(_order(tags={"project": "pets"}))
    site.generate_off()
    token = f"tok_{job}0000000"
    assert site.get(f"/v1/tokens/{token}").status_code == 404
    assert site.get(f"/v1/tokens/{token}/file").status_code == 404
    assert site.ask("DELETE", f"/v1/tokens/{token}").status_code == 404
    assert site.get("/v1/tokens").json()["tokens"] == []
    assert site.get("/v1/tokens?tag=project:pets").json()["tokens"] == []
    [item] = site.get(_path(job, "/items?limit=1")).json()["items"]
    assert site.get(f"/v1/tokens?alias={item['id']}").json()["tokens"] == []
    assert "token" not in item
    assert site.get(_path(job, "/items/0/image")).status_code == 200


def test_a_dry_run_counts_images_and_creates_nothing(site: Any) -> None:
    order = _order(prompts=["a <x>", "an <x>"], placeholder="<x>", tokens=["rex", "tom"], steps=10)
    assert site.order_of(order | {"dry_run": True}).json() == {
        "count": 8,
        "model": "miniature",
        "prompts": 2,
        "variants": 2,
        "seeds": 2,
        "steps": 80,
        "missing_tokens": ["rex", "tom"],
        "warnings": [],
    }
    assert site.get("/v1/generation-jobs").json()["jobs"] == []


def test_a_submission_and_its_dry_run_say_what_has_no_effect(site: Any) -> None:
    site.make("rex")
    site.work_off()
    order = _order(prompts=["a rex", "a dog++"], placeholder="<rex>", tokens=["rex"])
    warnings = site.order_of(order | {"dry_run": True}).json()["warnings"]
    assert [warning.partition(",")[0].partition(":")[0] for warning in warnings] == [
        "no prompt mentions <rex>",
        "prompt 0 has words that the model never learned",
        "prompt 1 has 'g++'",
    ]
    assert warnings[0].endswith("write <rex> where it says 'rex'")
    assert site.order_of(order).json()["warnings"] == warnings


def test_no_answer_has_more_than_20_warnings(site: Any) -> None:
    prompts = [f"a dog++ {number}" for number in range(15)]
    warnings = site.order_of(_order(prompts=prompts, dry_run=True)).json()["warnings"]
    assert len(warnings) == 20
    assert warnings[-1] == "11 more warnings of these kinds"


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"prompts": ["a dog", "a (dog:1.3)"]}, "#/prompts/1"),
        ({"negative_prompt": "a <lora:x:1>"}, "#/negative_prompt"),
    ],
)
def test_weights_of_words_are_refused_with_their_place(
    site: Any, fields: dict[str, Any], pointer: str
) -> None:
    answer = site.order_of(_order(**fields))
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == pointer
    assert "Here it would be read as plain words" in answer.json()["detail"]


def test_missing_tokens_are_refused_unless_there_are_many(site: Any) -> None:
    job = site.make("rex")
    site.work_off()
    site.ask("DELETE", f"/v1/tokens/{site.tokens(job)[0]}")
    images = site.order(_order())
    site.generate_off()
    for name in ("rex", "nobody", f"tok_{job}0000000", f"tok_{images}0000000"):
        answer = site.order_of({"prompts": ["a <x>"], "variants": [{"tokens": {"<x>": name}}]})
        assert answer.status_code == 422
        [found] = answer.json()["errors"]
        assert found["pointer"] == "#/variants/0/tokens/<x>"
        assert name in found["detail"]
    names = [f"nobody-{number}" for number in range(40)]
    many = {"prompts": ["a <x>"], "placeholder": "<x>", "tokens": names}
    assert site.order_of(many).status_code == 202


def test_a_replay_succeeds_after_its_token_was_deleted(site: Any) -> None:
    job = site.make("rex")
    site.work_off()
    order = {"prompts": ["a <x>"], "placeholder": "<x>", "tokens": ["rex"]}
    first = site.order_of(order, key="one")
    assert first.headers["Location"] == _path(first.json()["job"])
    site.ask("DELETE", f"/v1/tokens/{site.tokens(job)[0]}")
    again = site.order_of(order, key="one")
    assert again.json()["job"] == first.json()["job"]
    assert again.headers["Idempotency-Replayed"] == "true"
    assert site.order_of(order | {"steps": 3}, key="one").status_code == 422


@pytest.mark.parametrize(
    ("order", "pointer", "message"),
    [
        ({"prompts": []}, "#/prompts", "at least 1"),
        ({"prompts": [""]}, "#/prompts/0", "at least 1"),
        ({"colour": "red"}, "#/colour", "not permitted"),
        ({"seeds": [1, 1]}, "#", "seed 1 is given twice"),
        ({"seeds": [-1]}, "#/seeds/0", "greater than or equal to 0"),
        ({"seeds": {"first": 0, "count": 0}}, "#/seeds/count", "greater than or equal to 1"),
        (
            {"seeds": {"first": 2**32 - 1, "count": 2}},
            "#/seeds",
            "exceed the largest seed",
        ),
        ({"placeholder": "<x>"}, "#", "give both placeholder and tokens"),
        ({"placeholder": "<x>", "tokens": ["a"], "variants": [{}]}, "#", "either variants"),
        ({"placeholder": "x", "tokens": ["a"]}, "#/placeholder", "match pattern"),
        (
            {"variants": [{"tokens": {"<x>": "a"}, "name": "a b"}]},
            "#/variants/0/name",
            "match pattern",
        ),
        (
            {"variants": [{"blends": {"<x>": {"a": "r", "b": "t", "t": 2}}}]},
            "#/variants/0/blends/<x>/t",
            "less than or equal to 1",
        ),
        ({"prompts": ["a <tok_x>"]}, "#/prompts/0", "not a token's id"),
        ({"model": "sdxl"}, "#/model", "there are miniature"),
        ({"size": "4x4"}, "#", "8 to 4096"),
        ({"steps": "9"}, "#/steps", "valid integer"),
        ({"webhook": {"url": "http://10.0.0.1"}}, "#/webhook/url", ""),
        (
            {"prompts": ["a", "b", "c"], "variants": [{}, {}], "seeds": {"count": 2000}},
            "#/prompts",
            "3 prompts x 2 variants x 2000 seeds are 12000 images, and a job has at most 10000",
        ),
    ],
)
def test_what_is_wrong_is_refused_with_its_place(
    site: Any, order: dict[str, Any], pointer: str, message: str
) -> None:
    answer = site.order_of(_order(**order))
    assert answer.status_code == 422, answer.text
    found = answer.json()["errors"][0]
    assert found["pointer"] == pointer
    assert message in found["detail"]


def test_the_largest_job_is_accepted(site: Any) -> None:
    job = site.order({"prompts": ["a " + "very " * 700 + "red dog"] * 10, "seeds": {"count": 1000}})
    assert site.get(_path(job)).json()["count"] == 10_000
    size = len(site.store.read(f"t/acme/jobs/{job}/spec").body)
    assert size < 2_000_000  # The prompts are told once, not in each image.


def test_images_count_as_open_items(site: Any) -> None:
    site.limit("acme", open_items=5)
    site.order(_order(seeds={"count": 4}))
    assert site.order_of(_order()).status_code == 429
    assert site.order_of(_order(seeds={"count": 6})).status_code == 422


def test_a_webhook_is_subscribed_for_the_end_and_for_a_retry(
    site: Any, new_site: Callable[..., Any]
) -> None:
    from services.webhooks.subscriptions import list_pending

    job = site.order(_order(webhook={"url": "https://example.com/hook"}))
    assert [(hint.job, hint.retries) for hint, _ in list_pending(site.ledger)] == [(job, 0)]
    site.generate_off(lambda attempt: "no")
    site.post(_path(job, "/retry"))
    assert {hint.retries for hint, _ in list_pending(site.ledger)} == {0, 1}
