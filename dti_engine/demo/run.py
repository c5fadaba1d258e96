"""Runs the demo: images, tokens, generated images, scores, and the page about them.

All of it takes a user's way: images are drawn to a folder and read back from it, tokens are
generated with as their files have them.
"""

import json
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from dti_engine.backbones import load_backbone
from dti_engine.backbones.checkpoint import open_checkpoint
from dti_engine.demo.images import (
    DemoScorer,
    LearnedSubject,
    draw,
    generate_images,
    learn,
    origins,
    prompt_requests,
    references,
    strip_requests,
)
from dti_engine.demo.page import render, sheet
from dti_engine.demo.results import Curve, Generation, Learned, Results
from dti_engine.errors import ModelLoadError
from dti_engine.files import environment
from dti_engine.generation.pipeline import ImageRequest
from dti_engine.miniature.scorer import Scorer, load_scorer
from dti_engine.miniature.world.subjects import held_out_subjects
from dti_engine.recipes import miniature, standard_ti
from dti_engine.text.encoder import vocabulary_magnitude
from dti_engine.training.metrics import StepMetrics

_PART = "demo"


@dataclass(frozen=True)
class Watch:
    """What a caller is told: the stage that begins, steps of training, steps of generating."""

    on_stage: Callable[[str], None] = lambda stage: None
    on_training_step: Callable[[list[StepMetrics]], None] = lambda reports: None
    on_generation_step: Callable[[int, int], None] = lambda done, total: None


@dataclass(frozen=True)
class _Clock:
    """Announces stages, and keeps how long they took."""

    watch: Watch
    seconds: dict[str, float] = field(default_factory=dict[str, float])

    @contextmanager
    def __call__(self, stage: str) -> Generator[None]:
        self.watch.on_stage(stage)
        began = time.perf_counter()
        yield
        self.seconds[stage] = time.perf_counter() - began


def run(
    output: Path,
    *,
    weights: str | Path = "miniature",
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    steps: int | None = None,
    generation_steps: int = 25,
    seed: int = 0,
    watch: Watch | None = None,
) -> Results:
    """Learn the demo's subjects, generate and score images of them; all files go to `output`.

    `index.html` shows what came of it, `sheet.png` is the short form, `results.json` has every
    number. weights: the miniature, or a folder like its own; steps: of training, the recipe's if
    None; seed: of the first subject and the first prompt, from which the others count on.

    Raises: ModelLoadError if the weights cannot be used; TrainingFailedError or SubjectError if
        a subject cannot be learned.
    """
    watch = watch or Watch()
    clock = _Clock(watch)
    with clock("load the model"):
        backbone = load_backbone(weights, device=device, dtype=dtype)
        scorer = _load_scorer(weights)
    config = miniature().changed(resolution=backbone.image_size)
    config = config.changed(steps=config.steps if steps is None else steps)
    with clock("draw the subjects and read them back"):
        looks = enumerate(held_out_subjects(_PART))
        subjects = [draw(look, output, seed=seed + i) for i, look in looks]
    with clock(f"learn {len(subjects)} subjects by DTI, packed"):
        learned = learn(backbone, subjects, config, output, watch.on_training_step)
    with clock("learn the first by standard TI, same budget"):
        plain = standard_ti(config)
        (baseline,) = learn(backbone, subjects[:1], plain, output, watch.on_training_step)

    requests = {each.name: prompt_requests(each, seed=seed) for each in (*learned, baseline)}
    strip = strip_requests(learned[0], learned[1], seed=seed)
    everything = {file: each for part in (*requests.values(), strip) for file, each in part.items()}
    with clock(f"generate {len(everything)} images"):
        generated = generate_images(
            backbone,
            everything,
            origins([*learned, baseline], strip),
            output,
            steps=generation_steps,
            on_step=watch.on_generation_step,
        )
    with clock("score them"):
        images = {
            each.id: [subject_image.image for subject_image in each.images] for each in subjects
        }
        judge = DemoScorer(scorer, images, generated)
        scored = [
            _learned(each, judge.generated_images(each, requests[each.name]), output)
            for each in (*learned, baseline)
        ]
    (encoder,) = backbone.text_encoders.values()
    results = Results(
        subjects=scored[:-1],
        baseline=scored[-1],
        strip=judge.strip(learned[0], learned[1], strip),
        scale=judge.scale(),
        vocabulary_norm=vocabulary_magnitude(encoder),
        token_dim=encoder.dim,
        generation={"steps": generation_steps, "guidance": ImageRequest("", 0).guidance},
        configs={each.method: each.model_dump(mode="json") for each in (config, plain)},
        seconds=clock.seconds,
        environment=environment(backbone.device, model=backbone.name, dtype=backbone.dtype),
    )
    document = json.dumps(results.document(), indent=2)
    (output / "results.json").write_text(document, encoding="utf-8")
    (output / "index.html").write_text(render(results, output), encoding="utf-8")
    sheet(results, output).save(output / "sheet.png")
    return results


def _load_scorer(weights: str | Path) -> Scorer:
    path = open_checkpoint(weights).folder / "scorer.safetensors"
    if not path.is_file():
        raise ModelLoadError(
            f"{str(weights)!r} has no scorer.safetensors; the demo needs the miniature's weights"
        )
    return load_scorer(path)


def _learned(trained: LearnedSubject, generated_images: list[Generation], output: Path) -> Learned:
    subject, training = trained.subject, trained.training
    folder = references(subject.id, output).relative_to(output)
    return Learned(
        name=subject.id,
        method=training.config.method,
        placeholder=subject.placeholder,
        initializer=subject.initializer,
        token=trained.file,
        token_bytes=(output / trained.file).stat().st_size,
        num_steps=training.steps_done,
        seed=subject.seed,
        references=[(folder / subject_image.name).as_posix() for subject_image in subject.images],
        generated_images=generated_images,
        curve=Curve.of(trained.metrics),
    )
