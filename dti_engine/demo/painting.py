"""Everything that the demo paints: each token into each prompt, and the way between two tokens.

Pictures are known by their files, relative to the output folder. One prompt has one seed, whatever
the token, so that pictures of two methods differ by the token alone.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from PIL import Image

from dti_engine.backbones.interface import Backbone
from dti_engine.blends import slerp_strip
from dti_engine.demo.learning import LearnedSubject
from dti_engine.generation import ImageRequest, generate, picture_settings, save_picture
from dti_engine.miniature.world.subjects import demo_prompts
from dti_engine.tokens import LearnedToken

NUM_STRIP_PICTURES = 7
STRIP_TEMPLATE = "a photo of a {} on a meadow"  # a named place, so that only the subject changes
_BLEND = "<blend>"
_BATCH_SIZE = 8

Requests: TypeAlias = Mapping[str, ImageRequest]
Origins: TypeAlias = Mapping[LearnedToken, object]  # what a picture says of a token in it


def prompt_requests(trained: LearnedSubject, *, seed: int) -> dict[str, ImageRequest]:
    """The token in every prompt of the demo; file -> request, in the order of the prompts."""
    placeholder, token = trained.subject.placeholder, trained.artifact.token
    return {
        f"paintings/{trained.name}-{i}.png": ImageRequest(
            prompt.template.replace("{}", placeholder), seed + i, {placeholder: token}
        )
        for i, prompt in enumerate(demo_prompts())
    }


def strip_requests(
    first: LearnedSubject, second: LearnedSubject, *, seed: int
) -> dict[str, ImageRequest]:
    """Equal steps on the sphere from one token to the other; file -> request, in order."""
    tokens = slerp_strip(
        first.artifact.token, second.artifact.token, NUM_STRIP_PICTURES, placeholder=_BLEND
    )
    prompt = STRIP_TEMPLATE.replace("{}", _BLEND)
    return {
        f"strip/{i}.png": ImageRequest(prompt, seed, {_BLEND: token})
        for i, token in enumerate(tokens)
    }


def origins(trained: Sequence[LearnedSubject], strip: Requests) -> Origins:
    """Of every token in the prompts, and of the blends of the first two in the strip."""
    known: dict[LearnedToken, object] = {
        each.artifact.token: each.artifact.origin() for each in trained
    }
    first, second = (each.artifact.origin() for each in trained[:2])
    for i, request in enumerate(strip.values()):
        share = i / (len(strip) - 1)
        known[request.tokens[_BLEND]] = {
            "blend_of": [first | {"share": 1 - share}, second | {"share": share}]
        }
    return known


def paint(
    backbone: Backbone,
    requests: Requests,
    origins: Origins,
    output: Path,
    *,
    steps: int,
    on_step: Callable[[int, int], None],
) -> dict[str, Image.Image]:
    """Paint and save all, each with its settings inside; file -> picture."""
    images = generate(
        backbone, list(requests.values()), steps=steps, batch_size=_BATCH_SIZE, on_step=on_step
    )
    for (file, request), image in zip(requests.items(), images, strict=True):
        tokens = {name: origins[token] for name, token in request.tokens.items()}
        settings = picture_settings(request, backbone, steps=steps, tokens=tokens)
        save_picture(image, output / file, settings)
    return dict(zip(requests, images, strict=True))
