"""The commands of `dti` on a tiny model: files, exit codes, and what goes to stdout and stderr."""

import hashlib
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import typer
from PIL import Image
from typer.testing import CliRunner, Result

from dti_engine import __version__
from dti_engine.artifacts.artifact import Artifact
from dti_engine.artifacts.manifest import BlendedOrigin, ImportedOrigin
from dti_engine.cli import blend as blending
from dti_engine.cli import demo as demonstration
from dti_engine.cli import export as exchange
from dti_engine.cli import generate as generating
from dti_engine.cli import inspect as inspection
from dti_engine.cli import models
from dti_engine.cli import train as training
from dti_engine.cli.app import app
from dti_engine.cli.subjects import plan_subjects
from dti_engine.errors import ConfigurationError, InvalidBundleError, TokenError
from dti_engine.images.bundles import bundle as loading
from dti_engine.images.bundles.bundle import Bundle, load_bundle
from dti_engine.images.png import read_settings
from dti_engine.text.tokens import mean_tokens, slerp_tokens

ENCODER = "text_encoder"
EXAMPLES = [
    *models.EXAMPLES,
    *blending.EXAMPLES,
    *demonstration.EXAMPLES,
    *exchange.EXPORT_EXAMPLES,
    *exchange.IMPORT_EXAMPLES,
    *inspection.EXAMPLES,
    *generating.EXAMPLES,
    *training.EXAMPLES,
]
SHORT = ["--recipe", "miniature", "--steps", "2", "--set", "batch_size=1", "--set", "resolution=16"]

Dti = Callable[..., Result]


@pytest.fixture(scope="module")
def dti() -> Dti:
    """dti("train", folder, ...) -> what the command did."""
    return lambda *arguments: CliRunner().invoke(app, [str(each) for each in arguments])


def _images(folder: Path, seed: int) -> Path:
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    for i in range(2):
        pixels = random.integers(256, size=(32, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


def _pixels(file: Path) -> np.ndarray:
    with Image.open(file) as image:
        return np.asarray(image)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of images: `rex`, `My Tom (2)`, and `broken`, which is refused."""
    folder = tmp_path_factory.mktemp("photos")
    _images(folder / "rex", 1)
    _images(folder / "My Tom (2)", 2)
    (folder / "broken").mkdir()
    (folder / "broken" / "0.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def trained(dti: Dti, photos: Path, tiny_checkpoint: Path, tmp_path_factory: Any) -> Result:
    """Three folders in one run, one of them broken."""
    output = tmp_path_factory.mktemp("tokens")
    folders = [photos / name for name in ("rex", "broken", "My Tom (2)")]
    words = ["-i", "dog", "-i", "dog", "-i", "cat"]
    options = [
        "--lr",
        "0.02",
        "--seed",
        "5",
        "--set",
        "magnitude=0.7",
        "--output",
        output,
        "--json",
    ]
    return dti("train", *folders, *words, *SHORT, *options, "--model", tiny_checkpoint)


@pytest.fixture(scope="module")
def tokens(trained: Result) -> dict[str, Path]:
    report = json.loads(trained.stdout.splitlines()[-1])
    return {each["subject"]: Path(each["path"]) for each in report["tokens"]}


@pytest.fixture(scope="module")
def rex(tokens: dict[str, Path]) -> Path:
    return tokens["rex"]


@pytest.fixture(scope="module")
def tom(tokens: dict[str, Path]) -> Path:
    return tokens["my-tom-2"]


# Help, start-up, errors


def test_help_of_every_command_shows_examples_of_it(dti: Dti) -> None:
    assert "Examples" in dti("--help").stdout
    for name in typer.main.get_command(app).commands:  # type: ignore[attr-defined]
        shown = dti(name, "--help")
        assert shown.exit_code == 0
        assert f"dti {name}" in shown.stdout.partition("Examples")[2]


@pytest.mark.parametrize("name", ["check", "preview"])
def test_help_of_the_commands_on_bundles_shows_examples_of_it(dti: Dti, name: str) -> None:
    shown = dti("bundle", name, "--help")
    assert shown.exit_code == 0
    assert f"dti bundle {name}" in shown.stdout.partition("Examples")[2]


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_use_options_that_exist(example: str) -> None:
    program, name, *arguments = shlex.split(example)
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    known = {option for parameter in command.params for option in parameter.opts}
    assert program == "dti"
    assert {each for each in arguments if each.startswith("-")} <= known


def test_the_program_starts_without_its_script() -> None:
    command = [sys.executable, "-m", "dti_engine", "--version"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.startswith(
        f"dti {__version__}"
    )


def test_the_version_is_printed(dti: Dti) -> None:
    assert dti("--version").stdout == f"dti {__version__}\n"


def test_starting_the_program_loads_no_library_of_models_or_numbers() -> None:
    heavy = ("torch", "diffusers", "transformers", "numpy", "PIL", "safetensors", "matplotlib")
    code = f"import sys, dti_engine.cli.app; print([m for m in {heavy} if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"


def test_libraries_leave_nothing_on_the_screen(
    rex: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    code = "from dti_engine.cli.app import main; main()"
    options = ["--model", tiny_checkpoint, "--steps", "1", "--output", tmp_path]
    command = [sys.executable, "-c", code, "generate", "a {}", "--token", rex, *options]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ran.stdout == f"{tmp_path / 'a-rex-seed0.png'}\n"
    assert ran.stderr.splitlines() == [
        f"loading {tiny_checkpoint} ...",
        "  generating: 1/1",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "a dog", "--model", "nowhere"], "no weights at 'nowhere'"),
        (["generate", "a dog", "--token", "nowhere.safetensors"], "cannot read"),
        (["generate", "a {}"], "stands for the one token, and there are 0"),
        (["inspect", "nowhere.safetensors"], "cannot read"),
        (["blend", "a.safetensors", "--save", "b"], "two tokens or more"),
        (["blend", "a", "b", "--t", "0.1", "--strip", "3"], "exclude each other"),
        (["blend", "a", "b", "c", "--t", "0.1"], "for two tokens, not 3"),
        (["blend", "a", "b", "--strip", "3", "--save", "c"], "--save cannot save it"),
        (["blend", "a", "b", "--weights", "1"], "2 numbers above 0"),
        (["blend", "a", "b", "--weights", "1,-1"], "2 numbers above 0"),
        (["blend", "a", "b", "--weights", "1,x"], "like 2,1,1"),
        (["models", "--json", "fetch", "sd15"], "write dti models fetch ... --json"),
    ],
)
def test_bad_input_is_one_message_on_stderr_and_exit_code_2(
    dti: Dti, arguments: list[str], message: str
) -> None:
    result = dti(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert message in result.stderr
    assert "error:" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_device_that_is_not_there_is_refused(dti: Dti, tiny_checkpoint: Path) -> None:
    result = dti("generate", "a dog", "--model", tiny_checkpoint, "--device", "abacus")
    assert result.exit_code == 2
    assert "device 'abacus' cannot be used here" in result.stderr


# train


def test_train_writes_a_token_per_folder_with_the_settings_that_were_given(
    trained: Result, tokens: dict[str, Path], tiny_checkpoint: Path
) -> None:
    assert tokens.keys() == {"rex", "my-tom-2"}
    manifest = Artifact.load(tokens["my-tom-2"]).manifest
    assert (manifest.placeholder, manifest.model) == ("<my-tom-2>", tiny_checkpoint.name)
    training = manifest.training
    assert training is not None
    assert (training.initializer, training.seed, training.steps_done) == ("cat", 5, 2)
    config = training.config
    assert (config.lr, config.batch_size, config.resolution, config.magnitude) == (0.02, 1, 16, 0.7)
    assert manifest.magnitudes[ENCODER] == pytest.approx((0.7,))
    assert training.images.keys() == {"0.png", "1.png"}


def test_a_subject_that_fails_is_named_and_the_others_are_kept(trained: Result) -> None:
    assert trained.exit_code == 1
    (failure,) = json.loads(trained.stdout.splitlines()[-1])["failed"]
    assert (failure["subject"], failure["kind"]) == ("broken", "InvalidBundleError")
    assert "failed: broken: " in trained.stderr
    assert "'0.png': its content is not JPEG" in trained.stderr


def test_progress_goes_to_stderr_alone(trained: Result) -> None:
    assert "rex: step 2/2, fixed loss" in trained.stderr
    assert "step 2/2" not in trained.stdout


def test_train_by_standard_ti_prints_the_path(
    dti: Dti, photos: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    options = ["-i", "dog", "--set", "method=ti", "--placeholder", "<max>", "--output", tmp_path]
    result = dti("train", photos / "rex", *SHORT, *options, "--model", tiny_checkpoint)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{tmp_path / 'max.safetensors'}\n"
    training = Artifact.load(tmp_path / "max.safetensors").manifest.training
    assert training is not None
    assert training.config.method == "ti"


def test_a_training_that_fails_is_exit_code_1_and_leaves_no_file(
    dti: Dti, photos: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(tiny_checkpoint, damaged)
    weights = damaged / "unet/diffusion_pytorch_model.safetensors"
    tensors = safetensors.torch.load_file(weights)
    tensors["conv_in.bias"].fill_(torch.nan)
    safetensors.torch.save_file(tensors, weights)
    options = ["-i", "dog", "--output", tmp_path / "tokens"]
    result = dti("train", photos / "rex", *SHORT, *options, "--model", damaged)
    assert result.exit_code == 1
    assert "failed: rex: " in result.stderr
    assert "failed at step 1 of 2" in result.stderr
    assert [path.name for path in (tmp_path / "tokens").iterdir()] == ["run.jsonl"]


def test_a_token_that_cannot_be_written_is_named_and_the_others_are_kept(
    dti: Dti, photos: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "rex.safetensors").mkdir()
    folders = [photos / "rex", photos / "My Tom (2)"]
    options = ["-i", "dog", "--slots", "1", "--output", tmp_path]
    result = dti("train", *folders, *SHORT, *options, "--model", tiny_checkpoint)
    assert result.exit_code == 1
    assert "failed: rex: cannot write" in result.stderr
    assert result.stdout == f"{tmp_path / 'my-tom-2.safetensors'}\n"


def _fail_after_rex(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Make the loading of every bundle but rex raise `error`."""

    def load(path: Path, **options: Any) -> Bundle:
        if path.name != "rex":
            raise error
        return load_bundle(path, **options)

    monkeypatch.setattr(loading, "load_bundle", load)


def test_written_tokens_are_reported_after_an_unexpected_error(
    dti: Dti,
    photos: Path,
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _fail_after_rex(monkeypatch, MemoryError())
    folders = [photos / "rex", photos / "My Tom (2)"]
    options = ["-i", "dog", "--slots", "1", "--output", tmp_path]
    result = dti("train", *folders, *SHORT, *options, "--model", tiny_checkpoint)
    assert isinstance(result.exception, MemoryError)
    assert result.stdout == f"{tmp_path / 'rex.safetensors'}\n"


def test_a_token_may_have_more_vectors_than_its_word(
    dti: Dti, photos: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    options = ["-i", "dog", "--vectors", "9", "--output", tmp_path]
    result = dti("train", photos / "rex", *SHORT, *options, "--model", tiny_checkpoint)
    assert result.exit_code == 0, result.output
    assert Artifact.load(tmp_path / "rex.safetensors").manifest.num_vectors == {ENCODER: 9}


def test_ctrl_c_keeps_the_tokens_that_are_written(
    dti: Dti,
    photos: Path,
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _fail_after_rex(monkeypatch, KeyboardInterrupt())
    folders = [photos / "rex", photos / "My Tom (2)"]
    options = ["-i", "dog", "--slots", "1", "--output", tmp_path]
    result = dti("train", *folders, *SHORT, *options, "--model", tiny_checkpoint)
    assert result.exit_code == 130
    assert result.stdout == f"{tmp_path / 'rex.safetensors'}\n"
    assert "stopped: 1 tokens were written" in result.stderr
    assert Artifact.load(tmp_path / "rex.safetensors").manifest.training is not None


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["broken"], [], "its content is not JPEG"),
        (["rex"], ["--placeholder", "rex"], "placeholder 'rex' is malformed"),
        (["rex"], ["--set", "method=ti", "--kappa", "0.1"], "kappa must be 0 with method 'ti'"),
        (["rex"], ["--slots", "0"], "--slots must be auto or a number >= 1"),
        (["rex"], ["--recipe", "nice"], "no recipe 'nice'"),
        (["rex"], ["-i", "dog", "-i", "cat"], "once for each of the 1 bundles, got 2"),
        (["rex", "broken"], ["--placeholder", "<a>"], "cannot name 2 bundles"),
        (["rex", "rex"], [], "several bundles would become rex"),
    ],
)
def test_train_refuses_bad_input_with_exit_code_2(
    dti: Dti,
    photos: Path,
    tiny_checkpoint: Path,
    tmp_path: Path,
    names: list[str],
    options: list[str],
    message: str,
) -> None:
    folders = [photos / name for name in names]
    words = [] if "-i" in options else ["-i", "dog"]
    options = [*SHORT, *words, *options, "--output", str(tmp_path)]
    result = dti("train", *folders, *options, "--model", tiny_checkpoint)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not [path for path in tmp_path.iterdir() if path.name != "run.jsonl"]


@pytest.mark.parametrize(
    ("name", "placeholder"),
    [
        ("Rex", "<rex>"),
        ("Rex.zip", "<rex>"),
        ("rex.TAR.gz", "<rex>"),
        ("My Dog (2)", "<my-dog-2>"),
        ("_a_b", "<a_b>"),
        ("x" * 70, f"<{'x' * 63}>"),
    ],
)
def test_a_token_is_named_after_its_bundle(tmp_path: Path, name: str, placeholder: str) -> None:
    (tmp_path / name).touch()
    (planned,) = plan_subjects([tmp_path / name], None, ["dog"]).subjects
    assert planned.placeholder == placeholder


def test_bundle_json_names_subject_placeholder_and_word_unless_the_command_line_does(
    tmp_path: Path,
) -> None:
    facts = {"subject": "cust-7", "placeholder": "<rex>", "initializer": "dog"}
    (tmp_path / "bundle.json").write_text(json.dumps(facts))
    (planned,) = plan_subjects([tmp_path], None, []).subjects
    assert (planned.name, planned.placeholder, planned.initializer) == ("cust-7", "<rex>", "dog")
    (planned,) = plan_subjects([tmp_path], "<tom>", ["cat"]).subjects
    assert (planned.name, planned.placeholder, planned.initializer) == ("cust-7", "<tom>", "cat")
    (tmp_path / "bundle.json").write_text(json.dumps({"subject": "max"}))
    (planned,) = plan_subjects([tmp_path], None, ["dog"]).subjects
    assert (planned.name, planned.placeholder) == ("max", "<max>")


def test_a_bundle_without_an_initializer_is_refused(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r'with \{"initializer": "dog"\}'):
        plan_subjects([photos / "rex"], None, [])
    (tmp_path / "bundle.json").write_text("{")
    with pytest.raises(InvalidBundleError, match="is not JSON"):
        plan_subjects([tmp_path], None, [])


def test_a_bundle_whose_name_makes_no_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "犬").touch()
    with pytest.raises(TokenError, match="no name can be made"):
        plan_subjects([tmp_path / "犬"], None, ["dog"])


# generate


def test_generate_generates_every_prompt_and_seed_and_the_files_say_how(
    dti: Dti, rex: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    options = ["--seeds", "7-8", "--steps", "2", "--guidance", "3", "--negative-prompt", "red"]
    options += ["--model", tiny_checkpoint, "--output", tmp_path, "--json"]
    result = dti("generate", "a {} on a beach", "a dog", "--token", rex, *options)
    assert result.exit_code == 0, result.output
    subject_images = json.loads(result.stdout)["images"]
    assert [Path(each["path"]).name for each in subject_images] == [
        "01-a-rex-on-a-beach-seed7.png",
        "01-a-rex-on-a-beach-seed8.png",
        "02-a-dog-seed7.png",
        "02-a-dog-seed8.png",
    ]
    settings = read_settings(Path(subject_images[1].pop("path")))
    assert settings == subject_images[1]
    request = {"prompt": "a <rex> on a beach", "negative_prompt": "red", "seed": 8, "guidance": 3.0}
    assert settings.items() >= request.items()
    assert settings["tokens"]["<rex>"]["placeholder"] == "<rex>"
    assert str(tmp_path) not in json.dumps(settings)


def test_two_tokens_of_one_name_need_another_one(
    dti: Dti, rex: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    refused = dti("generate", "a <rex>", "--token", rex, "--token", rex)
    assert refused.exit_code == 2
    assert "two tokens would be <rex>" in refused.stderr
    options = ["--steps", "1", "--model", tiny_checkpoint, "--output", tmp_path]
    both = ["--token", rex, "--token", f"<max>={rex}"]
    assert dti("generate", "a <rex> and a <max>", *both, *options).exit_code == 0


def test_a_token_of_other_weights_is_a_warning(
    dti: Dti, rex: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    artifact = Artifact.load(rex)
    manifest = artifact.manifest.model_copy(update={"model_fingerprint": "0" * 64})
    Artifact(manifest, artifact.token).save(tmp_path / "foreign.safetensors")
    options = ["--steps", "1", "--model", tiny_checkpoint, "--output", tmp_path]
    result = dti("generate", "a {}", "--token", tmp_path / "foreign.safetensors", *options)
    assert result.exit_code == 0
    assert "warning: <rex> was made with" in result.stderr


# blend


def test_a_strip_is_generated_singly_and_side_by_side(
    dti: Dti, rex: Path, tom: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    options = ["--prompt", "a photo of a {}", "--strip", "3", "--steps", "1", "--json"]
    result = dti("blend", rex, tom, *options, "--model", tiny_checkpoint, "-o", tmp_path)
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    *singles, strip = (Path(file) for file in printed["files"])
    images = [_pixels(file) for file in singles]
    assert len(images) == 3
    np.testing.assert_array_equal(_pixels(strip), np.concatenate(images, axis=1))
    origins = [each["tokens"]["<blend>"]["blend_of"] for each in printed["images"]]
    shares = [[parent["share"] for parent in each] for each in origins]
    assert shares == [[1, 0], [0.5, 0.5], [0, 1]]
    assert read_settings(strip)["strip"] == printed["images"]


@pytest.mark.parametrize("weights", ["1,inf", "nan,1", "1,x", "1,0"])
def test_weights_of_a_blend_are_finite_and_above_0(
    dti: Dti, rex: Path, tom: Path, weights: str
) -> None:
    result = dti("blend", rex, tom, "--weights", weights)
    assert result.exit_code == 2
    assert "--weights must be" in result.stderr


def test_a_blend_of_two_is_kept_as_the_slerp(
    dti: Dti, rex: Path, tom: Path, tmp_path: Path
) -> None:
    file = tmp_path / "mix.safetensors"
    result = dti("blend", rex, tom, "--t", "0.25", "--save", file, "--placeholder", "<mix>")
    assert result.stdout == f"{file}\n"
    mix, parents = Artifact.load(file), [Artifact.load(each) for each in (rex, tom)]
    tokens = [parent.token for parent in parents]
    expected = slerp_tokens(tokens[0], tokens[1], 0.25, placeholder="<mix>")
    assert torch.equal(mix.token.embeddings[ENCODER], expected.embeddings[ENCODER])
    assert mix.manifest.placeholder == "<mix>"
    origin = mix.manifest.origin
    assert isinstance(origin, BlendedOrigin)
    assert [(each.placeholder, each.sha256, each.share) for each in origin.parents] == [
        ("<rex>", hashlib.sha256(rex.read_bytes()).hexdigest(), 0.75),
        ("<my-tom-2>", hashlib.sha256(tom.read_bytes()).hexdigest(), 0.25),
    ]


def test_a_blend_of_several_is_the_weighted_mean(
    dti: Dti, rex: Path, tom: Path, tmp_path: Path
) -> None:
    file = tmp_path / "mix.safetensors"
    assert dti("blend", rex, tom, tom, "--weights", "2,1,1", "--save", file).exit_code == 0
    tokens = [Artifact.load(each).token for each in (rex, tom, tom)]
    weighted = list(zip(tokens, [0.5, 0.25, 0.25], strict=True))
    expected = mean_tokens(weighted, placeholder="<blend>").embeddings[ENCODER]
    assert torch.equal(Artifact.load(file).token.embeddings[ENCODER], expected)


def test_a_blend_of_tokens_of_different_weights_is_not_kept(
    dti: Dti, rex: Path, tom: Path, tmp_path: Path
) -> None:
    artifact = Artifact.load(rex)
    manifest = artifact.manifest.model_copy(update={"model_fingerprint": "0" * 64})
    Artifact(manifest, artifact.token).save(tmp_path / "foreign.safetensors")
    result = dti("blend", tmp_path / "foreign.safetensors", tom, "--save", tmp_path / "mix")
    assert result.exit_code == 2
    assert "trained with different weights" in result.stderr


# inspect and export


def test_inspect_names_the_nearest_words_and_the_manifest(
    dti: Dti, rex: Path, tiny_checkpoint: Path
) -> None:
    shown = dti("inspect", rex, "--model", tiny_checkpoint, "--top", "3")
    assert shown.exit_code == 0, shown.output
    assert "by cosine" in shown.stdout
    assert "dog" in shown.stdout  # two short steps away
    result = dti("inspect", rex, "--model", tiny_checkpoint, "--top", "3", "--json")
    found = json.loads(result.stdout)
    assert found["manifest"]["origin"]["initializer"] == "dog"
    (vector,) = found["vectors"]
    assert vector["by_cosine"][0]["word"] == "dog"
    assert len(vector["by_distance"]) == 3
    assert vector["norm"] == pytest.approx(0.7)
    assert 0 < vector["initializer_angle_deg"] < 3  # at most 2 steps of atan(0.02)


def test_inspect_without_a_model_tells_what_the_file_says(dti: Dti, rex: Path) -> None:
    result = dti("inspect", rex)
    assert result.exit_code == 0
    assert "<rex>" in result.stdout
    assert "add --model" in result.stderr


def test_export_writes_what_diffusers_reads(dti: Dti, rex: Path, tmp_path: Path) -> None:
    file = tmp_path / "out.safetensors"
    assert dti("export", rex, "--format", "diffusers", "--output", file).stdout == f"{file}\n"
    written = safetensors.torch.load_file(file)
    assert torch.equal(written["<rex>"], Artifact.load(rex).token.embeddings[ENCODER])


def test_what_is_exported_is_imported_again(
    dti: Dti, rex: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    file = tmp_path / "max.safetensors"
    exported = dti("export", rex, "--format", "diffusers", "-o", file, "--json")
    assert json.loads(exported.stdout)["prompt_name"] == "<rex>"
    output = tmp_path / "token.safetensors"
    result = dti("import", file, "--model", tiny_checkpoint, "--output", output)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{output}\n"
    assert output.read_bytes() == rex.read_bytes()


def test_a_file_of_another_program_is_imported_under_its_name(
    dti: Dti, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    rows = torch.ones(1, 32)
    torch.save({"string_to_param": {"*": rows}, "name": "max"}, tmp_path / "max.pt")
    output = tmp_path / "token.safetensors"
    result = dti("import", tmp_path / "max.pt", "--model", tiny_checkpoint, "--output", output)
    assert result.exit_code == 0, result.output
    imported = Artifact.load(output)
    assert imported.manifest.placeholder == "<max>"
    assert isinstance(imported.manifest.origin, ImportedOrigin)
    assert imported.manifest.origin.format_name == "a1111"
    assert torch.equal(imported.token.embeddings[ENCODER], rows)
    shown = dti("inspect", output, "--model", tiny_checkpoint, "--json")
    assert json.loads(shown.stdout)["vectors"][0]["initializer_angle_deg"] is None


def test_an_export_to_a_program_without_such_a_model_says_what_each_takes(
    dti: Dti, rex: Path, tmp_path: Path
) -> None:
    result = dti("export", rex, "--format", "comfyui", "-o", tmp_path / "rex.safetensors")
    assert result.exit_code == 2
    assert "--format diffusers takes it" in " ".join(result.stderr.split())
    assert not (tmp_path / "rex.safetensors").exists()


def test_a_token_of_another_model_is_not_imported(
    dti: Dti, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    safetensors.torch.save_file({"<rex>": torch.ones(1, 768)}, tmp_path / "rex.safetensors")
    options = ["--model", tiny_checkpoint, "--output", tmp_path / "token.safetensors"]
    result = dti("import", tmp_path / "rex.safetensors", *options)
    assert result.exit_code == 2
    assert "has embeddings of the dimensions {'text_encoder': 768}" in result.stderr
    assert not (tmp_path / "token.safetensors").exists()


def test_a_missing_extra_is_named_before_anything_about_the_bundles(
    dti: Dti, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A module that is None in `sys.modules` counts as not installed.
    monkeypatch.setitem(sys.modules, "diffusers", None)
    refused = dti("train", photos / "broken")
    assert refused.exit_code == 2
    assert "needs the extra 'engine'" in refused.stderr
    assert "--initializer" not in refused.stderr
