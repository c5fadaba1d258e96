"""Tokens tried out: a few images of each, and what a judge says of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from PIL import Image

from dti_engine.artifacts.artifact import Artifact
from dti_engine.artifacts.manifest import Quality, ValidationImage
from dti_engine.backbones.interface import Backbone
from dti_engine.generation.pipeline import ImageRequest, generate
from dti_engine.quality.token_scorers import TokenScorer, ValidationPrompt, probes

_MOST_WORDS = 256  # images that are remembered: subjects often share their words


@dataclass(frozen=True, eq=False)
class ValidationCandidate:
    """A trained token, and the images that it was learned from."""

    artifact: Artifact
    references: Sequence[Image.Image]
    class_noun: str | None = None  # what prompts are scored with; None: the initializer

    @property
    def initializer(self) -> str:
        """The word that it started from."""
        training = self.artifact.manifest.training
        assert training
        return training.initializer

    def probes(self, count: int) -> list[ValidationPrompt]:
        """Those of its family of captions."""
        training = self.artifact.manifest.training
        assert training
        return probes(training.config.captions, count)


@dataclass(frozen=True, eq=False)
class TokenValidation:
    """What came of a candidate; it is beside no others yet, so nothing is flagged."""

    quality: Quality
    images: Sequence[Image.Image]  # one per probe


class TokenValidator:
    """Tries tokens out; all of them in the same prompts, from the same noise."""

    def __init__(
        self,
        backbone: Backbone,
        judge: TokenScorer | None,
        *,
        num_probes: int,
        steps: int = 12,
        guidance: float = 5.0,
        batch_size: int = 8,
    ) -> None:
        """steps, guidance: of generating; batch_size: images at once."""
        self._backbone, self._judge = backbone, judge
        self._num_probes, self._steps, self._guidance = num_probes, steps, guidance
        self._batch_size = batch_size
        self._of_words: dict[tuple[str, str], Image.Image] = {}  # (template, word) -> image

    def examine(
        self,
        candidates: Sequence[ValidationCandidate],
        *,
        on_step: Callable[[], None] = lambda: None,
    ) -> list[TokenValidation]:
        """Generate and score each candidate. Raises: as `generate`."""
        if len(self._of_words) > _MOST_WORDS:
            self._of_words.clear()  # they can be generated again
        words = self._missing_words(candidates)
        requests = [self._request(probe, word) for probe, word in words.values()]
        for each in candidates:
            token = each.artifact.token
            requests += [
                self._request(probe, token.placeholder, each)
                for probe in each.probes(self._num_probes)
            ]
        images = generate(
            self._backbone,
            requests,
            steps=self._steps,
            batch_size=self._batch_size,
            on_step=lambda done, total: on_step(),
        )
        self._of_words |= dict(zip(words, images, strict=False))
        rest = iter(images[len(words) :])
        return [
            self._trial(each, [next(rest) for _ in each.probes(self._num_probes)])
            for each in candidates
        ]

    def _missing_words(
        self, candidates: Sequence[ValidationCandidate]
    ) -> dict[tuple[str, str], tuple[ValidationPrompt, str]]:
        """Images with words in the place of tokens that are not generated yet; judges need them."""
        if self._judge is None:
            return {}
        return {
            (probe.template, each.initializer): (probe, each.initializer)
            for each in candidates
            for probe in each.probes(self._num_probes)
            if (probe.template, each.initializer) not in self._of_words
        }

    def _request(
        self, probe: ValidationPrompt, name: str, candidate: ValidationCandidate | None = None
    ) -> ImageRequest:
        tokens = {name: candidate.artifact.token} if candidate else {}
        return ImageRequest(probe.prompt(name), probe.seed, tokens, guidance=self._guidance)

    def _trial(
        self, candidate: ValidationCandidate, images: Sequence[Image.Image]
    ) -> TokenValidation:
        asked = candidate.probes(self._num_probes)
        name = candidate.artifact.token.placeholder
        if self._judge is None:
            shown = tuple(ValidationImage(prompt=p.prompt(name), seed=p.seed) for p in asked)
            return TokenValidation(Quality(scorer=None, images=shown), images)
        noun = candidate.class_noun or candidate.initializer
        scores = self._judge.scores(images, asked, candidate.references, noun)
        of_word = [self._of_words[probe.template, candidate.initializer] for probe in asked]
        word_scores = self._judge.scores(of_word, asked, candidate.references, noun)
        return TokenValidation(
            Quality(
                scorer=self._judge.name,
                images=tuple(
                    ValidationImage(
                        prompt=probe.prompt(name), seed=probe.seed, subject_score=s, prompt_score=p
                    )
                    for probe, (s, p) in zip(asked, scores, strict=True)
                ),
                subject_score=fmean(s for s, _ in scores),
                prompt_score=fmean(p for _, p in scores),
                word_subject_score=fmean(s for s, _ in word_scores),
            ),
            images,
        )
