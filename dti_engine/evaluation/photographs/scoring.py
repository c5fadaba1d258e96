"""Generates the images that an evaluation on photographs lacks, and scores them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from dti_engine.backbones.interface import Backbone
from dti_engine.evaluation.photographs.protocol import Protocol
from dti_engine.evaluation.photographs.store import Score, Store
from dti_engine.evaluation.photographs.subjects import EvaluationImage, PhotographedSubject, Row
from dti_engine.evaluation.scoring import rescaled
from dti_engine.generation.pipeline import ImageRequest, generate, image_settings, save_image
from dti_engine.generation.prompt_cache import PromptCache
from dti_engine.scorers.dinov2 import Dinov2, likeness, masked
from dti_engine.scorers.siglip import Siglip, scored_text
from dti_engine.text.encoder import vocabulary_magnitude
from dti_engine.text.tokens import LearnedToken


@dataclass(frozen=True, eq=False)
class Learned:
    """A token as a row puts it into prompts, and the file that it is of."""

    token: LearnedToken
    origin: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class References:
    """Features (R, d) of a subject's photographs."""

    plain: Tensor
    masked: Tensor | None  # None unless all have masks


class Examiner:
    """Generates and scores shots; the tokens of their rows must be learned."""

    def __init__(
        self,
        backbone: Backbone,
        dinov2: Dinov2,
        siglip: Siglip,
        protocol: Protocol,
        store: Store,
        *,
        batch_size: int,
    ) -> None:
        """batch_size: images generated, and scored, at once."""
        self._backbone, self._dinov2, self._siglip = backbone, dinov2, siglip
        self._protocol, self._store, self._batch_size = protocol, store, batch_size
        self._references: dict[str, References] = {}
        self._reader = PromptCache(backbone)
        # A token equals only itself: loaded again, its prompts would be read again.
        self._loaded: dict[tuple[Row, str, int], Learned] = {}
        self._lengths = {
            name: vocabulary_magnitude(encoder) for name, encoder in backbone.text_encoders.items()
        }

    def missing(self, shots: Sequence[EvaluationImage]) -> list[Sequence[EvaluationImage]]:
        """Batches that are to be generated, whole ones of the row's.

        They are always the same, since their shape decides how results round: one of which a part
        is missing is generated whole, and what is there is left as it is.
        """
        size = self._batch_size
        batches = [shots[start : start + size] for start in range(0, len(shots), size)]
        return [
            batch for batch in batches if not all(shot.key in self._store.scores for shot in batch)
        ]

    def score_missing(
        self, shots: Sequence[EvaluationImage], *, on_images: Callable[[int], None]
    ) -> None:
        """Generate, score and keep all shots that have no score yet, in the batches of `missing`;
        on_images gets the size of each that is done.
        """
        for batch in self.missing(shots):
            found = self._examined(batch)
            self._store.add([each for each in found if each.image not in self._store.scores])
            on_images(len(batch))

    def _examined(self, shots: Sequence[EvaluationImage]) -> list[Score]:
        learned = [self._learned(shot) for shot in shots]
        requests = [self._request(*each) for each in zip(shots, learned, strict=True)]
        steps = self._protocol.image_steps
        generated_images = generate(
            self._backbone,
            requests,
            steps=steps,
            batch_size=self._batch_size,
            reader=self._reader,
        )
        for shot, one, request, generated_image in zip(
            shots, learned, requests, generated_images, strict=True
        ):
            if shot.key in self._store.scores:
                continue
            origins = {shot.subject.placeholder: one.origin} if one else {}
            settings = image_settings(request, self._backbone, steps=steps, tokens=origins)
            # First the image: a score without it could not be checked by eye.
            save_image(generated_image, self._store.image(shot), {"shot": shot.key} | settings)
        return self._scores(shots, generated_images)

    def _scores(
        self, shots: Sequence[EvaluationImage], generated_images: Sequence[Image.Image]
    ) -> list[Score]:
        features = self._dinov2.features(generated_images)
        texts = [scored_text(shot.template, shot.subject.class_noun) for shot in shots]
        obeyed = self._siglip.scores(generated_images, texts)
        scores: list[Score] = []
        for index, shot in enumerate(shots):
            references, own = self._references_of(shot.subject), features[index : index + 1]
            on_black = None if references.masked is None else likeness(own, references.masked)[0]
            scores.append(
                Score(
                    image=shot.key,
                    row=shot.row.name,
                    subject=shot.subject.name,
                    prompt=shot.prompt,
                    training_seed=shot.training_seed,
                    image_seed=shot.image_seed,
                    masked_subject_score=on_black,
                    subject_score=likeness(own, references.plain)[0],
                    prompt_score=obeyed[index].probability,
                    prompt_cosine=obeyed[index].cosine,
                )
            )
        return scores

    def _references_of(self, subject: PhotographedSubject) -> References:
        if subject.name not in self._references:
            photos = subject.images()
            self._references[subject.name] = References(
                self._dinov2.features([each.image for each in photos]),
                self._dinov2.features([masked(each) for each in photos])
                if subject.is_masked
                else None,
            )
        return self._references[subject.name]

    def _learned(self, shot: EvaluationImage) -> Learned | None:
        if shot.row.token is None:
            return None
        which = shot.row, shot.subject.name, shot.training_seed
        if which not in self._loaded:
            artifact = self._store.load_token(shot.row.token, shot.subject, shot.training_seed)
            token = artifact.token
            if shot.row.is_rescaled:
                token = rescaled(token, self._lengths)
            self._loaded[which] = Learned(token, artifact.origin())
        return self._loaded[which]

    def _request(self, shot: EvaluationImage, learned: Learned | None) -> ImageRequest:
        """The seed is all that the noise depends on: rows differ by their words alone."""
        tokens: dict[str, LearnedToken] = {}
        word = shot.subject.class_noun
        if learned:
            word = shot.subject.placeholder
            tokens[word] = learned.token
        prompt = shot.template.replace("{}", word)
        return ImageRequest(prompt, shot.image_seed, tokens, guidance=self._protocol.guidance)
