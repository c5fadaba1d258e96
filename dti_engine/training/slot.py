"""A slot of the packed batch: a subject prepared for training, and its samples of each step.

Work that does not depend on the step is done once: images become latents, captions become ids and
row numbers. The samples of a step are then a pure function of the subject's seed and its own step.
The images are released, since those of many subjects may be larger than everything else in memory.
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
from dti_engine.text.prompt_check import text_warnings
from dti_engine.text.prompts import PromptEncoding, tokenize
from dti_engine.text.tokens import LearnedToken
from dti_engine.training.batch import SampleDraws, TrainingBatch, draw_fixed_samples, draw_samples
from dti_engine.training.metrics import StepMetrics
from dti_engine.training.provenance import Provenance

# Without a backward pass, an evaluation of two batches costs about two thirds of a step.
_FIXED_BATCH_SCALE = 2  # size of the fixed batch, in training batches


@dataclass(frozen=True, eq=False)
class PreparedSubject:
    """A subject as latents and token ids. Only the row numbers in `captions` depend on its slot."""

    captions: PromptBatch  # every template once, then the captions of images
    latents: Latents  # every crop of every image
    weights: Tensor  # (crops, 1, h, w), see `mask_weights`
    micro_conditioning: Tensor  # (crops, 6), see `crops.MicroConditioning`
    own_caption: Tensor  # (crops,) int64, index into `captions` of its image's; -1: any template
    num_crops: Sequence[int]  # of each image

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Return (C, h, w)."""
        return tuple(self.latents.mean.shape[1:])

    def samples(self, draws: SampleDraws) -> TrainingBatch:
        """Return the samples that were drawn, on the device of the latents."""
        mean, std = self.latents.mean, self.latents.std
        draws = draws.to(mean.device)
        # A new sample of the autoencoder's posterior in each step, as in the training of the model.
        # On the fixed batch the posterior noise is zero, which gives the mean.
        latents = Latents(mean[draws.crops], std[draws.crops]).sample(draws.posterior)
        # `draws.captions` covers every sample, so that an image's own caption does not change the
        # draws of the others.
        own = self.own_caption[draws.crops]
        prompts = self.captions.select(torch.where(own < 0, draws.captions, own))
        return TrainingBatch(
            latents,
            draws.noise,
            draws.u,
            self.weights[draws.crops],
            self.micro_conditioning[draws.crops],
            prompts,
        )


@dataclass(eq=False)
class TrainingSlot:
    """A subject in training: its prepared data, its place in the tables, and its progress."""

    subject: Subject  # without its images
    provenance: Provenance  # with the digests of its images
    config: TrainConfig
    rows: Mapping[str, slice]  # encoder name -> its vectors in that encoder's table
    prepared: PreparedSubject
    fixed_batch: TrainingBatch  # of which `StepMetrics.fixed_loss` is the loss
    first_fixed_loss: float = math.nan  # before its first step
    step: int = 0  # steps done
    num_unflushed: int = 0  # steps done that are not in `metrics` yet
    metrics: list[StepMetrics] = field(default_factory=list[StepMetrics])
    added_at: float = field(default_factory=time.monotonic)

    def is_sync_step(self, snapshot_steps: Container[int]) -> bool:
        """Return whether its metrics must be read now: it may end here, or a snapshot is due."""
        config = self.config
        may_converge = config.patience > 0 and self.step % config.eval_every == 0
        return self.step == config.steps or may_converge or self.step in snapshot_steps

    @property
    def fixed_losses(self) -> list[float]:
        """The losses on the fixed batch before training and after every `eval_every` steps."""
        # Steps count from 1, so the first evaluation is at index `every - 1`. In between, the
        # metrics repeat the last evaluation.
        every = self.config.eval_every
        return [self.first_fixed_loss] + [
            each.fixed_loss for each in self.metrics[every - 1 :: every]
        ]

    def resume_from(self, metrics: Sequence[StepMetrics], first_fixed_loss: float) -> None:
        """Set the progress to that of a checkpoint; the time since it was saved does not count."""
        self.first_fixed_loss = first_fixed_loss
        self.step, self.metrics = len(metrics), list(metrics)
        self.added_at = time.monotonic() - metrics[-1].elapsed_s

    def record(self, values: Sequence[Sequence[float]]) -> list[StepMetrics]:
        """Append the metrics of the unflushed steps and return them, up to the first that failed.

        values: its row of `tabulate` per step; the last `num_unflushed` of them are this subject's,
        since it may have been added after the first.
        """
        elapsed_s, new_metrics = time.monotonic() - self.added_at, list[StepMetrics]()
        for step in range(self.step - self.num_unflushed, self.step):
            # A negative index: the last row of values is the last step, whenever the subject came.
            step_values = values[step - self.step]
            new_metrics.append(StepMetrics(self.subject.id, step + 1, elapsed_s, *step_values))
            # Later steps of this flush began from a broken row, so their metrics mean nothing.
            if new_metrics[-1].failure():
                break
        self.num_unflushed = 0
        self.metrics += new_metrics
        return new_metrics

    def next_batch(self) -> TrainingBatch:
        """Return the samples of its next step."""
        draws = draw_samples(
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


def magnitude(config: TrainConfig, vocabulary_mean: float) -> float | None:
    """Return m* for the rows of an encoder, or None if each keeps its initializer's length.

    vocabulary_mean: the encoder's `vocabulary_magnitude`.
    """
    if config.magnitude == "initializer":
        return None
    return vocabulary_mean if config.magnitude == "vocabulary" else config.magnitude


def initial_token(
    subject: Subject,
    encoders: Mapping[str, TextEncoder],
    magnitudes: Mapping[str, float],
    config: TrainConfig,
    max_vectors: int,
) -> LearnedToken:
    """Return the token before training: the initializer's rows, at the length the config sets.

    magnitudes: encoder -> its `vocabulary_magnitude`.

    Raises:
        TokenError: Placeholder or initializer cannot be used, or the token has too many vectors.
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
        # Fewer vectors than pieces would drop a part of the phrase.
        if not len(pieces) <= count <= max_vectors:
            raise TokenError(
                f"{subject.placeholder} would have {count} vectors in {name}; allowed are "
                f"{len(pieces)} (pieces of the initializer {subject.initializer!r}) to "
                f"{max_vectors} (max_vectors of this run). Change one of the three"
            )
        if length is not None:
            pieces = length * sphere.normalize(pieces)
        # Repeated pieces start as equal rows. They part from the first step on, because they stand
        # at different positions of the prompt and so get different gradients.
        embeddings[name] = pieces[torch.arange(count) % len(pieces)]
    return LearnedToken(subject.placeholder, embeddings)


def prepare(
    subject: Subject, rows: Mapping[str, slice], backbone: Backbone, config: TrainConfig
) -> TrainingSlot:
    """Encode the images and captions of a subject whose vectors will lie at `rows`.

    config: the run's; the subject's own has priority.

    Raises:
        InvalidImageError: It has no image, or a mask is black.
        TokenError: A caption has no `{}`, or the token does not fit into a caption.
        SubjectError: Its seed is out of range.
    """
    if not subject.images:
        raise InvalidImageError("the subject has no images; give at least 1, better 3 to 6")
    # The seed is half of the generator's key, see `draw_samples`.
    if not 0 <= subject.seed < 2**64:
        raise SubjectError(f"a seed must lie in 0 .. 2**64 - 1, got {subject.seed}")
    config = subject.config or config
    prepared = _prepare_data(subject, rows, backbone, config)
    draws = draw_fixed_samples(
        subject.seed,
        size=_FIXED_BATCH_SCALE * config.batch_size,
        num_crops=prepared.num_crops,
        num_captions=len(CAPTION_TEMPLATES[config.captions]),
        latent_shape=prepared.latent_shape,
        shift=config.shift,
    )
    num_vectors = {name: span.stop - span.start for name, span in rows.items()}
    # The digests are taken here because nothing keeps the images after this function.
    provenance = Provenance.of(subject, num_vectors, backbone, config)
    # Kept as samples, not as draws: an evaluation is then the same computation every time.
    fixed_batch = prepared.samples(draws)
    return TrainingSlot(subject.without_images(), provenance, config, rows, prepared, fixed_batch)


def _prepare_data(
    subject: Subject, rows: Mapping[str, slice], backbone: Backbone, config: TrainConfig
) -> PreparedSubject:
    # Row numbers become part of the tokenized captions, so a step does no text processing at all;
    # the price is that a subject is prepared for one slot and cannot move to another.
    spans = {name: range(span.start, span.stop) for name, span in rows.items()}
    templates, captions = CAPTION_TEMPLATES[config.captions], _own_captions(subject)
    prompts = [each.replace("{}", subject.placeholder) for each in (*templates, *captions.values())]
    tokenized = tokenize(
        prompts,
        backbone.text_encoders,
        [{subject.placeholder: spans}] * len(prompts),
        [PromptEncoding.of(config)] * len(prompts),
    )
    by_image = [make_crops(each, config.resolution, max_crops=MAX_CROPS) for each in subject.images]
    crops = [crop for image_crops in by_image for crop in image_crops]
    # One at a time: all at once would need more memory than the training itself.
    encoded = [backbone.encode_images(to_tensor([crop.image])) for crop in crops]
    latents = Latents(
        mean=torch.cat([each.mean for each in encoded]),
        std=torch.cat([each.std for each in encoded]),
    )
    # Captions of images stand behind the templates. An index of -1 means none, see `samples`.
    caption_index = {image: len(templates) + i for i, image in enumerate(captions)}
    own = [caption_index.get(image, -1) for image, each in enumerate(by_image) for _ in each]
    weights = mask_weights([crop.mask for crop in crops], *latents.mean.shape[2:])
    return PreparedSubject(
        tokenized.to(backbone.device),
        latents,
        weights.to(backbone.device),
        torch.tensor(
            [crop.micro_conditioning for crop in crops], dtype=torch.float32, device=backbone.device
        ),
        own_caption=torch.tensor(own, device=backbone.device),
        num_crops=[len(each) for each in by_image],
    )


def caption_warnings(subject: Subject, backbone: Backbone) -> list[str]:
    """Return what the model does not read of the captions of a subject's images.

    Raises: TokenError if the initializer or a caption cannot be spelled.
    """
    vectors = {
        subject.placeholder: {
            name: subject.num_vectors or len(initializer_ids(encoder, subject.initializer))
            for name, encoder in backbone.text_encoders.items()
        }
    }
    return [
        warning
        for image in subject.images
        if image.caption is not None
        for warning in text_warnings(
            f"the caption of {image.name!r}",
            image.caption.replace("{}", subject.placeholder),
            vectors,
            backbone.text_encoders,
        )
    ]


def _own_captions(subject: Subject) -> dict[int, str]:
    """Return image index -> caption, for the images that have one.

    Raises:
        TokenError: A caption has no `{}`.
    """
    captions: dict[int, str] = {}
    for index, image in enumerate(subject.images):
        if image.caption is None:
            continue
        if "{}" not in image.caption:
            raise TokenError(
                f"the caption of {image.name!r} has no {{}} for {subject.placeholder}: "
                f"{image.caption!r}. Without it, nothing would be learned from the image"
            )
        captions[index] = image.caption
    return captions
