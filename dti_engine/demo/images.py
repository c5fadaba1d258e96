"""The images of every demo: references that are drawn, prompts, blends, and their scores.

Images are identified by their files, relative to the output folder. Each prompt has one seed for
all tokens, so images of two methods differ by the token alone.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations, product
from pathlib import Path
from statistics import fmean

from PIL import Image

from dti_engine.demo.results import DemoImage, LikenessScale, Strip, StripImage
from dti_engine.miniature.scorer import Scorer, read
from dti_engine.miniature.world.subjects import HeldOutSubject, demo_prompts, draw_subject

NUM_REFERENCES = 5  # images of each subject
NUM_STRIP_IMAGES = 7
STRIP_TEMPLATE = "a photo of a {} on a meadow"  # a named place, so that only the subject changes
BLEND = "<blend>"


def reference_folder(name: str, output: Path) -> Path:
    """Return the folder of a subject's reference images."""
    return output / "subjects" / name


def draw_references(subject: HeldOutSubject, output: Path) -> list[str]:
    """Draw the subject's reference images and return their files."""
    folder = reference_folder(subject.name, output)
    draw_subject(subject, folder, count=NUM_REFERENCES)
    return [path.relative_to(output).as_posix() for path in sorted(folder.glob("*.png"))]


def prompt_files(name: str) -> list[str]:
    """Return the file of the image in each of the demo's prompts; `name` is that of a token."""
    return [f"images/{name}-{i}.png" for i in range(len(demo_prompts()))]


def strip_files(first: str, second: str) -> list[str]:
    """Return the files of the blends of two subjects, in order."""
    return [f"blends/{first}-to-{second}-{i}.png" for i in range(NUM_STRIP_IMAGES)]


def strip_fractions() -> list[float]:
    """Return the fraction t of each image of a strip."""
    return [i / (NUM_STRIP_IMAGES - 1) for i in range(NUM_STRIP_IMAGES)]


class DemoScorer:
    """Scores images by comparing readings of the miniature's scorer, which reads each once."""

    def __init__(
        self,
        scorer: Scorer,
        references: Mapping[str, Sequence[Image.Image]],
        generated: Mapping[str, Image.Image],
    ) -> None:
        """Read all images: subject -> its references, and file -> generated image."""
        self._references = {name: read(scorer, images) for name, images in references.items()}
        readings = read(scorer, list(generated.values()))
        self._readings = dict(zip(generated, readings, strict=True))

    def subject_score(self, file: str, subject: str, *, place: str = "centre") -> float:
        """Return the mean likeness of the object at `place` to the subject's references."""
        reading = self._readings[file]
        return fmean(reading.likeness(each, place=place) for each in self._references[subject])

    def score_prompts(
        self, subject: HeldOutSubject, files: Sequence[str], *, seed: int
    ) -> list[DemoImage]:
        """Score the subject's images in all prompts; `seed` is that of the first."""
        return [
            DemoImage(
                file=file,
                prompt=prompt.template.replace("{}", subject.placeholder),
                seed=seed + i,
                asked=prompt.asked,
                subject_score=self.subject_score(file, subject.name, place=prompt.place),
                prompt_score=self._readings[file].shows(prompt.asked),
            )
            for i, (file, prompt) in enumerate(zip(files, demo_prompts(), strict=True))
        ]

    def score_strip(self, first: str, second: str, *, seed: int) -> Strip:
        """Score the blends of two subjects, whose files are `strip_files`."""
        images = [
            StripImage(file, t, self.subject_score(file, first), self.subject_score(file, second))
            for file, t in zip(strip_files(first, second), strip_fractions(), strict=True)
        ]
        return Strip(first, second, STRIP_TEMPLATE.replace("{}", BLEND), seed, images)

    def scale(self) -> LikenessScale:
        """Return the scores of the references among each other: a ceiling and a floor."""
        readings = list(self._references.values())
        same = [pair for of_one in readings for pair in combinations(of_one, 2)]
        other = [pair for a, b in combinations(readings, 2) for pair in product(a, b)]
        return LikenessScale(
            same_subject=fmean(a.likeness(b) for a, b in same),
            other_subject=fmean(a.likeness(b) for a, b in other),
        )
