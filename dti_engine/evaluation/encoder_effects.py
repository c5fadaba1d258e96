"""Why a long embedding harms a prompt, measured on a text encoder of CLIP's kind.

Effect I: a longer m v leaves less of the position p in Norm(m v + p), which the first layer reads.
Effect II: updates of bounded length turn a longer hidden state less, so it hardly changes.

Directions v are words of the vocabulary, so the effects belong to the encoder, not to a token.

Source: paper, section 2.2, Lemma 1 and Proposition 1.
"""

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dti_engine.backbones.clip import ClipTextEncoder
from dti_engine.backbones.interface import Backbone
from dti_engine.errors import ConfigurationError
from dti_engine.evaluation.rows import LENGTHS
from dti_engine.optim import sphere
from dti_engine.text.encoder import TextEncoder, initializer_rows, vocabulary_magnitude
from dti_engine.text.inputs import PromptBatch, Rows
from dti_engine.text.prompts import bind
from dti_engine.text.tokens import LearnedToken


@dataclass(frozen=True, eq=False)
class Residuals:
    """The hidden state at the first learned row of each of N prompts: x(l+1) = x(l) + update l.

    L counts sublayers: each layer of the encoder has two, attention and MLP.
    """

    start: Tensor  # (N, d), x(0) = m v + p
    updates: Tensor  # (N, L, d)

    @property
    def end(self) -> Tensor:
        """(N, d), x(L): before the final layer norm."""
        return self.start + self.updates.sum(dim=1)


def clip_encoder(encoder: TextEncoder) -> ClipTextEncoder:
    """Return the encoder as one whose layers can be hooked.

    Raises:
        ConfigurationError: It is not of CLIP's kind.
    """
    if not isinstance(encoder, ClipTextEncoder):
        raise ConfigurationError(
            f"text encoder {encoder.name!r} is not of CLIP's kind, so the effects of length cannot "
            "be measured"
        )
    return encoder


@torch.no_grad()
def residuals(
    backbone: Backbone, encoder: ClipTextEncoder, prompts: PromptBatch, rows: Rows
) -> Residuals:
    """Encode prompts, each with a learned row, and return what the layers add to its state."""
    is_learned = prompts.inputs[encoder.name].row >= 0  # (N, S)
    # The maximum of zeros and ones is found at the first one: the first learned row.
    samples, positions = torch.arange(len(is_learned)), is_learned.int().argmax(dim=1)
    starts: list[Tensor] = []
    updates: list[Tensor] = []

    def note_start(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        starts.append(arguments[0][samples, positions])

    def note_update(
        module: nn.Module, arguments: object, output: Tensor | tuple[Tensor, ...]
    ) -> None:
        added = output[0] if isinstance(output, tuple) else output  # attention returns weights too
        updates.append(added[samples, positions])

    with _removed_after() as hooks:
        # x(0) is what enters the first layer norm, so that positions are part of it. The updates
        # are what attention and MLP return, before they are added to the state.
        first, *_ = encoder.layers
        hooks.append(first.layer_norm1.register_forward_pre_hook(note_start))
        for layer in encoder.layers:
            hooks.append(layer.self_attn.register_forward_hook(note_update))
            hooks.append(layer.mlp.register_forward_hook(note_update))
        backbone.encode_prompts(prompts, rows)
    return Residuals(starts[0], torch.stack(updates, dim=1))


@contextmanager
def _removed_after() -> Generator[list[RemovableHandle]]:
    hooks: list[RemovableHandle] = []
    try:
        yield hooks
    finally:
        for hook in hooks:
            hook.remove()


NUM_POSITIONS = 16  # after the begin token: as many as the miniature's prompts have
_MAX_WORDS = 512
_PLACEHOLDER = "<word>"


@dataclass(frozen=True, slots=True)
class EffectsAtScale:
    """Both effects at one length of the embedding."""

    scale: float  # m / m*
    position_accuracy: float  # I: of a linear classifier of positions
    position_shift: float  # I: see `position_shift`
    angle_deg: float  # II: between x(0) and x(L), mean over prompts and words
    largest_angle_deg: float  # II: the same, for the sample that turns most
    bound_deg: float | None  # II: Proposition 1; None where |x(0)| is too short for it


@dataclass(frozen=True, slots=True)
class Effects:
    """Both effects at each of LENGTHS, and the quantities that they depend on."""

    encoder: str
    num_positions: int
    magnitude: float  # m*
    sum_of_largest_updates: float  # S_L of Proposition 1, from samples
    at_scale: Sequence[EffectsAtScale]


def effects(backbone: Backbone, templates: Sequence[str], words: Sequence[str]) -> Effects:
    """Measure both effects in the model's first text encoder.

    Effect II is measured in `templates`, prompts with `{}` for each of `words` as a learned row.

    Raises:
        ConfigurationError: The encoder is not of CLIP's kind.
        TokenError: It does not know a word.
    """
    encoder = clip_encoder(next(iter(backbone.text_encoders.values())))
    magnitude, positions = vocabulary_magnitude(encoder), encoder.positions[1 : 1 + NUM_POSITIONS]
    first_norm = encoder.layers[0].layer_norm1
    directions = word_directions(encoder)
    read = {s: _read(backbone, encoder, templates, words, s * magnitude) for s in LENGTHS}
    # Suprema over all inputs cannot be sampled, so the largest measured updates stand for them.
    lengths = torch.cat([torch.linalg.vector_norm(each.updates, dim=-1) for each in read.values()])
    largest_updates = lengths.amax(dim=0).tolist()
    found: list[EffectsAtScale] = []
    for scale in LENGTHS:
        vectors = scale * magnitude * directions
        start, end = read[scale].start, read[scale].end
        angles = sphere.geodesic_distance(sphere.normalize(start), sphere.normalize(end))
        shortest = float(torch.linalg.vector_norm(start, dim=-1).min())
        bound = turning_bound(shortest, largest_updates)
        found.append(
            EffectsAtScale(
                scale=scale,
                position_accuracy=position_accuracy(first_norm(vectors[:, None] + positions)),
                position_shift=position_shift(first_norm, vectors, positions),
                angle_deg=math.degrees(angles.mean()),
                largest_angle_deg=math.degrees(angles.max()),
                bound_deg=None if bound is None else math.degrees(bound),
            )
        )
    return Effects(encoder.name, len(positions), magnitude, sum(largest_updates), found)


def word_directions(encoder: TextEncoder) -> Tensor:
    """Return (N, d) unit rows of at most _MAX_WORDS trained words from all over the vocabulary."""
    rows = encoder.vocabulary().float()
    rows = rows[rows.any(dim=-1)]
    return sphere.normalize(rows[:: math.ceil(len(rows) / _MAX_WORDS)])


@torch.no_grad()
def position_accuracy(states: Tensor) -> float:
    """Return how often the nearest mean state is that of the word's position.

    Means are taken over half of the words, and tested on the others. Nearest means are a linear
    classifier, as the first layer is linear. states: (words, positions, d).
    """
    # Interleaved, since vocabularies are ordered by frequency: a split in the middle would test on
    # rare words alone.
    means, unseen = states[::2].mean(dim=0), states[1::2]
    nearest = torch.cdist(unseen, means).argmin(dim=-1)  # (words, positions)
    return float((nearest == torch.arange(states.shape[1], device=states.device)).double().mean())


@torch.no_grad()
def position_shift(norm: Callable[[Tensor], Tensor], vectors: Tensor, positions: Tensor) -> float:
    """Return the relative effect of a position, |Norm(m v + p) - Norm(m v)| / |Norm(m v)|.

    It is the mean over vectors m v (N, d) and positions p (P, d). It falls as 1/m once |p| is small
    compared with m; the encoder decides where that begins.

    Source: paper, Lemma 1, which bounds the numerator.
    """
    alone = norm(vectors)[:, None]  # (N, 1, d)
    shifts = torch.linalg.vector_norm(norm(vectors[:, None] + positions) - alone, dim=-1)
    return float((shifts / torch.linalg.vector_norm(alone, dim=-1)).mean())


def turning_bound(start_length: float, update_lengths: Sequence[float]) -> float | None:
    """Return the largest angle, in radians, by which updates of these lengths can turn a state.

    It is (pi/2) sum over l of B_l / (|x(0)| - sum over j < l of B_j), or None unless
    |x(0)| > sum of B_j.

    Source: paper, Proposition 1.
    """
    if start_length <= sum(update_lengths):
        return None
    total, rest = 0.0, start_length
    for length in update_lengths:
        total += length / rest
        rest -= length
    return math.pi / 2 * total


def _read(
    backbone: Backbone,
    encoder: ClipTextEncoder,
    templates: Sequence[str],
    words: Sequence[str],
    magnitude: float,
) -> Residuals:
    """Encode every word in every template, as learned rows of this length."""
    prompts: list[str] = []
    tokens: list[dict[str, LearnedToken]] = []
    for word in words:
        embeddings = {
            name: magnitude * sphere.normalize(initializer_rows(each, word)).cpu()
            for name, each in backbone.text_encoders.items()
        }
        token = LearnedToken(_PLACEHOLDER, embeddings)
        prompts += [template.replace("{}", _PLACEHOLDER) for template in templates]
        tokens += [{_PLACEHOLDER: token}] * len(templates)
    return residuals(backbone, encoder, *bind(prompts, tokens, backbone.text_encoders))
