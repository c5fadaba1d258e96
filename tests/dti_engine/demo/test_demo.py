"""The demo, end to end on a tiny model of random weights: what it writes is complete and agrees.

How well a trained model does is not tested here: that is what the demo itself shows.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from PIL import Image, ImageChops
from transformers import CLIPTextConfig, CLIPTextModel
from typer.testing import CliRunner, Result

from dti_engine.artifacts.artifact import Artifact
from dti_engine.backbones import load_backbone
from dti_engine.backbones.checkpoint import MINIATURE
from dti_engine.cli.app import app
from dti_engine.demo.images import DemoScorer
from dti_engine.generation.pipeline import ImageRequest, generate
from dti_engine.images.png import read_settings
from dti_engine.miniature.scorer import Scorer, load_scorer, read, save_scorer
from dti_engine.miniature.training.text_encoder import new_tokenizer
from dti_engine.miniature.world.subjects import demo_prompts, draw_subject, held_out_subjects

NUM_SUBJECTS, NUM_PROMPTS, NUM_STRIP, NUM_REFERENCES = 4, 6, 7, 5


@pytest.fixture(scope="module")
def demo_weights(make_checkpoint: Callable[..., Path], tmp_path_factory: Any) -> Path:
    """Return the tiny model with the words of the demo, each one token, and an untrained scorer."""
    folder = tmp_path_factory.mktemp("weights") / "tiny-miniature"
    shutil.copytree(make_checkpoint(), folder)
    texts = [prompt.template for prompt in demo_prompts()]
    texts += [subject.class_word for subject in held_out_subjects("demo")]
    tokenizer = new_tokenizer(re.findall("[a-z]+", " ".join(texts)))
    config = CLIPTextConfig.from_pretrained(folder / "text_encoder", vocab_size=len(tokenizer))
    config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    config.pad_token_id = tokenizer.pad_token_id
    with torch.random.fork_rng():
        torch.manual_seed(0)
        CLIPTextModel(config).save_pretrained(folder / "text_encoder")
        save_scorer(Scorer(), folder / "scorer.safetensors")
    shutil.rmtree(folder / "tokenizer")
    tokenizer.save_pretrained(folder / "tokenizer")
    return folder


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "out"


@pytest.fixture(scope="module")
def ran(demo_weights: Path, output: Path) -> Result:
    """Run the demo with 3 training steps and 2 denoising steps, in float32 on any machine."""
    sizes = [
        "--model",
        str(demo_weights),
        "--steps",
        "3",
        "--generation-steps",
        "2",
        "--seed",
        "5",
    ]
    return CliRunner().invoke(app, ["demo", "--output", str(output), "--dtype", "float32", *sizes])


@pytest.fixture(scope="module")
def results(ran: Result, output: Path) -> dict[str, Any]:
    assert ran.exit_code == 0, ran.output
    return json.loads((output / "results.json").read_text())


@pytest.fixture(scope="module")
def page(results: dict[str, Any], output: Path) -> str:
    return (output / "index.html").read_text()


def _opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def _all_learned(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [*results["subjects"], results["baseline"]]


def test_the_command_says_where_to_look_and_how_it_went(
    ran: Result, results: dict[str, Any], output: Path
) -> None:
    assert str(output / "index.html") in ran.stdout
    for subject in results["subjects"]:
        assert subject["name"] in ran.stdout
        assert f"{subject['name']}: step 3/3, fixed loss" in ran.stderr
    assert "standard TI" in ran.stdout


def test_every_image_is_there_and_says_how_it_was_generated(
    results: dict[str, Any], output: Path
) -> None:
    generated_images = [each for learned in _all_learned(results) for each in learned["images"]]
    assert len(generated_images) == (NUM_SUBJECTS + 1) * NUM_PROMPTS
    assert len(results["strips"][0]["images"]) == NUM_STRIP
    assert results["counts"] == {
        "subjects": NUM_SUBJECTS,
        "images": len(generated_images) + NUM_STRIP,
    }
    files = [output / learned["token"] for learned in _all_learned(results)]
    digests = {hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    for generating in generated_images:
        settings = read_settings(output / generating["file"])
        assert (settings["prompt"], settings["seed"]) == (generating["prompt"], generating["seed"])
        (token,) = settings["tokens"].values()
        assert token["sha256"] in digests
    for i, generated_image in enumerate(results["strips"][0]["images"]):
        (blend,) = read_settings(output / generated_image["file"])["tokens"].values()
        shares = [parent["share"] for parent in blend["blend_of"]]
        assert shares == pytest.approx([1 - i / (NUM_STRIP - 1), i / (NUM_STRIP - 1)])
    for learned in _all_learned(results):
        assert len(learned["references"]) == NUM_REFERENCES
        for file in learned["references"]:
            assert _opened(output / file).size == (64, 64)


def test_the_sheet_shows_two_photos_and_all_generated_images_of_each_subject(
    results: dict[str, Any], output: Path
) -> None:
    sheet = _opened(output / "sheet.png")
    assert sheet.width == 76 + 8 * 96 + 7 * 4  # a label, then 2 photos and 6 prompts
    header_px = sheet.height - (4 * 96 + 3 * 4)
    assert 2 * 14 < header_px < 8 * 14  # the prompts, wrapped
    for box in ((76, 0, sheet.width, header_px), (0, header_px, 76, sheet.height)):
        darkest, _ = sheet.crop(box).convert("L").getextrema()
        assert darkest < 100  # there is text
    last = _opened(output / results["subjects"][-1]["images"][-1]["file"])
    corner = sheet.crop((sheet.width - 96, sheet.height - 96, sheet.width, sheet.height))
    assert corner.tobytes() == last.resize((96, 96), Image.Resampling.LANCZOS).tobytes()


def test_scores_are_those_that_the_scorer_gives_the_files(
    results: dict[str, Any], output: Path, demo_weights: Path
) -> None:
    scorer = load_scorer(demo_weights / "scorer.safetensors")
    for learned in (results["subjects"][2], results["baseline"]):
        references = read(scorer, [_opened(output / file) for file in learned["references"]])
        for generating, prompt in zip(learned["images"], demo_prompts(), strict=True):
            (reading,) = read(scorer, [_opened(output / generating["file"])])
            likeness = fmean(reading.likeness(each, place=prompt.place) for each in references)
            assert generating["subject_score"] == pytest.approx(likeness, abs=1e-5)
            assert generating["prompt_score"] == reading.shows(prompt.asked)
        means = results["means"][f"{learned['name']} {learned['method']}"]
        assert means["subject_score"] == fmean(each["subject_score"] for each in learned["images"])


def test_the_baseline_has_the_same_subject_budget_and_seeds(results: dict[str, Any]) -> None:
    dti, ti = results["subjects"][0], results["baseline"]
    for key in ("name", "initializer", "seed", "num_steps", "references"):
        assert dti[key] == ti[key]
    assert [each["seed"] for each in dti["images"]] == [each["seed"] for each in ti["images"]]
    configs = results["configs"]
    for key in ("steps", "batch_size", "resolution", "captions", "timesteps"):
        assert configs["dti"][key] == configs["ti"][key]
    assert (dti["method"], ti["method"]) == ("dti", "ti")


def test_every_step_is_kept_and_dti_keeps_the_length_of_words(results: dict[str, Any]) -> None:
    for subject in results["subjects"]:
        assert {len(values) for values in subject["curve"].values()} == {3}
        assert subject["curve"]["norm"] == pytest.approx([results["vocabulary_norm"]] * 3, rel=1e-5)


def test_token_files_are_those_of_the_run(results: dict[str, Any], output: Path) -> None:
    for learned in _all_learned(results):
        manifest = Artifact.load(output / learned["token"]).manifest
        assert manifest.placeholder == learned["placeholder"]
        assert (
            manifest.training.config.model_dump(mode="json")
            == results["configs"][learned["method"]]
        )
        assert manifest.training.images.keys() == {
            Path(file).name for file in learned["references"]
        }


def test_the_ends_of_the_strip_are_the_two_subjects(
    results: dict[str, Any], output: Path, demo_weights: Path
) -> None:
    (strip,), backbone = results["strips"], load_backbone(demo_weights)
    generated_images = strip["images"]
    assert [each["t"] for each in generated_images] == pytest.approx(
        [i / 6 for i in range(NUM_STRIP)]
    )
    for generated_image, name, learned in (
        (generated_images[0], strip["first"], results["subjects"][0]),
        (generated_images[-1], strip["second"], results["subjects"][1]),
    ):
        assert learned["name"] == name
        token = Artifact.load(output / learned["token"]).token
        request = ImageRequest(strip["prompt"], strip["seed"], {"<blend>": token})
        (alone,) = generate(backbone, [request], steps=2)
        difference = ImageChops.difference(alone, _opened(output / generated_image["file"]))
        assert max(high for _, high in difference.getextrema()) <= 1  # rounding, in another batch


def test_the_page_needs_nothing_beside_it(page: str) -> None:
    sources = re.findall(r'<img[^>]* src="([^"]*)"', page)
    shown = NUM_SUBJECTS * (NUM_REFERENCES + NUM_PROMPTS) + 2 * NUM_PROMPTS + NUM_STRIP
    assert len(sources) == shown
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert not re.search(r"<(script|link|iframe)|url\(https?:|@import", page)
    assert page.count("<svg") == 2


def test_the_page_shows_every_score(page: str, results: dict[str, Any]) -> None:
    for learned in _all_learned(results):
        for generating in learned["images"]:
            subject, prompt = generating["subject_score"], generating["prompt_score"]
            assert f"subject {subject:.2f} · prompt {prompt:.2f}</span>" in page
    for stage in results["seconds"]:
        assert stage in page


def test_weights_without_a_scorer_are_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    options = ["--model", str(tiny_checkpoint), "--output", str(tmp_path)]
    result = CliRunner().invoke(app, ["demo", *options])
    assert result.exit_code == 2
    assert "no scorer.safetensors" in result.stderr


@pytest.mark.skipif(not MINIATURE.is_dir(), reason="the miniature's weights are not there")
def test_the_shipped_scorer_tells_the_subjects_apart(tmp_path: Path) -> None:
    references: dict[str, list[Image.Image]] = {}
    for subject in held_out_subjects("demo"):
        draw_subject(subject, tmp_path / subject.name)
        files = sorted((tmp_path / subject.name).iterdir())
        references[subject.name] = [_opened(file) for file in files]
    scale = DemoScorer(load_scorer(MINIATURE / "scorer.safetensors"), references, {}).scale()
    assert scale.same_subject > scale.other_subject + 0.4
