"""Requests as well-known clients send them: each field by OpenAI's own types, each body as seen."""

from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from openai.types import image_generate_params

from services.api.images.schemas import ImageGenerationRequest

_FIELDS: dict[str, Any] = get_type_hints(image_generate_params.ImageGenerateParamsBase) | {
    "stream": bool
}

_OTHER_FORMATS = {"jpeg", "webp", "gif", "svg"}
"""Values of `output_format` that are refused: their client would save a PNG under a wrong name."""

for _field in ("frame_count", "frame_duration_ms", "svg"):  # These need the format gif or svg.
    _FIELDS.pop(_field, None)


def _literals(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
    elif get_origin(annotation) is Union or get_args(annotation):
        for part in get_args(annotation):
            yield from _literals(part)


_EXAMPLES: dict[str, list[Any]] = {
    "prompt": ["a dog"],
    "n": [1, 10, None],
    "stream": [False, None],
    "partial_images": [0, 3, None],
    "output_compression": [0, 100, None],
    "user": ["someone", None],
    "safety_identifier": ["someone", None],
}


@pytest.mark.parametrize("field", _FIELDS)
def test_each_field_of_openais_client_is_taken_with_each_of_its_values(field: str) -> None:
    values = [*_EXAMPLES.get(field, []), *_literals(_FIELDS[field])]
    assert values, "add an example of this field, which the client has and the API lacks"
    for value in values:
        if field != "output_format" or value not in _OTHER_FORMATS:
            ImageGenerationRequest.model_validate({"prompt": "a dog", field: value}, strict=True)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(
            {"model": "miniature", "prompt": "a dog", "n": 1, "response_format": "b64_json"},
            id="openai-node, Vercel AI SDK",
        ),
        pytest.param(
            {"model": "dall-e-3", "prompt": "a dog", "n": 1, "size": "auto", "quality": "standard"},
            id="langchain-community DallEAPIWrapper",
        ),
        pytest.param(
            {"model": "miniature", "prompt": "a dog", "user": "default", "style": "vivid"},
            id="LiteLLM",
        ),
        pytest.param(
            {"model": "miniature", "prompt": "a dog", "n": 1, "size": "64x64"}, id="Open WebUI"
        ),
        pytest.param(
            {
                "model": "gpt-image-1",
                "prompt": "a dog",
                "background": "auto",
                "moderation": "low",
                "output_format": "png",
                "output_compression": 100,
                "quality": "high",
                "size": "auto",
            },
            id="openai-python",
        ),
        pytest.param(
            {"prompt": "a dog", "n": None, "size": None, "user": None}, id="null is unset"
        ),
    ],
)
def test_the_body_of_a_well_known_client_is_answered_with_an_image(
    module_site: Any, body: dict[str, Any]
) -> None:
    headers = {
        "User-Agent": "OpenAI/Python 2.0",
        "X-Stainless-Lang": "python",
        "OpenAI-Organization": "org",
        "OpenAI-Project": "project",
        "OpenAI-Beta": "x",
        "Accept-Encoding": "gzip, deflate, br, zstd",
        "X-Forwarded-For": "203.0.113.7",
    }
    answer = module_site.post("/v1/images/generations", body, headers=headers)
    assert answer.status_code == 200, answer.text
    (image,) = answer.json()["data"]
    assert image["url"] or image["b64_json"]
