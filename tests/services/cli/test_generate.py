"""`dti generate` and `dti blend` with --server: the real API, and an engine of one colour."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hosted import Hosted
from PIL import Image
from stub_engine import StubEngine, colour
from typer.testing import Result

Dti = Callable[..., Result]


@pytest.fixture
def learned(dti: Dti, service: Hosted, photos: Path) -> None:
    """Tokens of the subjects rex, ann and my-tom-2."""
    with service.at_work():
        assert dti("submit", photos, "--wait", "-o", "tokens").exit_code == 0


def opened(path: str) -> Image.Image:
    with Image.open(path) as image:
        return image.copy()


def colours(paths: list[str]) -> list[object]:
    return [opened(path).getpixel((0, 0)) for path in paths]


def sizes(paths: list[str]) -> list[tuple[int, int]]:
    return [opened(path).size for path in paths]


def test_a_service_generates_every_prompt_and_seed_into_files(
    dti: Dti, service: Hosted, engine: StubEngine, learned: None
) -> None:
    options = ("--token", "rex", "--seeds", "7-8", "--steps", 3, "--negative-prompt", "blurry")
    more = ("--guidance", 4, "--size", "16x24", "--server", service.url)
    done = dti("generate", "a {} on a beach", "a {}", *options, *more)
    assert done.exit_code == 0, done.output
    paths = done.stdout.splitlines()
    assert [Path(path).name for path in paths] == [
        "01-a-rex-on-a-beach-seed7.png",
        "01-a-rex-on-a-beach-seed8.png",
        "02-a-rex-seed7.png",
        "02-a-rex-seed8.png",
    ]
    assert colours(paths) == [colour(7), colour(8)] * 2
    assert "generating: 12/12" in done.stderr
    images_by_prompt = {request.images[0].prompt: request.images for _, request in engine.requests}
    generated_image = images_by_prompt["a <rex> on a beach"][1]
    assert (generated_image.seed, generated_image.steps, generated_image.guidance) == (8, 3, 4)
    assert (generated_image.negative_prompt, generated_image.width, generated_image.height) == (
        "blurry",
        16,
        24,
    )
    assert generated_image.tokens == {"<rex>": "rex"}


def test_a_token_may_have_another_placeholder_and_an_id(
    dti: Dti, service: Hosted, engine: StubEngine, learned: None
) -> None:
    found = json.loads(dti("tokens", "--alias", "ann", "--json").stdout)["tokens"]
    token = found[0]["token"]
    arguments = ("--token", "<me>=rex", "--token", token, "--server", service.url, "--json")
    done = dti("generate", "a <me> and <ann>", *arguments)
    assert done.exit_code == 0, done.output
    (_, request) = engine.requests[0]
    assert request.images[0].tokens == {"<me>": "rex", "<ann>": token}
    [generated_image] = json.loads(done.stdout)["images"]
    assert generated_image["seed"] == 0
    assert Path(generated_image["path"]).is_file()


def test_a_row_of_images_leads_from_one_token_to_another(
    dti: Dti, service: Hosted, engine: StubEngine
) -> None:
    done = dti("blend", "rex", "ann", "--strip", 3, "--seeds", "0-1", "--server", service.url)
    assert done.exit_code == 0, done.output
    names = [Path(path).name for path in done.stdout.splitlines()]
    parts = ("strip001", "strip002", "strip003")
    row = [f"a-photo-of-a-blend-seed{seed}-{part}.png" for seed in (0, 1) for part in parts]
    assert names == [*row, *(f"a-photo-of-a-blend-seed{seed}-strip.png" for seed in (0, 1))]
    assert sizes(done.stdout.splitlines()) == [(64, 64)] * 6 + [(192, 64)] * 2
    generated_images = [request.images[0] for _, request in engine.requests]
    shares = sorted(
        tuple((part.token, part.weight) for part in each.blends.get("<blend>", ()))
        for each in generated_images
    )
    assert shares == [(), (), (("rex", 0.5), ("ann", 0.5))]
    assert {each.tokens.get("<blend>") for each in generated_images} == {None, "rex", "ann"}


def test_several_tokens_are_blended_by_weights(
    dti: Dti, service: Hosted, engine: StubEngine
) -> None:
    done = dti("blend", "a", "b", "c", "--weights", "2,1,1", "--server", service.url)
    assert done.exit_code == 0, done.output
    (_, request) = engine.requests[0]
    parts = request.images[0].blends["<blend>"]
    assert [(part.token, part.weight) for part in parts] == [("a", 0.5), ("b", 0.25), ("c", 0.25)]


def test_failed_images_are_reported_and_the_others_kept(
    dti: Dti, service: Hosted, engine: StubEngine
) -> None:
    engine.failures[1] = "UnsafeImageError", "it may not be shown"
    done = dti("generate", "a dog", "--seeds", "0-2", "--server", service.url)
    assert done.exit_code == 1
    assert len(done.stdout.splitlines()) == 2
    assert "a-dog-seed1.png: it may not be shown" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "a", "--device", "cpu"], "--device cannot be used with --server"),
        (["blend", "a", "b", "--save", "c"], "--save cannot be used with --server"),
        (["blend", "a", "b", "c", "--strip", "3"], "use --weights"),
        (["generate", "a {}", "--token", "nobody"], "no token of a subject 'nobody'"),
        (["generate", "a", "--model", "sdxl"], "there are miniature"),
        (["generate", "a", "--guidance", "99"], "guidance"),
        (["generate", "a", "--size", "big"], "size"),
        (["generate", "a", "--api-key", "dti_1_no"], "key"),
    ],
)
def test_invalid_arguments_are_one_message_and_exit_code_2(
    dti: Dti, service: Hosted, engine: StubEngine, arguments: list[str], message: str
) -> None:
    done = dti(*arguments, "--server", service.url)
    assert done.exit_code == 2, done.output
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert engine.requests == []


def test_without_a_server_option_this_machine_generates_despite_the_environment(
    dti: Dti, service: Hosted, engine: StubEngine
) -> None:
    done = dti("generate", "a dog", "--steps", 1)
    assert done.exit_code == 0, done.output
    assert engine.requests == []
    assert "--server" in dti("generate", "a", "--size", "8x8").stderr
