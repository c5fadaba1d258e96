"""Generates the images that an evaluation lacks, and has the miniature's scorer read them.

A subject's photos are drawn to its folder and read back from there, by the scorer as in training.

The ceiling: the world's own drawing of a subject in a prompt's scene, through the autoencoder.

What the model could generate at best. Drawings vary with the seed as photos do: in place, size and
mirroring.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from PIL import Image

from dti_engine.backbones.interface import Backbone
from dti_engine.evaluation.protocol import Protocol, image_seed
from dti_engine.evaluation.rows import EvaluationImage, Row
from dti_engine.evaluation.store import Score, Store
from dti_engine.generation.pipeline import ImageRequest, generate, save_image
from dti_engine.generation.prompt_cache import PromptCache
from dti_engine.images.decode import load_images
from dti_engine.images.tensors import to_tensor
from dti_engine.miniature.scorer import ScoredImage, Scorer, read
from dti_engine.miniature.world.drawing import draw
from dti_engine.miniature.world.scenes import Figure, Scene, figure
from dti_engine.miniature.world.subjects import (
    HeldOutSubject,
    WorldPrompt,
    draw_subject,
    evaluation_prompts,
)
from dti_engine.miniature.world.vocabulary import Look
from dti_engine.optim import sphere
from dti_engine.text.encoder import initializer_rows, vocabulary_magnitude
from dti_engine.text.tokens import LearnedToken


def scene(prompt: WorldPrompt, look: Look, *, seed: str) -> Scene:
    """What the prompt asks for, with this look as its subject. Whatever it leaves open is plain."""
    rng, asked = random.Random(seed), prompt.asked
    figures: list[Figure] = []
    for place in ("left", "centre", "right"):
        if place == prompt.place:
            shown = look
        elif f"{place}.kind" in asked:
            colour = asked[f"{place}.primary"]
            shown = Look(asked[f"{place}.kind"], colour, colour, "plain")
        else:
            continue
        figures.append(figure(shown, place, asked.get(f"{place}.accessory", "none"), rng))
    return Scene(tuple(figures), asked["background"], asked["style"], rng.random())


def through_autoencoder(backbone: Backbone, scenes: Sequence[Scene]) -> list[Image.Image]:
    """Drawings encoded and decoded, as large as the model generates."""
    side = backbone.image_size
    drawn = [draw(each).resize((side, side), Image.Resampling.LANCZOS) for each in scenes]
    pixels = backbone.decode_latents(backbone.encode_images(to_tensor(drawn)).mean)
    levels = ((pixels + 1) * 127.5).round().clamp(0, 255).byte().cpu()
    return [Image.fromarray(each.permute(1, 2, 0).contiguous().numpy()) for each in levels]


NUM_REFERENCES = 5  # photos of each subject


def draw_references(store: Store, subjects: Sequence[HeldOutSubject]) -> None:
    """Photos of all subjects, in their folders."""
    for subject in subjects:
        draw_subject(subject, store.references(subject), count=NUM_REFERENCES)


def rescaled(
    token: LearnedToken, lengths: Mapping[str, float], *, times: float = 1.0
) -> LearnedToken:
    """The token's directions at other lengths; encoder -> length. Raises: ZeroVectorError."""
    embeddings = {
        name: times * lengths[name] * sphere.normalize(rows)
        for name, rows in token.embeddings.items()
    }
    return replace(token, embeddings=embeddings)


class Examiner:
    """Generates and scores shots; the references of their subjects must be drawn."""

    def __init__(
        self, backbone: Backbone, scorer: Scorer, protocol: Protocol, store: Store
    ) -> None:
        self._backbone, self._scorer = backbone, scorer
        self._protocol, self._store = protocol, store
        self._prompts = evaluation_prompts()
        self._references: dict[str, list[ScoredImage]] = {}
        self._reader = PromptCache(backbone)
        # A token equals only itself: loaded again, its prompts would be read again.
        self._loaded: dict[tuple[Row, str, int], LearnedToken] = {}
        self._lengths = {
            name: vocabulary_magnitude(encoder) for name, encoder in backbone.text_encoders.items()
        }

    def score_missing(
        self, shots: Sequence[EvaluationImage], *, on_images: Callable[[int], None]
    ) -> None:
        """Generate, score and store every shot without a score; scored shots count at once."""
        missing = [shot for shot in shots if shot.key not in self._store.scores]
        on_images(len(shots) - len(missing))
        drawn = [shot for shot in missing if shot.row.kind == "drawing"]
        generated = [shot for shot in missing if shot.row.kind != "drawing"]
        size = self._protocol.batch_size
        for make, part in ((self._draw, drawn), (self._generate, generated)):
            for start in range(0, len(part), size):
                batch = part[start : start + size]
                self._store.add(
                    [self._keep(*each) for each in zip(batch, make(batch), strict=True)]
                )
                on_images(len(batch))

    def _keep(self, shot: EvaluationImage, image: Image.Image) -> Score:
        """Save the image first: a score without its image could not be checked by eye."""
        prompt = self._prompts[shot.prompt]
        asked = {"prompt": shot.row.prompt(prompt, shot.subject), "seed": self._seed(shot)}
        # The rest is in evaluation.json, the same for all.
        save_image(image, self._store.image(shot), {"shot": shot.key} | asked)
        (reading,) = read(self._scorer, [image])
        likenesses = [
            reading.likeness(reference, place=prompt.place)
            for reference in self._readings_of(shot.subject)
        ]
        return Score.of(
            shot,
            subject_score=fmean(likenesses),
            prompt_score=reading.shows(prompt.asked),
            norm=self._norm(shot),
        )

    def _norm(self, shot: EvaluationImage) -> float | None:
        if shot.row.kind == "class_word":
            encoders = self._backbone.text_encoders.values()
            vectors = [initializer_rows(each, shot.subject.class_word) for each in encoders]
            return fmean(length for each in vectors for length in each.norm(dim=-1).tolist())
        magnitudes = [token.magnitudes() for token in self._tokens(shot).values()]
        lengths = [m for each in magnitudes for rows in each.values() for m in rows.tolist()]
        return fmean(lengths) if lengths else None

    def _readings_of(self, subject: HeldOutSubject) -> list[ScoredImage]:
        if subject.name not in self._references:
            photos = load_images(self._store.references(subject))
            self._references[subject.name] = read(self._scorer, [each.image for each in photos])
        return self._references[subject.name]

    def _seed(self, shot: EvaluationImage) -> int:
        """The same in every row, so that rows differ by their words alone."""
        return image_seed(self._protocol.seed, shot.subject.name, shot.prompt, shot.image_seed)

    def _draw(self, shots: Sequence[EvaluationImage]) -> list[Image.Image]:
        scenes = [
            scene(self._prompts[shot.prompt], shot.subject.look, seed=str(self._seed(shot)))
            for shot in shots
        ]
        return through_autoencoder(self._backbone, scenes)

    def _generate(self, shots: Sequence[EvaluationImage]) -> list[Image.Image]:
        protocol = self._protocol
        requests = [
            ImageRequest(
                prompt=shot.row.prompt(self._prompts[shot.prompt], shot.subject),
                seed=self._seed(shot),
                tokens=self._tokens(shot),
                guidance=protocol.guidance,
            )
            for shot in shots
        ]
        return generate(
            self._backbone,
            requests,
            steps=protocol.image_steps,
            batch_size=protocol.batch_size,
            reader=self._reader,
        )

    def _tokens(self, shot: EvaluationImage) -> dict[str, LearnedToken]:
        if shot.row.token is None:
            return {}
        which = shot.row, shot.subject.name, shot.training_seed
        if which not in self._loaded:
            token = self._store.load_token(shot.row.token, shot.subject, shot.training_seed).token
            if shot.row.length is not None:
                token = rescaled(token, self._lengths, times=shot.row.length)
            self._loaded[which] = token
        return {self._loaded[which].placeholder: self._loaded[which]}
