"""The local demo, end to end: references, tokens, generated images, scores, and the page.

It works as a user does: images are drawn to a folder and read back from it, and tokens are loaded
from their files.
"""

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, TypedDict

import torch
from PIL import Image

from dti_engine.artifacts.artifact import Artifact
from dti_engine.backbones import load_backbone
from dti_engine.backbones.checkpoint import open_checkpoint
from dti_engine.backbones.interface import Backbone
from dti_engine.config import TrainConfig
from dti_engine.demo.images import (
    BLEND,
    NUM_STRIP_IMAGES,
    STRIP_TEMPLATE,
    DemoScorer,
    draw_references,
    prompt_files,
    reference_folder,
    strip_files,
    strip_fractions,
)
from dti_engine.demo.results import (
    LikenessScale,
    LocalDemoResults,
    Strip,
    TrainedDemoSubject,
    TrainingCurve,
    contact_sheet,
    render_local,
    save_results,
)
from dti_engine.errors import ModelLoadError
from dti_engine.files import atomic_write, environment
from dti_engine.generation.pipeline import ImageRequest, generate, image_settings
from dti_engine.images.decode import load_images
from dti_engine.images.png import plain_png, save_image
from dti_engine.miniature.scorer import Scorer, load_scorer
from dti_engine.miniature.world.subjects import HeldOutSubject, demo_prompts, held_out_subjects
from dti_engine.recipes import miniature, standard_ti
from dti_engine.subject import Subject
from dti_engine.text.encoder import vocabulary_magnitude
from dti_engine.text.tokens import slerp_strip
from dti_engine.training.loop import OnStep, train
from dti_engine.training.metrics import StepMetrics

_BATCH_SIZE = 8

_Requests: TypeAlias = dict[str, tuple[ImageRequest, Mapping[str, Any]]]
"""File -> request, and the origin of its token for the image's settings."""


class _Scores(TypedDict):
    """The fields of `LocalDemoResults` that come from scores."""

    subjects: list[TrainedDemoSubject]
    baseline: TrainedDemoSubject
    strips: list[Strip]
    scale: LikenessScale


@dataclass(frozen=True)
class DemoCallbacks:
    """Callbacks for the stage that begins, steps of training, and steps of generation."""

    on_stage: Callable[[str], None] = lambda stage: None
    on_training_step: Callable[[list[StepMetrics]], None] = lambda reports: None
    on_generation_step: Callable[[int, int], None] = lambda done, total: None


@dataclass(frozen=True)
class StageClock:
    """Announces stages and measures their durations."""

    on_stage: Callable[[str], None]
    seconds: dict[str, float] = field(default_factory=dict[str, float])

    @contextmanager
    def __call__(self, stage: str) -> Generator[None]:
        """Time a stage."""
        self.on_stage(stage)
        started = time.perf_counter()
        yield
        self.seconds[stage] = time.perf_counter() - started


@dataclass(frozen=True, eq=False)
class TrainedToken:
    """A trained subject, and its token as read back from its file."""

    look: HeldOutSubject
    subject: Subject
    artifact: Artifact
    file: str  # relative to the output folder
    metrics: Sequence[StepMetrics]

    @property
    def name(self) -> str:
        """The name of the token's files."""
        return Path(self.file).stem


def run(
    output: Path,
    *,
    weights: str | Path = "miniature",
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    steps: int | None = None,
    generation_steps: int = 25,
    seed: int = 0,
    callbacks: DemoCallbacks | None = None,
) -> LocalDemoResults:
    """Train the demo's subjects, generate and score images, and write everything to `output`.

    `index.html` shows the results, `sheet.png` is the short form, `results.json` has every number.
    `weights` are the miniature's or those of a folder like it; `steps` of training are the
    recipe's by default; `seed` is that of the first subject and of the first prompt, and counts up.

    Raises:
        ModelLoadError: The weights cannot be used.
        TrainingFailedError, SubjectError: A subject cannot be trained.
    """
    callbacks = callbacks or DemoCallbacks()
    clock = StageClock(callbacks.on_stage)
    with clock("load the model"):
        backbone = load_backbone(weights, device=device, dtype=dtype)
        scorer = _load_scorer(weights)
    config = _config(backbone, steps)
    plain = standard_ti(config)
    looks = held_out_subjects("demo")
    with clock("draw the subjects and read them back"):
        subjects = [_draw(look, output, seed=seed + i) for i, look in enumerate(looks)]
    with clock(f"learn {len(subjects)} subjects by DTI, packed"):
        trained = _train(backbone, looks, subjects, config, output, callbacks.on_training_step)
    with clock("learn the first by standard TI, same budget"):
        baseline = _train(
            backbone, looks[:1], subjects[:1], plain, output, callbacks.on_training_step
        )
    requests = _requests([*trained, *baseline], seed=seed)
    with clock(f"generate {len(requests)} images"):
        generated = _generate(
            backbone, requests, output, generation_steps, callbacks.on_generation_step
        )
    with clock("score them"):
        references = {each.id: [photo.image for photo in each.images] for each in subjects}
        demo_scorer = DemoScorer(scorer, references, generated)
        scores = _score(demo_scorer, trained + baseline, output, seed=seed)
    (encoder,) = backbone.text_encoders.values()
    guidance = next(iter(requests.values()))[0].guidance
    results = LocalDemoResults(
        **scores,
        vocabulary_norm=vocabulary_magnitude(encoder),
        token_dim=encoder.dim,
        generation={"steps": generation_steps, "guidance": guidance},
        configs={each.method: each.model_dump(mode="json") for each in (config, plain)},
        seconds=clock.seconds,
        environment=environment(backbone.device, model=backbone.name, dtype=backbone.dtype),
    )
    _write(results, output)
    return results


def _write(results: LocalDemoResults, output: Path) -> None:
    """Write the numbers, the page and its short form."""
    save_results(results, output)
    atomic_write(output / "index.html", render_local(results, output).encode())
    atomic_write(output / "sheet.png", plain_png(contact_sheet(results, output)))


def _config(backbone: Backbone, steps: int | None) -> TrainConfig:
    """Return the miniature's recipe at the model's size, with `steps` in place of its own."""
    config = miniature().changed(resolution=backbone.image_size)
    return config.changed(steps=config.steps if steps is None else steps)


def _load_scorer(weights: str | Path) -> Scorer:
    path = open_checkpoint(weights).folder / "scorer.safetensors"
    if not path.is_file():
        raise ModelLoadError(
            f"{str(weights)!r} has no scorer.safetensors; the demo needs the miniature's weights"
        )
    return load_scorer(path)


def _draw(look: HeldOutSubject, output: Path, *, seed: int) -> Subject:
    draw_references(look, output)
    images = load_images(reference_folder(look.name, output))
    return Subject(look.name, images, look.placeholder, look.class_word, seed)


def _train(
    backbone: Backbone,
    looks: Sequence[HeldOutSubject],
    subjects: Sequence[Subject],
    config: TrainConfig,
    output: Path,
    on_step: OnStep,
) -> list[TrainedToken]:
    """Train all subjects in one packed run; return their tokens in the order of `subjects`."""
    tokens: dict[str, TrainedToken] = {}
    of_name = {look.name: (look, subject) for look, subject in zip(looks, subjects, strict=True)}
    for result in train(backbone, subjects, config, num_slots=len(subjects), on_step=on_step):
        if result.artifact is None:
            assert result.error
            raise result.error
        name = result.subject.id
        file = f"tokens/{name}-{config.method}.safetensors"
        result.artifact.save(output / file)
        loaded = Artifact.load(output / file)
        tokens[name] = TrainedToken(*of_name[name], loaded, file, result.metrics)
    return [tokens[subject.id] for subject in subjects]


def _requests(tokens: Sequence[TrainedToken], *, seed: int) -> _Requests:
    """Return the requests of every token in every prompt, and of the blends of the first two."""
    requests: _Requests = {}
    for token in tokens:
        placeholder = token.subject.placeholder
        for i, (file, prompt) in enumerate(
            zip(prompt_files(token.name), demo_prompts(), strict=True)
        ):
            text = prompt.template.replace("{}", placeholder)
            request = ImageRequest(text, seed + i, {placeholder: token.artifact.token})
            requests[file] = request, token.artifact.origin()
    first, second = (token.artifact for token in tokens[:2])
    blends = slerp_strip(first.token, second.token, NUM_STRIP_IMAGES, placeholder=BLEND)
    files = strip_files(tokens[0].subject.id, tokens[1].subject.id)
    for file, t, blend in zip(files, strip_fractions(), blends, strict=True):
        request = ImageRequest(STRIP_TEMPLATE.replace("{}", BLEND), seed, {BLEND: blend})
        parents = [first.origin() | {"share": 1 - t}, second.origin() | {"share": t}]
        requests[file] = request, {"blend_of": parents}
    return requests


def _generate(
    backbone: Backbone,
    requests: _Requests,
    output: Path,
    steps: int,
    on_step: Callable[[int, int], None],
) -> dict[str, Image.Image]:
    """Generate all images and save each with its settings; return file -> image."""
    images = generate(
        backbone,
        [request for request, _ in requests.values()],
        steps=steps,
        batch_size=_BATCH_SIZE,
        on_step=on_step,
    )
    for (file, (request, origin)), image in zip(requests.items(), images, strict=True):
        origins = {placeholder: origin for placeholder in request.tokens}
        settings = image_settings(request, backbone, steps=steps, tokens=origins)
        save_image(image, output / file, settings)
    return dict(zip(requests, images, strict=True))


def _score(
    scorer: DemoScorer, tokens: Sequence[TrainedToken], output: Path, *, seed: int
) -> _Scores:
    """Score the images of all tokens, of which the last is the baseline's, and of the blends."""
    *subjects, baseline = (_scored(token, scorer, output, seed=seed) for token in tokens)
    strip = scorer.score_strip(subjects[0].name, subjects[1].name, seed=seed)
    return {
        "subjects": subjects,
        "baseline": baseline,
        "strips": [strip],
        "scale": scorer.scale(),
    }


def _scored(
    token: TrainedToken, scorer: DemoScorer, output: Path, *, seed: int
) -> TrainedDemoSubject:
    subject, training = token.subject, token.artifact.manifest.training
    assert training
    folder = reference_folder(subject.id, output).relative_to(output)
    return TrainedDemoSubject(
        name=subject.id,
        method=training.config.method,
        placeholder=subject.placeholder,
        initializer=subject.initializer,
        token=token.file,
        token_bytes=(output / token.file).stat().st_size,
        num_steps=training.steps_done,
        seed=subject.seed,
        references=[(folder / photo.name).as_posix() for photo in subject.images],
        images=scorer.score_prompts(token.look, prompt_files(token.name), seed=seed),
        curve=TrainingCurve.of(token.metrics),
    )
