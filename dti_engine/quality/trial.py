"""Tokens tried out: a few pictures of each, and what a judge says of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from PIL import Image

from dti_engine.artifacts.artifact import Artifact
from dti_engine.artifacts.manifest import ProbePicture, Quality
from dti_engine.backbones.interface import Backbone
from dti_engine.generation.pipeline import ImageRequest, generate
from dti_engine.quality.judges import Judge, Probe, probes

_MOST_WORDS = 256  # pictures that are remembered: subjects often share their words


@dataclass(frozen=True, eq=False)
class Candidate:
    """A trained token, and the pictures that it was learned from."""

    artifact: Artifact
    references: Sequence[Image.Image]
    class_noun: str | None = None  # what prompts are scored with; None: the initializer

    @property
    def initializer(self) -> str:
        """The word that it started from."""
        training = self.artifact.manifest.training
        assert training
        return training.initializer

    def probes(self, count: int) -> list[Probe]:
        """Those of its family of captions."""
        training = self.artifact.manifest.training
        assert training
        return probes(training.config.captions, count)


@dataclass(frozen=True, eq=False)
class Trial:
    """What came of a candidate; it is beside no others yet, so nothing is flagged."""

    quality: Quality
    pictures: Sequence[Image.Image]  # one per probe


class Examiner:
    """Tries tokens out; all of them in the same prompts, from the same noise."""

    def __init__(
        self,
        backbone: Backbone,
        judge: Judge | None,
        *,
        num_probes: int,
        steps: int = 12,
        guidance: float = 5.0,
        batch_size: int = 8,
    ) -> None:
        """steps, guidance: of painting; batch_size: pictures at once."""
        self._backbone, self._judge = backbone, judge
        self._num_probes, self._steps, self._guidance = num_probes, steps, guidance
        self._batch_size = batch_size
        self._of_words: dict[tuple[str, str], Image.Image] = {}  # (template, word) -> picture

    def examine(
        self, candidates: Sequence[Candidate], *, on_step: Callable[[], None] = lambda: None
    ) -> list[Trial]:
        """Paint and score each candidate. Raises: as `generate`."""
        if len(self._of_words) > _MOST_WORDS:
            self._of_words.clear()  # they can be painted again
        words = self._missing_words(candidates)
        requests = [self._request(probe, word) for probe, word in words.values()]
        for each in candidates:
            token = each.artifact.token
            requests += [
                self._request(probe, token.placeholder, each)
                for probe in each.probes(self._num_probes)
            ]
        pictures = generate(
            self._backbone,
            requests,
            steps=self._steps,
            batch_size=self._batch_size,
            on_step=lambda done, total: on_step(),
        )
        self._of_words |= dict(zip(words, pictures, strict=False))
        rest = iter(pictures[len(words) :])
        return [
            self._trial(each, [next(rest) for _ in each.probes(self._num_probes)])
            for each in candidates
        ]

    def _missing_words(
        self, candidates: Sequence[Candidate]
    ) -> dict[tuple[str, str], tuple[Probe, str]]:
        """Pictures with words in the place of tokens that are not painted yet; judges need them."""
        if self._judge is None:
            return {}
        return {
            (probe.template, each.initializer): (probe, each.initializer)
            for each in candidates
            for probe in each.probes(self._num_probes)
            if (probe.template, each.initializer) not in self._of_words
        }

    def _request(self, probe: Probe, name: str, candidate: Candidate | None = None) -> ImageRequest:
        tokens = {name: candidate.artifact.token} if candidate else {}
        return ImageRequest(probe.prompt(name), probe.seed, tokens, guidance=self._guidance)

    def _trial(self, candidate: Candidate, pictures: Sequence[Image.Image]) -> Trial:
        asked = candidate.probes(self._num_probes)
        name = candidate.artifact.token.placeholder
        if self._judge is None:
            shown = tuple(ProbePicture(prompt=p.prompt(name), seed=p.seed) for p in asked)
            return Trial(Quality(judge=None, pictures=shown), pictures)
        noun = candidate.class_noun or candidate.initializer
        scores = self._judge.scores(pictures, asked, candidate.references, noun)
        of_word = [self._of_words[probe.template, candidate.initializer] for probe in asked]
        word_scores = self._judge.scores(of_word, asked, candidate.references, noun)
        return Trial(
            Quality(
                judge=self._judge.name,
                pictures=tuple(
                    ProbePicture(
                        prompt=probe.prompt(name), seed=probe.seed, subject_score=s, prompt_score=p
                    )
                    for probe, (s, p) in zip(asked, scores, strict=True)
                ),
                subject_score=fmean(s for s, _ in scores),
                prompt_score=fmean(p for _, p in scores),
                word_subject_score=fmean(s for s, _ in word_scores),
            ),
            pictures,
        )
