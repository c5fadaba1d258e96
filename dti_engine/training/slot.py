"""A subject made ready for a slot of the packed batch, and the samples that it puts into each step.

What does not change from step to step is done once: images become latents, captions become ids
and row numbers. What is left is a pure function of the subject's seed and its own step; the
images are let go, since those of many subjects may be larger than all else in memory.
"""

import math
import time
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dti_engine.backbones.interface import Backbone, Latents
from dti_engine.config import TrainConfig
from dti_engine.errors import InvalidImageError, SubjectError, TokenError
from dti_engine.images.crops import MAX_CROPS, make_crops
from dti_engine.images.tensors import mask_weights, to_tensor
from dti_engine.optim import sphere
from dti_engine.subject import Subject
from dti_engine.text.captions import CAPTION_TEMPLATES
from dti_engine.text.encoder import TextEncoder, initializer_ids, initializer_rows
from dti_engine.text.inputs import PromptBatch
from dti_engine.text.prompts import PromptEncoding, tokenize
from dti_engine.text.tokens import LearnedToken
from dti_engine.training.batch import SampleDraws, TrainingBatch, draw, draw_fixed
from dti_engine.training.metrics import StepMetrics
from dti_engine.training.provenance import Provenance

_FIXED_BATCH_SCALE = 2  # what the fixed batch is as large as


@dataclass(frozen=True, eq=False)
class PreparedSubject:
    """What samples of a subject are made of. Only the row numbers in `captions` know its slot."""

    captions: PromptBatch  # every template once, then the images' own captions
    latents: Latents  # every crop of every image
    weights: Tensor  # (crops, 1, h, w), see `mask_weights`
    micro_conditioning: Tensor  # (crops, 6), see `crops.MicroConditioning`
    own_caption: Tensor  # (crops,) int64, which of `captions` its image has; -1: any template
    num_crops: Sequence[int]  # of each image

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """(C, h, w)."""
        return tuple(self.latents.mean.shape[1:])

    def samples(self, draws: SampleDraws) -> TrainingBatch:
        """Those that were drawn, on the device of the latents."""
        mean, std = self.latents.mean, self.latents.std
        draws = draws.to(mean.device)
        latents = Latents(mean[draws.views], std[draws.views]).sample(draws.posterior)
        # A template is drawn in any case, so that no image's caption changes another's draws.
        own = self.own_caption[draws.views]
        prompts = self.captions.select(torch.where(own < 0, draws.captions, own))
        seen = self.weights[draws.views], self.micro_conditioning[draws.views]
        return TrainingBatch(latents, draws.noise, draws.u, *seen, prompts)


@dataclass(eq=False)
class TrainingSlot:
    """A subject at work in a slot."""

    subject: Subject  # without its images
    provenance: Provenance  # with what is to be known of them
    config: TrainConfig
    rows: Mapping[str, slice]  # encoder name -> its vectors in that encoder's table
    prepared: PreparedSubject
    fixed_batch: TrainingBatch  # that its `StepMetrics.fixed_loss` is taken of
    first_fixed_loss: float = math.nan  # before its first step
    step: int = 0  # steps done
    num_unread: int = 0  # of them, those that are not in `metrics` yet
    metrics: list[StepMetrics] = field(default_factory=list[StepMetrics])
    seated_at: float = field(default_factory=time.monotonic)

    def is_sync_step(self, snapshot_steps: Container[int]) -> bool:
        """Whether something may happen to it after this step, so that it has to be read."""
        config = self.config
        may_converge = config.patience > 0 and self.step % config.eval_every == 0
        return self.step == config.steps or may_converge or self.step in snapshot_steps

    @property
    def fixed_losses(self) -> list[float]:
        """Its loss on the fixed batch, before training and every `eval_every` steps since."""
        every = self.config.eval_every
        return [self.first_fixed_loss] + [
            each.fixed_loss for each in self.metrics[every - 1 :: every]
        ]

    def resume_from(self, metrics: Sequence[StepMetrics], first_fixed_loss: float) -> None:
        """Be where these steps, one report each, have led; the time since then does not count."""
        self.first_fixed_loss = first_fixed_loss
        self.step, self.metrics = len(metrics), list(metrics)
        self.seated_at = time.monotonic() - metrics[-1].seconds

    def read(self, figures: Sequence[Sequence[float]]) -> list[StepMetrics]:
        """New metrics; `figures` are its slot's, per step, and the last `num_unread` are its own.

        They end with the first step that failed, if one did.
        """
        seconds, metrics = time.monotonic() - self.seated_at, list[StepMetrics]()
        for step in range(self.step - self.num_unread, self.step):
            report = StepMetrics(self.subject.id, step + 1, seconds, *figures[step - self.step])
            metrics.append(report)
            if report.failure():
                break
        self.num_unread = 0
        self.metrics += metrics
        return metrics

    def samples(self) -> TrainingBatch:
        """The samples of its next step."""
        draws = draw(
            self.subject.seed,
            self.step,
            batch_size=self.config.batch_size,
            num_crops=self.prepared.num_crops,
            num_captions=len(CAPTION_TEMPLATES[self.config.captions]),
            latent_shape=self.prepared.latent_shape,
            timesteps=self.config.timesteps,
            shift=self.config.shift,
        )
        return self.prepared.samples(draws)


def magnitude(config: TrainConfig, of_vocabulary: float) -> float | None:
    """m* of the rows of an encoder, or None if each keeps the length of its initializer.

    of_vocabulary: the encoder's `vocabulary_magnitude`.
    """
    if config.magnitude == "initializer":
        return None
    return of_vocabulary if config.magnitude == "vocabulary" else config.magnitude


def initial_token(
    subject: Subject,
    encoders: Mapping[str, TextEncoder],
    magnitudes: Mapping[str, float],
    config: TrainConfig,
    max_vectors: int,
) -> LearnedToken:
    """The token before training: vocabulary rows of the initializer, as long as the config says.

    magnitudes: encoder -> its `vocabulary_magnitude`.

    Raises: TokenError if placeholder or initializer cannot be used, or the vectors are too many.
    """
    embeddings: dict[str, Tensor] = {}
    for name, encoder in encoders.items():
        pieces = initializer_rows(encoder, subject.initializer)
        if config.init == "states":
            pieces = encoder.last_hidden_states(
                initializer_ids(encoder, subject.initializer)
            ).float()
        length = magnitude(config, magnitudes[name])
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
) -> TrainingSlot:
    """Encode images and captions of a subject whose vectors will lie at `rows`.

    config: that of the run; the subject's own goes before it.

    Raises: InvalidImageError if it has no image, or a mask is black; TokenError if a caption has
        no `{}`, or its token does not fit; SubjectError if its seed is out of range.
    """
    if not subject.images:
        raise InvalidImageError("the subject has no images; give at least 1, better 3 to 6")
    if not 0 <= subject.seed < 2**64:
        raise SubjectError(f"a seed must lie in 0 .. 2**64 - 1, got {subject.seed}")
    config = subject.config or config
    material = _material(subject, rows, backbone, config)
    draws = draw_fixed(
        subject.seed,
        size=_FIXED_BATCH_SCALE * config.batch_size,
        num_crops=material.num_crops,
        num_captions=len(CAPTION_TEMPLATES[config.captions]),
        latent_shape=material.latent_shape,
        shift=config.shift,
    )
    num_vectors = {name: span.stop - span.start for name, span in rows.items()}
    provenance = Provenance.of(subject, num_vectors, backbone, config)
    fixed = material.samples(draws)
    return TrainingSlot(subject.without_images(), provenance, config, rows, material, fixed)


def _material(
    subject: Subject, rows: Mapping[str, slice], backbone: Backbone, config: TrainConfig
) -> PreparedSubject:
    spans = {name: range(span.start, span.stop) for name, span in rows.items()}
    templates, captions = CAPTION_TEMPLATES[config.captions], _own_captions(subject)
    prompts = [each.replace("{}", subject.placeholder) for each in (*templates, *captions.values())]
    tokenized = tokenize(
        prompts,
        backbone.text_encoders,
        [{subject.placeholder: spans}] * len(prompts),
        [PromptEncoding.of(config)] * len(prompts),
    )
    seen = [make_crops(each, config.resolution, max_crops=MAX_CROPS) for each in subject.images]
    crops = [view for each in seen for view in each]
    # One at a time: together, they would need more memory than the training itself.
    encoded = [backbone.encode_images(to_tensor([crop.image])) for crop in crops]
    latents = Latents(
        mean=torch.cat([each.mean for each in encoded]),
        std=torch.cat([each.std for each in encoded]),
    )
    numbers = {index: len(templates) + i for i, index in enumerate(captions)}
    own = [numbers.get(index, -1) for index, each in enumerate(seen) for _ in each]
    weights = mask_weights([crop.mask for crop in crops], *latents.mean.shape[2:])
    return PreparedSubject(
        tokenized.to(backbone.device),
        latents,
        weights.to(backbone.device),
        torch.tensor(
            [view.micro_conditioning for view in crops], dtype=torch.float32, device=backbone.device
        ),
        own_caption=torch.tensor(own, device=backbone.device),
        num_crops=[len(each) for each in seen],
    )


def _own_captions(subject: Subject) -> dict[int, str]:
    """Number of an image -> its caption, of those that have one. Raises: TokenError."""
    captions: dict[int, str] = {}
    for index, subject_image in enumerate(subject.images):
        if subject_image.caption is None:
            continue
        if "{}" not in subject_image.caption:
            raise TokenError(
                f"the caption of {subject_image.name!r} has no {{}} for {subject.placeholder}: "
                f"{subject_image.caption!r}. Without it, nothing would be learned from the image"
            )
        captions[index] = subject_image.caption
    return captions
