"""Everything that the demo generates: each token into each prompt, and the way between two tokens.

Images are known by their files, relative to the output folder. One prompt has one seed, whatever
the token, so that images of two methods differ by the token alone.

The demo's subjects, from drawn images to token files that are read back.

How alike generated images and reference images are, and whether prompts are obeyed.

Every image is read once by the miniature's scorer; scores are comparisons of readings.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path
from statistics import fmean
from typing import TypeAlias

from PIL import Image

from dti_engine.artifacts.artifact import Artifact
from dti_engine.artifacts.manifest import TrainedOrigin
from dti_engine.backbones.interface import Backbone
from dti_engine.config import TrainConfig
from dti_engine.demo.results import Generation, Scale, Strip, StripImage
from dti_engine.generation.pipeline import ImageRequest, generate, image_settings, save_image
from dti_engine.images.decode import load_images
from dti_engine.miniature.scorer import Scorer, read
from dti_engine.miniature.world.subjects import HeldOutSubject, demo_prompts, draw_subject
from dti_engine.subject import Subject
from dti_engine.text.tokens import LearnedToken, slerp_strip
from dti_engine.training.loop import OnStep, train
from dti_engine.training.metrics import StepMetrics

NUM_IMAGES = 5  # of each subject


@dataclass(frozen=True, eq=False)
class LearnedSubject:
    """A subject that was learned, and its token as read back from its file."""

    subject: Subject
    artifact: Artifact
    file: str  # relative to the output folder
    reports: Sequence[StepMetrics]

    @property
    def training(self) -> TrainedOrigin:
        """What its file says of how it was learned."""
        training = self.artifact.manifest.training
        assert training
        return training

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.subject.id}-{self.training.config.method}"


def references(name: str, output: Path) -> Path:
    """Folder of a subject's images."""
    return output / "subjects" / name


def draw(look: HeldOutSubject, output: Path, *, seed: int) -> Subject:
    """The subject with its images, which were drawn to its folder and loaded from there."""
    folder = references(look.name, output)
    draw_subject(look, folder, count=NUM_IMAGES)
    return Subject(look.name, load_images(folder), look.placeholder, look.class_word, seed)


def learn(
    backbone: Backbone,
    subjects: Sequence[Subject],
    config: TrainConfig,
    output: Path,
    on_step: OnStep,
) -> list[LearnedSubject]:
    """All subjects in one packed run, in their order.

    Raises: TrainingFailedError or SubjectError of the first that could not be learned.
    """
    outcomes = train(backbone, subjects, config, num_slots=len(subjects), on_step=on_step)
    with_images = {each.id: each for each in subjects}
    learned: dict[str, LearnedSubject] = {}
    for each in outcomes:
        if each.artifact is None:
            assert each.error
            raise each.error
        name = each.subject.id
        file = f"tokens/{name}-{config.method}.safetensors"
        each.artifact.save(output / file)
        loaded = Artifact.load(output / file)
        learned[name] = LearnedSubject(with_images[name], loaded, file, each.metrics)
    return [learned[subject.id] for subject in subjects]


NUM_STRIP_IMAGES = 7
STRIP_TEMPLATE = "a photo of a {} on a meadow"  # a named place, so that only the subject changes
_BLEND = "<blend>"
_BATCH_SIZE = 8

Requests: TypeAlias = Mapping[str, ImageRequest]
Origins: TypeAlias = Mapping[LearnedToken, object]  # what an image says of a token in it


def prompt_requests(trained: LearnedSubject, *, seed: int) -> dict[str, ImageRequest]:
    """The token in every prompt of the demo; file -> request, in the order of the prompts."""
    placeholder, token = trained.subject.placeholder, trained.artifact.token
    return {
        f"generated_images/{trained.name}-{i}.png": ImageRequest(
            prompt.template.replace("{}", placeholder), seed + i, {placeholder: token}
        )
        for i, prompt in enumerate(demo_prompts())
    }


def strip_requests(
    first: LearnedSubject, second: LearnedSubject, *, seed: int
) -> dict[str, ImageRequest]:
    """Equal steps on the sphere from one token to the other; file -> request, in order."""
    tokens = slerp_strip(
        first.artifact.token, second.artifact.token, NUM_STRIP_IMAGES, placeholder=_BLEND
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


def generate_images(
    backbone: Backbone,
    requests: Requests,
    origins: Origins,
    output: Path,
    *,
    steps: int,
    on_step: Callable[[int, int], None],
) -> dict[str, Image.Image]:
    """Generate and save all, each with its settings inside; file -> image."""
    images = generate(
        backbone, list(requests.values()), steps=steps, batch_size=_BATCH_SIZE, on_step=on_step
    )
    for (file, request), image in zip(requests.items(), images, strict=True):
        tokens = {name: origins[token] for name, token in request.tokens.items()}
        settings = image_settings(request, backbone, steps=steps, tokens=tokens)
        save_image(image, output / file, settings)
    return dict(zip(requests, images, strict=True))


class DemoScorer:
    """Has read the reference images of all subjects and all generated images."""

    def __init__(
        self,
        scorer: Scorer,
        references: Mapping[str, Sequence[Image.Image]],
        generated_images: Mapping[str, Image.Image],
    ) -> None:
        """references: name of a subject -> its images; generated images: file -> image."""
        self._references = {name: read(scorer, images) for name, images in references.items()}
        readings = read(scorer, list(generated_images.values()))
        self._readings = dict(zip(generated_images, readings, strict=True))

    def subject_score(self, file: str, name: str, *, place: str = "centre") -> float:
        """Mean likeness of the thing generated at `place` to the subject's reference images."""
        reading = self._readings[file]
        return fmean(reading.likeness(each, place=place) for each in self._references[name])

    def prompt_score(self, file: str, asked: Mapping[str, str]) -> float:
        """The share of what was asked for that is generated."""
        return self._readings[file].shows(asked)

    def generated_images(self, trained: LearnedSubject, requests: Requests) -> list[Generation]:
        """The token in every prompt; requests are `generating.prompt_requests` of it."""
        return [
            Generation(
                file=file,
                prompt=request.prompt,
                seed=request.seed,
                asked=prompt.asked,
                subject_score=self.subject_score(file, trained.subject.id, place=prompt.place),
                prompt_score=self.prompt_score(file, prompt.asked),
            )
            for (file, request), prompt in zip(requests.items(), demo_prompts(), strict=True)
        ]

    def strip(self, first: LearnedSubject, second: LearnedSubject, requests: Requests) -> Strip:
        """The way between two tokens; requests are `generating.strip_requests` of them."""
        names = first.subject.id, second.subject.id
        subject_images = [
            StripImage(file, i / (len(requests) - 1), *(self.subject_score(file, n) for n in names))
            for i, file in enumerate(requests)
        ]
        request = next(iter(requests.values()))
        return Strip(*names, prompt=request.prompt, seed=request.seed, images=subject_images)

    def scale(self) -> Scale:
        """What the reference images score among each other: a ceiling and a floor."""
        all_readings = list(self._references.values())
        same = [pair for each in all_readings for pair in combinations(each, 2)]
        other = [pair for a, b in combinations(all_readings, 2) for pair in product(a, b)]
        return Scale(
            same_subject=fmean(a.likeness(b) for a, b in same),
            other_subject=fmean(a.likeness(b) for a, b in other),
        )
