"""A subject made ready for a slot of the packed batch, and the samples that it puts into each step.

What does not change from step to step is done once: pictures become latents, captions become ids
and row numbers. What is left is a pure function of the subject's seed and its own step.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dti_engine import sphere
from dti_engine.backbones.interface import Backbone, Latents
from dti_engine.captions import CAPTION_TEMPLATES
from dti_engine.config import TrainConfig
from dti_engine.draws import draw
from dti_engine.errors import InvalidImageError, SubjectError, TokenError
from dti_engine.images import Picture
from dti_engine.prompts import PromptBatch, tokenize
from dti_engine.reports import SlotReport
from dti_engine.tensors import to_tensor
from dti_engine.tokens import LearnedToken
from dti_engine.views import crops
from dti_engine.vocabulary import TextEncoder, initial_rows, vocabulary_magnitude

_MAX_CROPS = 8  # of one picture: a random crop has a near neighbour, and encoding takes seconds


@dataclass(frozen=True, slots=True)
class Subject:
    """What a caller wants learned: a few pictures of one thing, and the words nearest to it."""

    id: str
    pictures: Sequence[Picture]
    placeholder: str  # "<rex>", the token's name in prompts
    initializer: str  # word or phrase; the token gets one vector per vocabulary piece of it
    seed: int
    num_vectors: int | None = None  # repeats the initializer's pieces to make so many


@dataclass(frozen=True, eq=False)
class Samples:
    """Samples of one step: B of one slot, or those of all slots in order."""

    latents: Tensor  # (B, C, h, w)
    noise: Tensor  # (B, C, h, w)
    u: Tensor  # (B,)
    prompts: PromptBatch

    @staticmethod
    def concat(parts: Sequence["Samples"]) -> "Samples":
        """One batch of all their samples, in order."""
        return Samples(
            torch.cat([part.latents for part in parts]),
            torch.cat([part.noise for part in parts]),
            torch.cat([part.u for part in parts]),
            PromptBatch.concat([part.prompts for part in parts]),
        )


def blank_samples(backbone: Backbone, config: TrainConfig) -> Samples:
    """What an empty slot puts into a step: the same shapes, no learned row, hence no gradient."""
    shape = backbone.latent_shape(config.resolution, config.resolution)
    zeros = torch.zeros(config.batch_size, *shape, device=backbone.device)
    prompts = tokenize([""] * len(zeros), backbone.text_encoders, [{}] * len(zeros))
    return Samples(zeros, zeros, zeros[:, 0, 0, 0], prompts.to(backbone.device))


@dataclass(eq=False)
class Occupant:
    """A subject at work in a slot. Only `rows` and the row numbers in `captions` know which."""

    subject: Subject
    rows: Mapping[str, slice]  # encoder name -> its vectors in that encoder's table
    captions: PromptBatch  # every template once
    latents: Latents  # every crop of every picture
    num_crops: Sequence[int]  # of each picture
    step: int = 0  # steps done
    num_unread: int = 0  # of them, those that are not in `reports` yet
    reports: list[SlotReport] = field(default_factory=list[SlotReport])
    seated_at: float = field(default_factory=time.monotonic)

    def read(self, figures: Sequence[Sequence[float]]) -> list[SlotReport]:
        """New reports; `figures` are its slot's, per step, and the last `num_unread` are its own.

        They end with the first step that failed, if one did.
        """
        seconds, reports = time.monotonic() - self.seated_at, list[SlotReport]()
        for step in range(self.step - self.num_unread, self.step):
            report = SlotReport(self.subject.id, step + 1, seconds, *figures[step - self.step])
            reports.append(report)
            if report.failure():
                break
        self.num_unread = 0
        self.reports += reports
        return reports

    def samples(self, config: TrainConfig) -> Samples:
        """The samples of its next step."""
        mean, std = self.latents.mean, self.latents.std
        draws = draw(
            self.subject.seed,
            self.step,
            batch_size=config.batch_size,
            num_crops=self.num_crops,
            num_captions=len(CAPTION_TEMPLATES[config.captions]),
            latent_shape=tuple(mean.shape[1:]),
            timesteps=config.timesteps,
        ).to(mean.device)
        latents = Latents(mean[draws.views], std[draws.views]).sample(draws.posterior)
        return Samples(latents, draws.noise, draws.u, self.captions.select(draws.captions))


def magnitude(config: TrainConfig, encoder: TextEncoder) -> float | None:
    """m* of this encoder's rows, or None if each keeps the length of its initializer."""
    if config.magnitude == "initializer":
        return None
    return vocabulary_magnitude(encoder) if config.magnitude == "vocabulary" else config.magnitude


def initial_token(
    subject: Subject,
    encoders: Mapping[str, TextEncoder],
    magnitudes: Mapping[str, float | None],
    max_vectors: int,
) -> LearnedToken:
    """The token before training: vocabulary rows of the initializer, with `magnitude` per encoder.

    Raises: TokenError if placeholder or initializer cannot be used, or the vectors are too many.
    """
    embeddings: dict[str, Tensor] = {}
    for name, encoder in encoders.items():
        pieces, length = initial_rows(encoder, subject.initializer), magnitudes[name]
        count = len(pieces) if subject.num_vectors is None else subject.num_vectors
        if not len(pieces) <= count <= max_vectors:
            raise TokenError(
                f"{subject.placeholder} would have {count} vectors in {name}; allowed are "
                f"{len(pieces)} (pieces of the initializer {subject.initializer!r}) to "
                f"{max_vectors} (max_vectors of this run). Change one of the three"
            )
        if length is not None:
            pieces = length * sphere.normalize(pieces)
        embeddings[name] = pieces[torch.arange(count) % len(pieces)]
    return LearnedToken(subject.placeholder, embeddings)


def prepare(
    subject: Subject, rows: Mapping[str, slice], backbone: Backbone, config: TrainConfig
) -> Occupant:
    """Encode pictures and captions of a subject whose vectors will lie at `rows`.

    Raises: InvalidImageError if it has no picture; TokenError if its token does not fit a caption;
        SubjectError if its seed is out of range.
    """
    if not subject.pictures:
        raise InvalidImageError("the subject has no pictures; give at least 1, better 3 to 6")
    if not 0 <= subject.seed < 2**64:
        raise SubjectError(f"a seed must lie in 0 .. 2**64 - 1, got {subject.seed}")
    spans = {name: range(span.start, span.stop) for name, span in rows.items()}
    templates = CAPTION_TEMPLATES[config.captions]
    captions = tokenize(
        [template.replace("{}", subject.placeholder) for template in templates],
        backbone.text_encoders,
        [{subject.placeholder: spans}] * len(templates),
    )
    views = [crops(each, config.resolution, max_crops=_MAX_CROPS) for each in subject.pictures]
    # One at a time: together, they would need more memory than the training itself.
    encoded = [backbone.encode_images(to_tensor([view])) for each in views for view in each]
    latents = Latents(
        mean=torch.cat([each.mean for each in encoded]),
        std=torch.cat([each.std for each in encoded]),
    )
    num_crops = [len(each) for each in views]
    return Occupant(subject, rows, captions.to(backbone.device), latents, num_crops)
