"""How alike paintings and reference pictures are, and whether prompts are obeyed.

Every picture is read once by the miniature's scorer; scores are comparisons of readings.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations, product
from statistics import fmean

from PIL import Image

from dti_engine.demo.learning import LearnedSubject
from dti_engine.demo.painting import Requests
from dti_engine.demo.results import Painting, Scale, Strip, StripPicture
from dti_engine.miniature.scorer import Scorer, read
from dti_engine.miniature.world.subjects import demo_prompts


class Judge:
    """Has read the reference pictures of all subjects and all paintings."""

    def __init__(
        self,
        scorer: Scorer,
        references: Mapping[str, Sequence[Image.Image]],
        paintings: Mapping[str, Image.Image],
    ) -> None:
        """references: name of a subject -> its pictures; paintings: file -> picture."""
        self._references = {name: read(scorer, images) for name, images in references.items()}
        readings = read(scorer, list(paintings.values()))
        self._readings = dict(zip(paintings, readings, strict=True))

    def subject_score(self, file: str, name: str, *, place: str = "centre") -> float:
        """Mean likeness of the thing painted at `place` to the subject's reference pictures."""
        reading = self._readings[file]
        return fmean(reading.likeness(each, place=place) for each in self._references[name])

    def prompt_score(self, file: str, asked: Mapping[str, str]) -> float:
        """The share of what was asked for that is painted."""
        return self._readings[file].shows(asked)

    def paintings(self, trained: LearnedSubject, requests: Requests) -> list[Painting]:
        """The token in every prompt; requests are `painting.prompt_requests` of it."""
        return [
            Painting(
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
        """The way between two tokens; requests are `painting.strip_requests` of them."""
        names = first.subject.id, second.subject.id
        pictures = [
            StripPicture(
                file, i / (len(requests) - 1), *(self.subject_score(file, n) for n in names)
            )
            for i, file in enumerate(requests)
        ]
        request = next(iter(requests.values()))
        return Strip(*names, prompt=request.prompt, seed=request.seed, pictures=pictures)

    def scale(self) -> Scale:
        """What the reference pictures score among each other: a ceiling and a floor."""
        all_readings = list(self._references.values())
        same = [pair for each in all_readings for pair in combinations(each, 2)]
        other = [pair for a, b in combinations(all_readings, 2) for pair in product(a, b)]
        return Scale(
            same_subject=fmean(a.likeness(b) for a, b in same),
            other_subject=fmean(a.likeness(b) for a, b in other),
        )
