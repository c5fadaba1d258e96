"""Generates and scores the images that an evaluation lacks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from dti_engine.backbones.interface import Backbone
from dti_engine.evaluation.domain import Domain, DrawImages
from dti_engine.evaluation.protocol import EvaluationProtocol
from dti_engine.evaluation.rows import EvaluationImage, TableRow
from dti_engine.evaluation.store import EvaluationStore
from dti_engine.generation.pipeline import ImageRequest, generate, image_settings
from dti_engine.generation.prompt_cache import PromptCache
from dti_engine.images.png import save_image
from dti_engine.optim import sphere
from dti_engine.text.encoder import vocabulary_magnitude
from dti_engine.text.tokens import LearnedToken


def rescaled(
    token: LearnedToken, lengths: Mapping[str, float], *, times: float = 1.0
) -> LearnedToken:
    """Return the token's directions at `times` these lengths, given per text encoder.

    Raises:
        ZeroVectorError: A vector has no direction.
    """
    embeddings = {
        name: times * lengths[name] * sphere.normalize(rows)
        for name, rows in token.embeddings.items()
    }
    return replace(token, embeddings=embeddings)


@dataclass(frozen=True, eq=False)
class _RowToken:
    """A token as a row puts it into prompts, and the origin of its file."""

    token: LearnedToken
    origin: Mapping[str, str]


class ImageEvaluator:
    """Generates and scores images; the tokens of their rows must be trained."""

    def __init__(
        self,
        backbone: Backbone,
        domain: Domain,
        protocol: EvaluationProtocol,
        store: EvaluationStore,
        *,
        batch_size: int,
    ) -> None:
        """Prepare; `batch_size` images are generated, and scored, at once."""
        self._backbone, self._domain = backbone, domain
        self._protocol, self._store, self._batch_size = protocol, store, batch_size
        self._prompt_cache = PromptCache(backbone)
        # Tokens compare by identity, so loading one again would miss the prompt cache.
        self._tokens: dict[tuple[TableRow, str, int], _RowToken] = {}
        self._magnitudes = {
            name: vocabulary_magnitude(encoder) for name, encoder in backbone.text_encoders.items()
        }

    def missing(self, images: Sequence[EvaluationImage]) -> list[Sequence[EvaluationImage]]:
        """Return the batches of which at least one image has no score yet.

        Batches are always cut in the same places, since their shape decides how results round: a
        batch that was interrupted is generated again as a whole.
        """
        drawn = [image for image in images if self._domain.drawer(image.row)]
        generated = [image for image in images if not self._domain.drawer(image.row)]
        batches = [
            part[start : start + self._batch_size]
            for part in (drawn, generated)
            for start in range(0, len(part), self._batch_size)
        ]
        return [
            batch
            for batch in batches
            if not all(image.key in self._store.scores for image in batch)
        ]

    def score_missing(
        self, images: Sequence[EvaluationImage], *, on_images: Callable[[int], None]
    ) -> None:
        """Generate, score and save every image without a score.

        `on_images` gets the size of each batch of `missing` when it is done.
        """
        for batch in self.missing(images):
            self._evaluate(batch)
            on_images(len(batch))

    def _evaluate(self, batch: Sequence[EvaluationImage]) -> None:
        draw = self._domain.drawer(batch[0].row)
        # The whole batch, also if some of its images are scored: see `missing`.
        outputs = self._draw(batch, draw) if draw else self._generate(batch)
        for image, (pixels, settings) in zip(batch, outputs, strict=True):
            if image.key not in self._store.scores:
                # Before its score, so that every score can be checked by eye.
                save_image(pixels, self._store.image(image), {"image": image.key} | settings)
        scores = self._domain.score(batch, [pixels for pixels, _ in outputs])
        self._store.add([score for score in scores if score.image not in self._store.scores])

    def _draw(
        self, batch: Sequence[EvaluationImage], draw: DrawImages
    ) -> list[tuple[Image.Image, dict[str, Any]]]:
        settings = [
            {"prompt": self._domain.prompt(image), "seed": self._domain.noise_seed(image)}
            for image in batch
        ]
        return list(zip(draw(batch), settings, strict=True))

    def _generate(
        self, batch: Sequence[EvaluationImage]
    ) -> list[tuple[Image.Image, dict[str, Any]]]:
        requests = [self._request(image) for image in batch]
        steps = self._protocol.image_steps
        images = generate(
            self._backbone,
            requests,
            steps=steps,
            batch_size=self._batch_size,
            prompt_cache=self._prompt_cache,
        )
        settings: list[dict[str, Any]] = []
        for image, request in zip(batch, requests, strict=True):
            token = self._token(image)
            origins = {token.token.placeholder: token.origin} if token else {}
            settings.append(image_settings(request, self._backbone, steps=steps, tokens=origins))
        return list(zip(images, settings, strict=True))

    def _request(self, image: EvaluationImage) -> ImageRequest:
        token = self._token(image)
        return ImageRequest(
            prompt=self._domain.prompt(image),
            seed=self._domain.noise_seed(image),
            tokens={token.token.placeholder: token.token} if token else {},
            guidance=self._protocol.guidance,
        )

    def _token(self, image: EvaluationImage) -> _RowToken | None:
        row = image.row
        if row.token is None:
            return None
        key = row, image.subject, image.training_seed
        if key not in self._tokens:
            artifact = self._store.load_token(row.token, image.subject, image.training_seed)
            token = artifact.token
            if row.length is not None:
                token = rescaled(token, self._magnitudes, times=row.length)
            self._tokens[key] = _RowToken(token, artifact.origin())
        return self._tokens[key]
