"""Orders that cost too much are refused before anything is stored, queued or sent to an engine."""

import json
from typing import Any

import pytest

from services.api.jobs.schemas import JOB
from services.contracts.generation import build_image_spec
from services.contracts.models import ServedModel
from services.ledger.ids import token_id
from services.ledger.jobs import read_spec
from services.ledger.keys import JobKeys
from services.storage.interface import Object
from services.storage.memory import MemoryStore

ONE = {"id": "rex", "bundle": "4c" * 32}


def _keys(store: MemoryStore) -> list[str]:
    return [head.key for head in store.list("").objects]


DIGITS = int("9" * 4000)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"overrides": {"steps": 10**18}}, "less than or equal to 1000000, got 1000000"),
        ({"overrides": {"steps": DIGITS}}, "less than or equal to 1000000, got 999"),
        ({"overrides": {"steps": 5001}}, "steps is 5001, and miniature takes at most 5000"),
        ({"overrides": {"batch_size": 10**9}}, "less than or equal to 1024"),
        ({"overrides": {"batch_size": 64}}, "262144 pixels in each step, and miniature takes"),
        ({"overrides": {"resolution": 80_000}}, "less than or equal to 4096"),
        ({"overrides": {"resolution": 512}}, "resolution 512 and batch_size 4 are 1048576 pixels"),
        ({"overrides": {"lr": DIGITS}}, "lr should be"),
        ({"overrides": {"patience": DIGITS}}, "patience should be"),
        ({"recipe": "sdxl-release"}, "resolution 768 and batch_size 4"),
        ({"subjects": [ONE | {"training": {"steps": 5001}}]}, "#/subjects/0/training: steps is"),
        ({"subjects": [ONE | {"training": {"steps": DIGITS}}]}, "#/subjects/0/training/steps"),
        ({"subjects": [ONE | {"training": {"vectors": 10**9}}]}, "#/subjects/0/training/vectors"),
        ({"subjects": [ONE | {"training": {"seed": DIGITS}}]}, "#/subjects/0/training/seed"),
        ({"max_attempts": DIGITS}, "#/max_attempts"),
    ],
)
def test_a_training_job_that_costs_too_much_is_refused(
    module_site: Any, body: dict[str, Any], told: str
) -> None:
    before = _keys(module_site.store)
    for dry_run in (False, True):
        answer = module_site.submit({"subjects": [ONE], "dry_run": dry_run} | body)
        assert answer.status_code == 422, answer.text
        assert told in answer.json()["detail"]
        assert len(answer.content) < 2000
    assert _keys(module_site.store) == before


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"size": "512x512"}, "512x512, which is 262144 pixels, and miniature makes at most 16384"),
        ({"size": "129x128"}, "such as 128x128: give a smaller size"),
        ({"size": "4096x4096", "steps": 150}, "#/size"),
        ({"steps": 151}, "#/steps"),
        ({"steps": DIGITS}, "#/steps"),
        ({"seed": DIGITS}, "#/seed"),
        ({"guidance": DIGITS}, "#/guidance"),
    ],
)
def test_an_image_that_costs_too_much_is_refused(
    module_site: Any, body: dict[str, Any], told: str
) -> None:
    # The site's engine would answer 200: a refusal is the API's.
    answer = module_site.generate(**body)
    assert answer.status_code == 422, answer.text
    assert told in answer.json()["detail"]
    before = _keys(module_site.store)
    job = module_site.order_of({"prompts": ["a dog"]} | _of_job(body))
    assert job.status_code == 422, job.text
    assert told.replace("#/seed", "#/seeds/0") in job.json()["detail"]
    assert _keys(module_site.store) == before


def _of_job(body: dict[str, Any]) -> dict[str, Any]:
    return {"seeds": [body["seed"]]} if "seed" in body else body


def test_a_model_has_limits_of_its_own_and_tells_them(new_site: Any) -> None:
    fields = {"weights": "miniature", "recipe": "miniature", "limits": {"max_image_steps": 10}}
    raised = {"max_image_pixels": 512 * 512, "max_training_steps": 10**6}
    site = new_site(
        models={
            "small": ServedModel.model_validate(fields),
            "large": ServedModel.model_validate(fields | {"limits": raised}),
        }
    )
    assert site.get("/v1/models/small").json()["limits"] == {
        "max_image_pixels": 16384,
        "max_image_steps": 10,
        "max_training_steps": 5000,
        "max_training_pixels": 131072,
        "max_order_pixel_steps": 10**14,
        "max_order_bytes": 10**8,
    }
    order = {"prompts": ["a dog"], "size": "512x512"}
    assert site.order_of(order | {"model": "large"}).status_code == 202
    assert "steps" in site.order_of({"prompts": ["a dog"], "steps": 11}).json()["detail"]
    job = {"subjects": [ONE], "overrides": {"steps": 10**6}}
    assert site.submit(job | {"model": "large"}).status_code == 202
    assert site.submit(job).status_code == 422


def test_a_tenants_limits_bound_each_of_its_orders(image_site: Any) -> None:
    # Two subjects of the miniature's recipe: 200 steps of 4 crops of 64 x 64 pixels each.
    image_site.limit("acme", order_pixel_steps=2 * 200 * 4 * 64 * 64)
    assert image_site.submit({"subjects": image_site.subjects("a", "b")}).status_code == 202
    refused = image_site.submit({"subjects": image_site.subjects("a", "b", "c")})
    assert refused.status_code == 422
    assert "9830400 pixel steps" in refused.json()["detail"]
    assert image_site.submit({"subjects": [ONE | {"training": {"steps": 401}}]}).status_code == 422
    assert image_site.order_of({"prompts": ["a"], "steps": 100}).status_code == 202

    image_site.limit("other", order_pixel_steps=100_000)
    assert image_site.generate("other", steps=20).status_code == 200
    assert image_site.generate("other", steps=20, n=2).status_code == 422
    job = {"prompts": ["a", "b"], "steps": 20}
    assert image_site.order_of(job, "other").status_code == 422
    told = image_site.get("/v1/models/miniature", "other").json()["limits"]
    assert told["max_order_pixel_steps"] == 100_000


def test_a_tenants_limit_of_bytes_is_that_of_the_stored_job(site: Any) -> None:
    body = {"subjects": site.subjects(*(f"subject-{number}" for number in range(50)))}
    site.limit("acme", order_bytes=len(json.dumps(body)) // 2)
    refused = site.submit(body)
    assert refused.status_code == 422
    assert "bytes as it is stored" in refused.json()["detail"]
    assert site.order_of({"prompts": ["a dog"], "seeds": {"count": 500}}).status_code == 422
    assert site.submit(body, "other").status_code == 202


def _token(number: int) -> str:
    return f"<{token_id(JOB, 0, number)}>"


@pytest.mark.parametrize(
    ("body", "pointer", "told"),
    [
        # 54 KB of JSON, which became an object of 84 MB.
        ({"prompts": ["a"] * 10_000, "negative_prompt": 102}, "#/negative_prompt", "102 tokens"),
        ({"prompts": ["a", 17]}, "#/prompts/1", "names 17 tokens"),
        ({"prompts": [9], "negative_prompt": (100, 108)}, "#/prompts/0", "17 tokens with"),
        (
            {"prompts": [16], "variants": [{}, {"tokens": {"<x>": "rex"}}]},
            "#/prompts/0",
            "17 tokens with variant 1",
        ),
    ],
)
def test_an_image_of_more_than_sixteen_tokens_is_refused_when_its_job_is_made(
    module_site: Any, body: dict[str, Any], pointer: str, told: str
) -> None:
    def text(value: Any) -> str:
        first, end = value if isinstance(value, tuple) else (0, value)
        return value if isinstance(value, str) else "".join(map(_token, range(first, end)))

    order = body | {"prompts": [text(prompt) for prompt in body["prompts"]]}
    order["negative_prompt"] = text(body.get("negative_prompt", ""))
    before = _keys(module_site.store)
    answer = module_site.order_of(order)
    assert answer.status_code == 422, answer.text
    [found] = answer.json()["errors"]
    assert found["pointer"] == pointer
    assert told in found["detail"]
    assert _keys(module_site.store) == before


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"prompts": ["a dog", "a <rex>"]}, "#/prompts/1"),
        ({"prompts": ["a dog"], "negative_prompt": "a <rex>"}, "#/negative_prompt"),
        ({"prompts": ["a <Rex>"], "placeholder": "<rex>", "tokens": ["rex"]}, "#/prompts/0"),
        (
            {
                "prompts": ["a <rex>"],
                "variants": [{"tokens": {"<rex>": "rex"}}, {"tokens": {"<tom>": "rex"}}],
            },
            "#/prompts/0",
        ),
    ],
)
def test_a_placeholder_that_stands_for_nothing_is_refused_when_its_job_is_made(
    module_site: Any, body: dict[str, Any], pointer: str
) -> None:
    answer = module_site.order_of(body)
    assert answer.status_code == 422, answer.text
    [found] = answer.json()["errors"]
    assert found["pointer"] == pointer
    assert "stands for no token in variant" in found["detail"]


@pytest.mark.parametrize(
    "body",
    [
        {"prompts": ["a"] * 10_000, "negative_prompt": " ".join(map(_token, range(16)))},
        {"prompts": [f"a {number} " + "b" * 990 for number in range(1000)]},
        {
            "prompts": ["a <x>"],
            "variants": [{"tokens": {"<x>": f"rex-{number}"}} for number in range(2000)],
        },
        {"prompts": ["a"], "seeds": {"count": 10_000}},
    ],
)
def test_the_stored_job_is_proportional_to_its_request_and_its_items(
    new_site: Any, body: dict[str, Any]
) -> None:
    site = new_site()
    answer = site.order_of(body)
    assert answer.status_code == 202, answer.text
    size = len(site.store.read(JobKeys("acme", answer.json()["job"]).spec).body)
    assert size < 3 * len(json.dumps(body)) + 200 * answer.json()["count"] + 20_000


def test_tokens_in_a_negative_prompt_reach_each_image(site: Any) -> None:
    negative = f"a {_token(7)}"
    job = site.order({"prompts": ["a dog", f"a {_token(8)}"], "negative_prompt": negative})
    spec = read_spec(site.ledger, JobKeys("acme", job))
    images = [build_image_spec(spec.item(index).work, spec.shared) for index in range(2)]
    assert [sorted(image.tokens) for image in images] == [[_token(7)], [_token(7), _token(8)]]


def test_a_page_of_items_reads_a_part_of_the_spec(new_site: Any) -> None:
    store = WatchedStore()
    site = new_site(store)
    bodies = [str(number) + "x" * 2000 for number in range(1000)]
    job = site.order({"prompts": bodies})
    store.bytes_read = 0
    page = site.get(f"/v1/generation-jobs/{job}/items?cursor=450&limit=3").json()["items"]
    assert [item["id"][:8] for item in page] == ["0450-450", "0451-451", "0452-452"]
    assert store.bytes_read < 100_000
    last = site.get(f"/v1/generation-jobs/{job}/items/999").json()
    assert last["id"].startswith("0999-999")
    site.ask("DELETE", f"/v1/generation-jobs/{job}")
    assert site.get(f"/v1/generation-jobs/{job}/items").status_code == 410


class WatchedStore(MemoryStore):
    """A store that counts the bytes that are read from it."""

    bytes_read = 0

    def read(self, key: str, *, start: int = 0, length: int | None = None) -> Object:
        found = super().read(key, start=start, length=length)
        self.bytes_read += len(found.body)
        return found
