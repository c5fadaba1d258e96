"""The `parameters` of a PNG, read back by the rules of A1111's parser.

The rules, of A1111 modules/infotext_utils.py: the last line has the fields, if it has three or
more of them; a line that begins with "Negative prompt:" begins the negative prompt; a value in
double quotes is JSON, and every other one ends at a comma.
"""

import io
import json
import re
from typing import Any

import pytest
from PIL import Image

from dti_engine.backbones.interface import Backbone
from dti_engine.generation.pipeline import ImageRequest, image_settings
from dti_engine.images.png import encode_image, plain_png

FIELD = re.compile(r'\s*(?P<name>\w[\w /-]+):\s*(?P<value>"(?:\\.|[^"\\])+"|[^,]*)(?:,|$)')
NEGATIVE = "Negative prompt:"
SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"


def parse(parameters: str) -> dict[str, str]:
    """Return what A1111 shows of an image: prompts and fields."""
    lines = parameters.strip().split("\n")
    fields: dict[str, str] = {}
    if len(FIELD.findall(lines[-1])) >= 3:
        fields = {name: _value(text) for name, text in FIELD.findall(lines.pop())}
    lines = [line.strip() for line in lines]
    starts = [index for index, line in enumerate(lines) if line.startswith(NEGATIVE)]
    start = starts[0] if starts else len(lines)
    negative = "\n".join(lines[start:]).removeprefix(NEGATIVE).strip()
    return fields | {"Prompt": "\n".join(lines[:start]), "Negative prompt": negative}


def _value(text: str) -> str:
    if text.startswith('"') and text.endswith('"'):
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text


def shown(settings: dict[str, Any], size: tuple[int, int] = (64, 48)) -> dict[str, str]:
    png = encode_image(Image.new("RGB", size), settings)
    with Image.open(io.BytesIO(png)) as image:
        return parse(image.info["parameters"])


def settings_of(backbone: Backbone, *names: str, **changes: Any) -> dict[str, Any]:
    tokens = {f"<{name}>": {"placeholder": f"<{name}>", "sha256": SHA256} for name in names}
    known = {"prompt": "a <rex> on a beach", "seed": 7, "negative_prompt": "", "guidance": 5.5}
    request = ImageRequest(**(known | changes))
    return image_settings(request, backbone, steps=25, tokens=tokens)


def test_a1111_shows_the_settings_of_an_image(tiny_backbone: Backbone) -> None:
    assert shown(settings_of(tiny_backbone, "rex")) == {
        "Prompt": "a <rex> on a beach",
        "Negative prompt": "",
        "Steps": "25",
        "Sampler": "DDIM",
        "CFG scale": "5.5",
        "Seed": "7",
        "Size": "64x48",
        "Model": tiny_backbone.name,
        "TI hashes": f"rex: {SHA256[:10]}",
        "Version": shown(settings_of(tiny_backbone))["Version"],
    }


def test_several_tokens_are_one_field(tiny_backbone: Backbone) -> None:
    found = shown(settings_of(tiny_backbone, "rex", "ana_2"))
    assert found["TI hashes"] == f"rex: {SHA256[:10]}, ana_2: {SHA256[:10]}"


def test_an_image_without_tokens_has_no_field_of_them(tiny_backbone: Backbone) -> None:
    assert "TI hashes" not in shown(settings_of(tiny_backbone))


@pytest.mark.parametrize(
    "prompt",
    [
        "a dog, red: yes",
        'a "dog", \\ and {braces} (weighted:1.3)',
        "two lines\nSteps: 3, Sampler: none, CFG scale: 1, Seed: 2",
        "ein Hündchen 犬 🐕",
        "a <rex>, <lora:x:0.5>",
        "first\n\nthird",
        "",
    ],
)
def test_prompts_are_read_back_as_they_are(tiny_backbone: Backbone, prompt: str) -> None:
    for negative in ("", "dark, blurry: no", "one\ntwo", 'a "quote"'):
        settings = settings_of(tiny_backbone, "rex", prompt=prompt, negative_prompt=negative)
        found = shown(settings)
        assert (found["Prompt"], found["Negative prompt"]) == (prompt, negative)
        assert (found["Steps"], found["Seed"], found["Size"]) == ("25", "7", "64x48")


@pytest.mark.parametrize("name", ["my model, v2: final", 'a "quoted" one', "two\nlines", "a\\b, c"])
def test_a_value_with_the_marks_of_the_format_is_read_back(
    tiny_backbone: Backbone, name: str
) -> None:
    found = shown(settings_of(tiny_backbone) | {"model": name})
    assert (found["Model"], found["Seed"]) == (name, "7")
    assert found["Version"].startswith("dti ")


def test_a_sheet_of_images_has_no_parameters() -> None:
    with Image.open(io.BytesIO(plain_png(Image.new("RGB", (4, 4))))) as image:
        assert "parameters" not in image.info
