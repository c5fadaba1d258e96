"""Images over HTTP from engines on a real Ray Serve, with tokens that the service has learned."""

import base64
import io
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import torch
from chaos.service.processes import processes
from PIL import Image

from dti_engine.artifacts.artifact import Artifact
from dti_engine.backbones import load_backbone
from dti_engine.devices import find_device, find_dtype
from dti_engine.generation.pipeline import ImageRequest, generate

from .conftest import Caller

pytestmark = pytest.mark.ray

PROMPT = "a photo of a <dog> on a beach"


def generate_images(caller: Caller, **order: Any) -> Image.Image:
    answer = caller.http.post(
        "/v1/images/generations", json={"prompt": PROMPT, "seed": 1, "steps": 6, **order}
    )
    assert answer.status_code == 200, answer.text
    return Image.open(io.BytesIO(base64.b64decode(answer.json()["data"][0]["b64_json"])))


def levels(image: Image.Image) -> Any:
    return np.asarray(image).astype(int)


def keep_asking(client: openai.OpenAI, tokens: dict[str, str]) -> None:
    """Repeat a request for the minute within which a deletion takes effect."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        extra = {"tokens": tokens, "seed": 1, "steps": 6}
        client.images.generate(model="miniature", prompt=PROMPT, extra_body=extra)
        time.sleep(1)


def engines(caller: Caller) -> list[int]:
    return [one.pid for one in processes(caller.service) if "ServeReplica" in one.command]


def test_tokens_that_were_learned_are_generated_blended_and_deleted(caller: Caller) -> None:
    job = caller.submit(caller.subjects(2), "to be generated")
    caller.wait_until_ended(job)
    items = caller.items(job)
    (first, one), (second, _) = items.items()

    client = openai.OpenAI(
        base_url=f"{caller.service.url}/v1", api_key=caller.http.headers["authorization"][7:]
    )
    extra = {"tokens": {"<dog>": first}, "seed": 1, "steps": 6}
    answer = client.images.generate(model="miniature", prompt=PROMPT, extra_body=extra)
    assert answer.data
    generated = Image.open(io.BytesIO(base64.b64decode(answer.data[0].b64_json or "")))
    file = caller.http.get(f"/v1/tokens/{one['token']}/file").raise_for_status().content
    token = {"<dog>": Artifact.from_bytes(file).token}
    # As the engine has it: bfloat16 where the processor computes in it.
    dtype = find_dtype("auto", find_device("auto"))
    backbone = load_backbone("miniature", dtype=dtype)
    (here,) = generate(backbone, [ImageRequest(PROMPT, 1, token)], steps=6)
    assert np.abs(levels(generated) - levels(here)).max() <= (1 if dtype == torch.float32 else 4)

    other = generate_images(caller, tokens={"<dog>": second})
    blend = generate_images(caller, blends={"<dog>": {"a": first, "b": second, "t": 0.5}})
    inline = generate_images(caller, prompt=PROMPT.replace("<dog>", f"<{one['token']}>"))
    assert np.abs(levels(inline) - levels(generated)).max() <= 1
    for generated_image in (other, blend):
        assert np.abs(levels(generated_image) - levels(generated)).max() > 1

    caller.http.delete(f"/v1/tokens/{one['token']}").raise_for_status()
    with pytest.raises(openai.APIStatusError) as error:
        keep_asking(client, {"<dog>": one["token"]})
    assert error.value.status_code == 410
    client.close()


def test_an_engine_that_is_killed_under_load_fails_what_it_had_and_is_replaced(
    caller: Caller,
) -> None:
    (engine,) = engines(caller)

    def ask(number: int) -> int:
        time.sleep(0.1 * number)
        body = {"prompt": "a red dog", "seed": number, "steps": 30}
        answer = caller.http.post("/v1/images/generations", json=body)
        if answer.status_code != 200:
            assert answer.json()["error"]["message"]
            assert int(answer.headers["retry-after"]) > 0
        return answer.status_code

    with ThreadPoolExecutor(12) as pool:
        futures = [pool.submit(ask, number) for number in range(12)]
        futures[0].result()
        os.kill(engine, signal.SIGKILL)
        statuses = [each.result() for each in futures]
    assert set(statuses) <= {200, 503}
    caller.wait_for(lambda: ask(0) == 200)
    assert engines(caller) != [engine]


def test_engines_outlive_who_brought_them_up_and_are_left_alone_by_the_next(
    caller: Caller,
) -> None:
    endpoint, before = caller.service.engines, engines(caller)
    ready = endpoint.output().count("\nready\n")
    assert before
    assert endpoint.pid
    os.killpg(endpoint.pid, signal.SIGKILL)
    generate_images(caller, prompt="a red dog")
    caller.wait_for(lambda: endpoint.output().count("\nready\n") > ready)
    assert engines(caller) == before
    generate_images(caller, prompt="a red dog")


def test_a_job_of_images_ends_though_its_dispatcher_and_the_engine_are_killed(
    caller: Caller,
) -> None:
    learned = caller.submit(caller.subjects(1), "to be generated in bulk")
    caller.wait_until_ended(learned)
    (name,) = caller.items(learned)
    order = {
        "prompts": [PROMPT, "a painting of a <dog>"],
        "placeholder": "<dog>",
        "tokens": [name],
        "seeds": {"count": 20},
        "steps": 8,
    }
    path = "/v1/generation-jobs"
    response = caller.http.post(path, json=order, headers={"Idempotency-Key": "images"})
    assert response.status_code == 202, response.text
    job = f"{path}/{response.json()['job']}"
    caller.wait_for(lambda: caller.get(job)["counts"]["succeeded"] > 2)
    dispatcher = caller.service.dispatcher.pid
    assert dispatcher
    os.kill(dispatcher, signal.SIGKILL)
    os.kill(engines(caller)[0], signal.SIGKILL)
    caller.wait_for(lambda: caller.get(job)["state"] == "succeeded")
    assert caller.get(job)["counts"]["succeeded"] == 40
    items = caller.get(f"{job}/items?limit=200")["items"]
    for item in (items[0], items[39]):
        answer = caller.http.get(f"{job}/items/{item['index']}/image").raise_for_status()
        assert Image.open(io.BytesIO(answer.content)).size == (64, 64)
        assert httpx.get(item["url"]).content == answer.content
