"""Validation of trained tokens: a few images of each, and their scores."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from PIL import Image

from dti_engine.artifacts.artifact import Artifact
from dti_engine.artifacts.manifest import Quality, TrainedOrigin, ValidationImage
from dti_engine.backbones.interface import Backbone
from dti_engine.generation.pipeline import ImageRequest, generate
from dti_engine.quality.token_scorers import TokenScorer, ValidationPrompt, validation_prompts

_MAX_WORD_IMAGES = 256  # images of bare words that are cached: subjects often share their words


@dataclass(frozen=True, eq=False)
class ValidationCandidate:
    """A trained token, and the images that it was learned from."""

    artifact: Artifact
    references: Sequence[Image.Image]
    class_noun: str | None = None  # used where prompts are scored; None: the initializer

    @property
    def initializer(self) -> str:
        """The word or phrase that training started from."""
        return self._training.initializer

    def prompts(self, count: int) -> list[ValidationPrompt]:
        """Return the first `count` validation prompts of the token's family of captions."""
        return validation_prompts(self._training.config.captions, count)

    @property
    def _training(self) -> TrainedOrigin:
        training = self.artifact.manifest.training
        assert training
        return training


@dataclass(frozen=True, eq=False)
class TokenValidation:
    """The validation of one token; it is compared with no others yet, so it has no flags."""

    quality: Quality
    images: Sequence[Image.Image]  # one per prompt


class TokenValidator:
    """Generates and scores validation images, for all tokens from the same prompts and noise.

    If there is a scorer, each prompt is generated with the bare initializer as well: a token that
    scores no better has learned nothing.
    """

    def __init__(
        self,
        backbone: Backbone,
        scorer: TokenScorer | None,
        *,
        num_images: int,
        steps: int = 12,
        guidance: float = 5.0,
        batch_size: int = 8,
    ) -> None:
        """Prepare; `num_images` are generated per token, in `steps` denoising steps."""
        self._backbone, self._scorer = backbone, scorer
        self._num_images, self._steps, self._guidance = num_images, steps, guidance
        self._batch_size = batch_size
        self._word_images: dict[tuple[str, str], Image.Image] = {}  # (template, word) -> image

    def validate(
        self,
        candidates: Sequence[ValidationCandidate],
        *,
        on_step: Callable[[], None] = lambda: None,
    ) -> list[TokenValidation]:
        """Generate and score images of each candidate. Raises: as `generate`."""
        # All at once, not one by one: the next call needs the words of its own candidates only.
        if len(self._word_images) > _MAX_WORD_IMAGES:
            self._word_images.clear()  # they can be generated again
        words = self._missing_words(candidates)
        requests = [self._request(prompt, word) for prompt, word in words.values()]
        for candidate in candidates:
            placeholder = candidate.artifact.token.placeholder
            requests += [
                self._request(prompt, placeholder, candidate)
                for prompt in candidate.prompts(self._num_images)
            ]
        images = generate(
            self._backbone,
            requests,
            steps=self._steps,
            batch_size=self._batch_size,
            on_step=lambda done, total: on_step(),
        )
        # The requests of words come first; the images behind them are the candidates'.
        self._word_images |= dict(zip(words, images, strict=False))
        rest = iter(images[len(words) :])
        return [
            self._score(candidate, [next(rest) for _ in candidate.prompts(self._num_images)])
            for candidate in candidates
        ]

    def _missing_words(
        self, candidates: Sequence[ValidationCandidate]
    ) -> dict[tuple[str, str], tuple[ValidationPrompt, str]]:
        """Return the prompts with bare words that are not generated yet; only scores need them."""
        if self._scorer is None:
            return {}
        return {
            (prompt.template, candidate.initializer): (prompt, candidate.initializer)
            for candidate in candidates
            for prompt in candidate.prompts(self._num_images)
            if (prompt.template, candidate.initializer) not in self._word_images
        }

    def _request(
        self, prompt: ValidationPrompt, name: str, candidate: ValidationCandidate | None = None
    ) -> ImageRequest:
        tokens = {name: candidate.artifact.token} if candidate else {}
        return ImageRequest(prompt.text(name), prompt.seed, tokens, guidance=self._guidance)

    def _score(
        self, candidate: ValidationCandidate, images: Sequence[Image.Image]
    ) -> TokenValidation:
        prompts = candidate.prompts(self._num_images)
        name = candidate.artifact.token.placeholder
        if self._scorer is None:
            unscored = tuple(ValidationImage(prompt=p.text(name), seed=p.seed) for p in prompts)
            return TokenValidation(Quality(scorer=None, images=unscored), images)
        noun = candidate.class_noun or candidate.initializer
        scores = self._scorer.score(images, prompts, candidate.references, noun)
        of_word = [self._word_images[p.template, candidate.initializer] for p in prompts]
        word_scores = self._scorer.score(of_word, prompts, candidate.references, noun)
        scored = tuple(
            ValidationImage(
                prompt=prompt.text(name),
                seed=prompt.seed,
                subject_score=subject_score,
                prompt_score=prompt_score,
            )
            for prompt, (subject_score, prompt_score) in zip(prompts, scores, strict=True)
        )
        quality = Quality(
            scorer=self._scorer.name,
            images=scored,
            subject_score=fmean(subject_score for subject_score, _ in scores),
            prompt_score=fmean(prompt_score for _, prompt_score in scores),
            word_subject_score=fmean(subject_score for subject_score, _ in word_scores),
        )
        return TokenValidation(quality, images)
