"""Image requests by OpenAI's own client, to an engine that generates one colour."""

import base64
import io
import itertools
import json
import re
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest
from PIL import Image
from stub_engine import StubEngine, colour

from services.contracts.generation import BlendPart

TOKEN = "tok_7zk3v9q0d1m2n3p4q5r6s7t8v90000000"


@pytest.fixture
def client(image_site: Any) -> Iterator[openai.OpenAI]:
    with image_site.served() as url, _client(url, image_site.keys["acme"]) as client:
        yield client


def _client(url: str, key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=20)


def _image(data: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(data, validate=True)))


def test_openais_client_gets_images_with_openais_fields_alone(
    client: openai.OpenAI, engine: StubEngine
) -> None:
    answer = client.images.generate(prompt="a dog", model="gpt-image-1", n=2, size="32x48")
    assert (answer.size, answer.output_format, answer.background) == ("32x48", "png", "opaque")
    assert answer.data
    seeds = [data.seed for data in answer.data]
    assert seeds[1] == (seeds[0] + 1) % 2**32
    for data in answer.data:
        image = _image(data.b64_json)
        assert (image.size, image.getpixel((0, 0))) == ((32, 48), colour(data.seed))
        assert data.settings["seed"] == data.seed
        assert (data.url, data.revised_prompt) == (None, None)
    assert answer.warnings == ["there is no model gpt-image-1 here: miniature was used"]
    [(model, request)] = engine.requests
    assert (model, request.tenant, request.timeout_s, request.progress) == (
        *("miniature", "acme"),
        *(300, False),
    )
    assert request.images[0].steps == 25


@pytest.mark.parametrize(
    "prompt",
    ["a dog (side view)", "a clock at 5:30 [open]", "50% (of 16:9); {a}", "a dog's toy: <3"],
)
def test_ordinary_punctuation_is_accepted(client: openai.OpenAI, prompt: str) -> None:
    assert client.images.generate(prompt=prompt).data


def test_additional_fields_reach_the_engine(client: openai.OpenAI, engine: StubEngine) -> None:
    client.images.generate(
        prompt=f"a <rex> and a <{TOKEN}> as a <mix> by <end> and <pair>",
        model="miniature",
        n=3,
        extra_body={
            "seed": 2**32 - 2,
            "steps": 3,
            "guidance": 2,
            "negative_prompt": "blur",
            "tokens": {"<rex>": "rex"},
            "blends": {
                "<mix>": [{"token": "a", "weight": 2}, {"token": "b", "weight": 1}],
                "<pair>": {"a": "rex", "b": "tom", "t": 0.25},
                "<end>": {"a": "rex", "b": "tom", "t": 1},
            },
            "instruction": False,
            "deterministic": True,
            "timeout_s": 7,
        },
    )
    [(_, request)] = engine.requests
    assert [generated_image.seed for generated_image in request.images] == [2**32 - 2, 2**32 - 1, 0]
    first = request.images[0]
    assert (first.steps, first.guidance, first.negative_prompt) == (3, 2, "blur")
    assert (first.instruction, first.deterministic, request.timeout_s) == (False, True, 7)
    assert first.tokens == {"<rex>": "rex", f"<{TOKEN}>": TOKEN, "<end>": "tom"}
    assert first.blends == {
        "<mix>": (BlendPart(token="a", weight=2), BlendPart(token="b", weight=1)),
        "<pair>": (BlendPart(token="rex", weight=0.75), BlendPart(token="tom", weight=0.25)),
    }
    assert (first.width, first.height) == (None, None)


def test_an_omitted_seed_is_random(image_site: Any) -> None:
    seeds = {image_site.generate().json()["data"][0]["seed"] for _ in range(3)}
    assert len(seeds) == 3


def test_ignored_fields_cause_warnings(client: openai.OpenAI, engine: StubEngine) -> None:
    engine.warnings = ("the prompt is too long",)
    answer = client.images.generate(
        prompt="x",
        n=2,
        quality="hd",
        style="vivid",
        background="transparent",
        moderation="low",
        output_format="png",
        output_compression=50,
        user="u1",
        partial_images=2,
        response_format="b64_json",
        size="auto",
    )
    told = "\n".join(answer.warnings)
    for name in ("quality", "style", "background", "moderation", "output_compression", "user"):
        assert name in told
    assert "partial_images" in told
    assert answer.warnings.count("the prompt is too long") == 1
    silent = client.images.generate(
        prompt="x", quality="auto", background="opaque", moderation="auto", output_compression=100
    )
    assert silent.warnings == ["the prompt is too long"]


def test_unicode_line_separators_do_not_split_events(image_site: Any) -> None:
    prompt = "a\u2028b\u0085c\x0bd\x1ee"
    answer = image_site.generate(prompt=prompt)
    assert answer.status_code == 200, answer.text
    assert answer.json()["data"][0]["settings"]["prompt"] == prompt


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": "x" * 4001}, "prompt"),
        ({"prompt": "a <tok_x>"}, "prompt"),
        ({"prompt": "a (red dog:1.3)"}, "prompt"),
        ({"prompt": "a dog", "negative_prompt": "((cat))"}, "negative_prompt"),
        ({"prompt": "a dog <lora:style:0.8>"}, "prompt"),
        ({"n": 0}, "n"),
        ({"n": 11}, "n"),
        ({"n": "1"}, "n"),
        ({"size": "64"}, "size"),
        ({"size": "4x64"}, None),
        ({"output_format": "jpeg"}, "output_format"),
        ({"seed": -1}, "seed"),
        ({"steps": 151}, "steps"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"timeout_s": 300.5}, "timeout_s"),
        ({"partial_images": 4}, "partial_images"),
        ({"unheard_of": 1}, "unheard_of"),
        ({"tokens": {"rex": "rex"}}, "tokens.rex.[key]"),
        ({"tokens": {"<a>": "x"}, "blends": {"<a>": {"a": "x", "b": "y", "t": 0.5}}}, None),
        ({"blends": {"<a>": {"a": "x", "b": "y", "t": 2}}}, "blends.<a>.t"),
        ({"blends": {"<a>": [{"token": "x", "weight": 1}]}}, "blends.<a>"),
        ({"blends": {"<a>": [{"token": "x"}, {"token": "y", "weight": 0}]}}, "blends.<a>.0.weight"),
        (
            {"tokens": {f"<t{i}>": "x" for i in range(9)}}
            | {"blends": {f"<b{i}>": {"a": "x", "b": "y", "t": 0} for i in range(9)}},
            "tokens",
        ),
    ],
)
def test_what_is_wrong_is_refused_with_its_place(
    image_site: Any, engine: StubEngine, body: Any, param: str | None
) -> None:
    answer = image_site.generate(**body)
    assert answer.status_code == 422, answer.text
    error = answer.json()["error"]
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert answer.json()["type"] == "urn:dti:problem:invalid-request"
    assert answer.json()["detail"] == error["message"]
    assert engine.requests == []


def _told(answer: Any, status: int) -> dict[str, Any]:
    """Both forms of an error, which say the same."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert problem["request"] == answer.headers["X-Request-Id"]
    assert problem["error"]["message"] == problem["detail"]
    assert set(problem["error"]) == {"message", "type", "param", "code"}
    return problem


def test_every_error_has_openais_error_object(new_image_site: Any) -> None:
    image_site = new_image_site(max_body_bytes=1000)
    path = "/v1/images/generations"
    assert _told(image_site.post(path, {}, None), 401)["error"]["code"] == "invalid_api_key"
    _told(image_site.ask("PUT", path), 405)
    _told(image_site.get("/v1/images/edits"), 404)
    _told(image_site.ask("POST", path, content=b"{"), 400)
    _told(image_site.generate(prompt="x" * 1000), 413)
    _told(image_site.post(f"{path}?x=1", {"prompt": "x"}), 422)
    image_site.app.state.service.images.ledger.store.list = None
    assert "error" not in image_site.get("/v1/images").json()


def test_an_internal_error_has_openais_error_object(
    image_site: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.api.images.routes.build_engine_call", lambda *_: 1 / 0)
    problem = _told(image_site.generate(), 500)
    assert (problem["error"]["type"], problem["error"]["code"]) == ("server_error", "internal")


def test_openais_client_raises_its_own_errors(
    image_site: Any, client: openai.OpenAI, engine: StubEngine
) -> None:
    url = str(client.base_url).removesuffix("/v1/")
    with _client(url, "dti_a_b") as unauthorized, pytest.raises(openai.AuthenticationError):
        unauthorized.images.generate(prompt="x")
    with pytest.raises(openai.NotFoundError) as unknown:
        client.images.generate(prompt="x", model="sdxl")
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        client.images.generate(prompt="x", n=11)
    assert refused.value.param == "n"
    with pytest.raises(openai.BadRequestError):
        client.post("/images/generations", cast_to=object, content=b"{")
    image_site.limit("other", requests_per_second=0.01, burst=1)
    with _client(url, image_site.keys["other"]) as other:
        other.images.generate(prompt="x")
        with pytest.raises(openai.RateLimitError) as limited:
            other.images.generate(prompt="x")
    assert int(limited.value.response.headers["Retry-After"]) > 1
    assert limited.value.code == "rate_limit_exceeded"
    engine.reject(422, "ModelError", "of nobody's concern")
    with pytest.raises(openai.InternalServerError) as failed:
        client.images.generate(prompt="x")
    assert "concern" not in str(failed.value)


def _stream(client: openai.OpenAI, **how: Any) -> list[Any]:
    return list(client.images.generate(prompt="x", stream=True, **how))


def test_a_stream_has_progress_previews_and_the_image(
    client: openai.OpenAI, engine: StubEngine
) -> None:
    extra = {"steps": 7, "seed": 9}
    events = _stream(client, partial_images=3, size="32x32", user="u", extra_body=extra)
    assert [event.type.partition(".")[2] for event in events] == [
        *("progress", "progress", "partial_image"),
        *("progress", "progress", "partial_image"),
        *("progress", "progress", "partial_image"),
        *("progress", "completed"),
    ]
    partial = [event for event in events if event.type.endswith("partial_image")]
    assert [event.partial_image_index for event in partial] == [0, 1, 2]
    assert {event.output_format for event in partial} == {"jpeg"}
    assert _image(partial[0].b64_json).format == "JPEG"
    progress = [event for event in events if event.type.endswith("progress")]
    assert [(event.step, event.steps) for event in progress] == [(n, 7) for n in range(1, 8)]
    done = events[-1]
    assert isinstance(done, openai.types.ImageGenCompletedEvent)
    assert _image(done.b64_json).getpixel((0, 0)) == colour(9)
    assert (done.size, done.output_format, done.seed) == ("32x32", "png", 9)
    assert "user is not stored" in done.warnings[0]
    assert engine.requests[0][1].progress


def test_a_stream_has_no_more_previews_than_requested(image_site: Any, parts: Any) -> None:
    for steps, partial in itertools.product((1, 2, 3, 4, 5, 25, 48), (0, 1, 2, 3)):
        answer = image_site.generate(stream=True, partial_images=partial, steps=steps)
        names = [name for name, _ in parts.events(iter(answer.text.splitlines()))]
        shown = names.count("image_generation.partial_image")
        assert min(partial, 1, steps - 1) <= shown <= partial, (steps, partial)
        if steps % (partial + 1) == 0:
            assert shown == partial, steps


def test_one_failed_image_of_a_stream_leaves_the_others(
    image_site: Any, parts: Any, engine: StubEngine
) -> None:
    engine.failures = {0: ("UnsafeImageError", "this image may not be shown: x")}
    answer = image_site.generate(stream=True, n=2)
    events = list(parts.events(iter(answer.text.splitlines())))
    [error] = [data for name, data in events if name == "error"]
    assert (error["index"], error["error"]["code"]) == (0, "moderation_blocked")
    assert error["problem"]["status"] == 422
    assert events[-1][0] == "image_generation.completed"
    assert events[-1][1]["index"] == 1


def test_openais_client_raises_on_an_error_event(client: openai.OpenAI, engine: StubEngine) -> None:
    engine.failures = {0: ("GenerationFailedError", "of nobody's concern")}
    with pytest.raises(openai.APIError, match="report the request id") as failed:
        _stream(client)
    assert isinstance(failed.value.body, dict)
    assert failed.value.body["type"] == "server_error"


def test_a_rejected_request_is_an_error_and_not_a_stream(
    client: openai.OpenAI, engine: StubEngine
) -> None:
    engine.reject(429, "QueueFullError", "full", 9)
    with pytest.raises(openai.RateLimitError) as limited:
        _stream(client)
    assert limited.value.response.headers["Retry-After"] == "9"


def test_an_idle_image_stream_sends_comments(
    image_site: Any, parts: Any, engine: StubEngine
) -> None:
    engine.may_finish.clear()
    with (
        image_site.served() as url,
        parts.http.stream(
            "POST",
            f"{url}/v1/images/generations",
            json={"prompt": "x", "stream": True},
            headers=image_site.headers(),
            timeout=20,
        ) as answer,
    ):
        assert answer.headers["content-type"].startswith("text/event-stream")
        received = parts.events(answer.iter_lines())
        assert next(received)[0] == "image_generation.progress"
        assert [next(received)[0] for _ in range(3)] == [":", ":", ":"]
        engine.may_finish.set()
        assert [name for name, _ in received][-1] == "image_generation.completed"


@pytest.mark.parametrize("stream", [True, False])
def test_a_disconnection_cancels_the_engines_work(
    image_site: Any, parts: Any, engine: StubEngine, stream: bool
) -> None:
    engine.may_finish.clear()
    body = json.dumps({"prompt": "x", "stream": stream})
    fields = {**image_site.headers(), "Host": "dti", "Content-Length": str(len(body))}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    with image_site.served() as url:
        address = urlsplit(url)
        with socket.create_connection((address.hostname, address.port)) as caller:
            caller.sendall(f"POST /v1/images/generations HTTP/1.1\r\n{head}\r\n{body}".encode())
            # It leaves while the engine works: before that there would be nothing to cancel.
            parts.until(lambda: engine.active == 1)
        parts.until(lambda: engine.disconnects == 1)
        assert engine.active == 0
        # The process goes on.
        engine.may_finish.set()
        assert image_site.generate().status_code == 200


def test_a_broken_engine_stream_ends_with_an_error_event(
    image_site: Any, parts: Any, engine: StubEngine
) -> None:
    engine.dies = True
    answer = image_site.generate(stream=True, n=2, steps=1)
    events = list(parts.events(iter(answer.text.splitlines())))
    assert "image_generation.completed" in [name for name, _ in events]
    assert events[-1][0] == "error"
    assert events[-1][1]["error"]["code"] == "no_engine"
    assert json.dumps(events[-1][1]["problem"]["status"]) == "503"


def test_the_rate_limit_holds_for_images(image_site: Any) -> None:
    image_site.limit("acme", requests_per_second=0.01, burst=1)
    assert image_site.generate().status_code == 200
    problem = _told(image_site.generate(), 429)
    assert re.search("requests per second", problem["detail"])


def test_a_timeout_above_the_limit_of_the_service_is_refused(new_image_site: Any) -> None:
    site = new_image_site(generation_timeout_s=20)
    assert site.generate(timeout_s=20).status_code == 200
    answer = site.generate(timeout_s=21)
    assert answer.status_code == 422
    assert "at most 20 (its setting generation_timeout_s)" in answer.text


@pytest.mark.parametrize(
    ("model", "response_format", "key"),
    [
        ("dall-e-2", None, "url"),
        ("dall-e-3", None, "url"),
        ("dall-e-3", "b64_json", "b64_json"),
        ("gpt-image-1", None, "b64_json"),
        ("gpt-image-1", "url", "url"),
        (None, None, "b64_json"),
    ],
)
def test_the_default_form_of_an_image_is_openais_for_the_model(
    image_site: Any, model: str | None, response_format: str | None, key: str
) -> None:
    body = {"model": model, "response_format": response_format}
    answer = image_site.generate(**{name: value for name, value in body.items() if value})
    assert answer.status_code == 200, answer.text
    (image,) = answer.json()["data"]
    assert [name for name in ("url", "b64_json") if image[name]] == [key]
