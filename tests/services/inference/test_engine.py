"""The HTTP protocol of an engine, over a real connection."""

import io
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from dti_engine.backbones.interface import Backbone
from dti_engine.generation.denoiser import ImageRequest
from dti_engine.generation.pipeline import generate
from dti_engine.images.png import read_settings
from services.contracts.generation import FailureEvent, ImageEvent, StepEvent
from services.errors import DeletedError, UnknownJobError

from .engine_server import SECRET, EngineServer, serve_engine
from .scheduler.harness import InstrumentedModel, random_token


def spec(prompt: str = "a photo of a dog", seed: int = 0, **options: Any) -> dict[str, Any]:
    return {"prompt": prompt, "seed": seed, "steps": 3, **options}


def opened(generated: ImageEvent | FailureEvent) -> Image.Image:
    assert isinstance(generated, ImageEvent), generated
    return Image.open(io.BytesIO(generated.png))


@pytest.fixture
def model(tiny_backbone: Backbone) -> Any:
    return InstrumentedModel(tiny_backbone)


@pytest.fixture
def engine(model: Any) -> Iterator[EngineServer]:
    with serve_engine(model) as found:
        yield found


def test_an_image_is_generated_with_the_tenants_own_token(
    engine: EngineServer, tiny_backbone: Backbone, tmp_path: Path
) -> None:
    rex = engine.resolver.tokens["ann", "rex"] = random_token()
    image = spec("a <dog>", 3, tokens={"<dog>": "rex"}, guidance=4.0, negative_prompt="a cat")
    (generated,) = engine.ends(image).values()
    request = ImageRequest("a <dog>", 3, {"<dog>": rex}, "a cat", 4.0)
    (expected,) = generate(tiny_backbone, [request], steps=3)
    assert np.array_equal(np.asarray(opened(generated)), np.asarray(expected))

    assert isinstance(generated, ImageEvent)
    (tmp_path / "a.png").write_bytes(generated.png)
    settings = read_settings(tmp_path / "a.png")
    assert settings == generated.settings
    expected_settings = {
        "seed": 3,
        "steps": 3,
        "tokens": {"<dog>": {"sha256": "rex"}},
        "height": 16,
    }
    assert {name: settings[name] for name in expected_settings} == expected_settings
    parameters = opened(generated).info["parameters"]
    assert parameters.startswith("a <dog>\nNegative prompt: a cat\nSteps: 3, Sampler: DDIM, CFG")
    assert "trainedAlgorithmicMedia" in opened(generated).info["XML:com.adobe.xmp"]


def test_two_tenants_with_one_name_each_get_their_own_token(
    engine: EngineServer, tiny_backbone: Backbone
) -> None:
    image = spec("a <dog>", 3, tokens={"<dog>": "rex"})
    for tenant in ("ann", "bob"):
        rex = engine.resolver.tokens[tenant, "rex"] = random_token()
        (generated,) = engine.ends(image, tenant=tenant).values()
        request = ImageRequest("a <dog>", 3, {"<dog>": rex})
        (expected,) = generate(tiny_backbone, [request], steps=3)
        assert np.array_equal(np.asarray(opened(generated)), np.asarray(expected))


def test_each_image_ends_once_and_sends_its_steps_on_request(
    engine: EngineServer,
) -> None:
    events = engine.events(spec(), spec(seed=1, height=8, width=24), progress=True, previews=2)
    assert sorted(each.image for each in events if isinstance(each, ImageEvent)) == [0, 1]
    assert {opened(each).size for each in events if isinstance(each, ImageEvent)} == {
        (16, 16),
        (24, 8),
    }
    steps = [each for each in events if isinstance(each, StepEvent) and each.image == 1]
    assert [(each.step, each.steps) for each in steps] == [(1, 3), (2, 3), (3, 3)]
    assert [bool(each.preview) for each in steps] == [False, True, False]
    shown = next(each.preview for each in steps if each.preview)
    assert Image.open(io.BytesIO(shown)).format == "JPEG"
    assert not any(isinstance(each, StepEvent) for each in engine.events(spec()))


def test_prompt_encodings_are_cached_as_long_as_their_tokens(
    engine: EngineServer,
) -> None:
    prompts = engine.scheduler._resources.prompts
    engine.resolver.tokens["ann", "rex"] = random_token()
    engine.ends(spec("a <dog>", tokens={"<dog>": "rex"}, guidance=1.0), spec(guidance=1.0))
    assert len(prompts._cache) == 2
    engine.resolver.tokens["ann", "rex"] = DeletedError("it was deleted")
    end = time.monotonic() + 10
    while len(prompts._cache) > 1 and time.monotonic() < end:
        time.sleep(0.01)
    assert len(prompts._cache) == 1


def test_a_lookup_of_tokens_takes_no_longer_than_the_timeout(engine: EngineServer) -> None:
    looked_up = threading.Event()
    resolve = engine.resolver.resolve
    engine.resolver.resolve = lambda *what: (looked_up.wait(20), resolve(*what))[1]  # type: ignore[method-assign]
    began = time.monotonic()
    rejection = engine.rejection(422, spec(), timeout_s=0.5)
    assert time.monotonic() - began < 10
    looked_up.set()
    assert rejection.error == "DeadlineExceededError"
    assert "in 0.5 s: ask again" in rejection.detail


def test_a_truncated_prompt_is_a_warning(engine: EngineServer) -> None:
    (generated,) = engine.ends(spec("a dog " * 50)).values()
    assert isinstance(generated, ImageEvent)
    assert generated.warnings == (
        "the prompt is too long: text_encoder does not read its last 25 word pieces",
    )
    (short,) = engine.ends(spec()).values()
    assert isinstance(short, ImageEvent)
    assert short.warnings == ()


def test_weights_of_words_are_refused_by_the_engine_too(engine: EngineServer) -> None:
    rejection = engine.rejection(422, spec("a (dog:1.3)"))
    assert rejection.error == "TokenError"
    assert "a weight, as A1111 and ComfyUI have" in rejection.detail


@pytest.mark.parametrize(
    ("image", "error", "detail"),
    [
        (spec("a <dog>"), "TokenError", "uses <dog>, which is not bound to a token"),
        (spec(height=13), "ConfigurationError", "height"),
        (spec(steps=0), "ConfigurationError", "images.1.steps"),
        (spec(colour="red"), "ConfigurationError", "images.1.colour"),
        (spec("a <dog>", tokens={"<dog>": "max"}), "UnknownJobError", "no token max"),
        (spec("a <dog>", tokens={"<dog>": "old"}), "DeletedError", "was deleted"),
    ],
    ids=lambda each: str(each)[:40],
)
def test_one_invalid_image_rejects_the_request_and_begins_nothing(
    engine: EngineServer, model: Any, image: dict[str, Any], error: str, detail: str
) -> None:
    engine.resolver.tokens["ann", "max"] = UnknownJobError("ann has no token max")
    engine.resolver.tokens["ann", "old"] = DeletedError("it was deleted")
    rejection = engine.rejection(422, spec(), image)
    assert (rejection.error, rejection.retry_after_s) == (error, None)
    assert detail in rejection.detail
    assert model.calls == []


def test_an_image_that_fails_does_not_fail_the_others(engine: EngineServer, model: Any) -> None:
    decode = model._backbone.decode_latents

    def overflowing(latents: Any) -> Any:
        pixels = decode(latents)
        pixels[1] = float("nan")
        return pixels

    model.decode_latents = overflowing
    ends = engine.ends(spec(), spec(seed=1), spec(seed=2))
    assert [type(ends[index]) for index in range(3)] == [ImageEvent, FailureEvent, ImageEvent]
    failed = ends[1]
    assert isinstance(failed, FailureEvent)
    assert failed.error == "GenerationFailedError"


def test_a_request_without_the_secret_is_rejected(engine: EngineServer) -> None:
    for shown in ("wrong", SECRET + "x"):
        answer = engine.post({"tenant": "ann", "images": [spec()]}, shown)
        assert answer.status_code == 401
    assert httpx.get(f"{engine.url}/healthz").status_code == 200
    assert httpx.get(f"{engine.url}/other").status_code == 404


def test_a_full_engine_says_when_to_retry(model: Any) -> None:
    release = threading.Event()
    model.before = lambda noisy, conditioning: release.wait(20)
    with (
        serve_engine(model, max_batch_size=1, queue_size=4) as engine,
        ThreadPoolExecutor(2) as pool,
    ):
        first = pool.submit(engine.ends, spec())
        _until(lambda: bool(model.calls))
        second = pool.submit(engine.ends, spec(seed=1))
        _until(lambda: len(engine.scheduler.queue) == 1)
        rejection = engine.rejection(429, *(spec(seed=seed) for seed in (2, 3)))
        assert rejection.error == "QueueFullError"
        assert rejection.retry_after_s is not None
        release.set()
        assert isinstance(first.result()[0], ImageEvent)
        assert isinstance(second.result()[0], ImageEvent)


def _until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_disconnect_cancels_the_images(model: Any) -> None:
    release = threading.Event()
    model.before = lambda noisy, conditioning: release.wait(0.05)
    with serve_engine(model) as engine:
        body = {"tenant": "ann", "images": [spec(steps=100)], "progress": True}
        headers = {"Authorization": f"Bearer {SECRET}"}
        with httpx.stream("POST", f"{engine.url}/generate", json=body, headers=headers) as answer:
            next(answer.iter_lines())
        end = time.monotonic() + 10
        calls = -1
        while calls != len(model.calls):
            assert time.monotonic() < end
            calls = len(model.calls)
            time.sleep(0.5)
        assert calls < 60


def test_an_image_past_its_timeout_fails(model: Any) -> None:
    model.before = lambda noisy, conditioning: time.sleep(0.05)
    with serve_engine(model) as engine:
        (late,) = engine.ends(spec(steps=100), timeout_s=0.3).values()
        assert isinstance(late, FailureEvent)
        assert late.error == "DeadlineExceededError"


def test_an_unsafe_or_unchecked_image_is_not_sent(model: Any) -> None:
    seen: list[Image.Image] = []

    def check(image: Image.Image) -> str | None:
        seen.append(image)
        if len(seen) == 3:
            raise RuntimeError("the check itself")
        return "a dog is in it" if len(seen) == 2 else None

    with serve_engine(model, check) as engine:
        (fine,) = engine.ends(spec()).values()
        (unsafe,) = engine.ends(spec()).values()
        (unseen,) = engine.ends(spec()).values()
    assert isinstance(fine, ImageEvent)
    assert isinstance(unsafe, FailureEvent)
    assert (unsafe.error, unsafe.detail) == (
        "UnsafeImageError",
        "this image may not be shown: a dog is in it",
    )
    assert isinstance(unseen, FailureEvent)
    assert "could not be checked" in unseen.detail


def test_a_device_that_is_stuck_makes_the_engine_unhealthy(model: Any) -> None:
    release = threading.Event()
    model.before = lambda noisy, conditioning: release.wait(20)
    with serve_engine(model, watchdog_timeout_s=0.5) as engine:
        waiting = threading.Thread(target=lambda: engine.ends(spec()))
        waiting.start()
        end = time.monotonic() + 10
        while (answer := httpx.get(f"{engine.url}/healthz")).status_code == 200:
            assert time.monotonic() < end
            time.sleep(0.05)
        assert answer.status_code == 503
        assert "no progress" in answer.text
        release.set()
        waiting.join()
