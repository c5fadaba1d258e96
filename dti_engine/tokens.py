"""Learned tokens: what they are, how they blend, and the one way in which they enter a prompt.

A placeholder such as `<rex>` is a name in a prompt, never a word of a tokenizer. Training and
serving both spell a prompt as vocabulary ids plus row numbers (`tokenize`), and put the learned
rows in by number (`inject`). Tokenizers and embedding tables are only ever read, so any tenants'
tokens can share one batch.

Shapes: B samples, S positions, d coordinates of an embedding, n vectors of one token, R rows of a
batch.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from dti_engine import sphere
from dti_engine.errors import ArtifactMismatchError, ConfigurationError, TokenError

PLACEHOLDER = re.compile(r"<[a-z0-9][a-z0-9_-]{0,62}>")
# <Rex> counts as well, and is bound to nothing: as plain text it would silently paint a stranger.
_MENTION = re.compile(f"({PLACEHOLDER.pattern})", re.IGNORECASE)

Rows: TypeAlias = Mapping[str, Tensor]
"""Encoder name -> (R, d) fp32 learned rows; an explicit argument of every call that reads them."""

Spans: TypeAlias = Mapping[str, Mapping[str, range]]
"""Placeholder -> encoder name -> the rows that stand at that placeholder in one sample."""


class TextEncoder(Protocol):
    """What this module asks of a text encoder and its tokenizer; `backbones` implements it."""

    name: str
    dim: int
    max_length: int  # positions of a prompt, begin and end included
    stand_in_id: int  # of the vocabulary, not padding nor end: holds the place of a learned row

    def vocabulary(self) -> Tensor:
        """(V, d) embedding rows of the original vocabulary, raw as stored, detached."""
        ...

    def words(self) -> list[str]:
        """The V words or word pieces, readable, for nearest-word reports."""
        ...

    def segment_ids(self, text: str) -> list[int]:
        """Ids of a stretch of a prompt: no begin, end or padding.

        Raises: TokenError if the vocabulary cannot spell it.
        """
        ...

    def wrap_ids(self, ids: list[int]) -> list[int]:
        """Begin, ids, end and padding, `max_length` in all; what has no room is cut off.

        No id is looked at, so that negative numbers may stand among them.
        """
        ...


@dataclass(frozen=True, eq=False)
class LearnedToken:
    """One subject as embedding rows: for each text encoder (n, d) fp32 rows e = m* v.

    The rows lie on the CPU; n may differ between encoders. A token equals only itself.

    Raises: TokenError if the placeholder is malformed; ConfigurationError if the rows are not
        finite (n, d) fp32.
    """

    placeholder: str
    embeddings: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        if not PLACEHOLDER.fullmatch(self.placeholder):
            raise TokenError(
                f"placeholder {self.placeholder!r} is malformed: write <name>, where name is "
                "1 to 63 characters of a-z, 0-9, '-' and '_', the first a letter or digit"
            )
        for encoder, rows in self.embeddings.items():
            if (
                rows.dtype != torch.float32
                or rows.ndim != 2
                or not rows.numel()
                or not rows.isfinite().all()
            ):
                raise ConfigurationError(
                    f"embeddings of {self.placeholder} for {encoder!r} must be finite float32 "
                    f"of shape (n, d) with n, d >= 1, got {rows.dtype} {tuple(rows.shape)}"
                )

    def num_vectors(self, encoder: str) -> int:
        """Positions that the token takes in a prompt of this encoder."""
        return len(self.embeddings[encoder])

    def directions(self) -> dict[str, Tensor]:
        """Encoder name -> (n, d) unit rows v. Raises: ZeroVectorError if a row is zero."""
        return {name: sphere.normalize(rows) for name, rows in self.embeddings.items()}

    def magnitudes(self) -> dict[str, Tensor]:
        """Encoder name -> (n,) lengths m* of the rows."""
        return {
            name: torch.linalg.vector_norm(rows, dim=-1) for name, rows in self.embeddings.items()
        }


def slerp_tokens(a: LearnedToken, b: LearnedToken, t: float, *, placeholder: str) -> LearnedToken:
    """The token a fraction t of the way from a to b; at the ends, exactly the rows of a or b.

    Per encoder and per vector: the direction by `sphere.slerp`, the magnitude linearly.

    Raises: ConfigurationError if t is outside [0, 1]; ArtifactMismatchError if the tokens differ in
        encoders or shapes; AntipodalError if two directions are opposite.
    Source: paper, section 4.5.
    """
    if not 0 <= t <= 1:
        raise ConfigurationError(f"the blend fraction t must lie in [0, 1], got {t}")
    _require_same_shapes([a, b])
    if t in (0, 1):  # m (e / m) would give e to rounding only
        return LearnedToken(placeholder, (b if t else a).embeddings)
    directions_a, directions_b = a.directions(), b.directions()
    magnitudes_a, magnitudes_b = a.magnitudes(), b.magnitudes()
    blended: dict[str, Tensor] = {}
    for name in a.embeddings:
        magnitude = torch.lerp(magnitudes_a[name], magnitudes_b[name], t)
        blended[name] = magnitude.unsqueeze(-1) * sphere.slerp(
            directions_a[name], directions_b[name], t
        )
    return LearnedToken(placeholder, blended)


def slerp_strip(
    a: LearnedToken, b: LearnedToken, count: int, *, placeholder: str
) -> list[LearnedToken]:
    """`count` >= 2 tokens in equal steps from a to b, ends included. Raises as `slerp_tokens`."""
    if count < 2:
        raise ConfigurationError(f"a strip has two ends, so count must be >= 2, got {count}")
    return [slerp_tokens(a, b, i / (count - 1), placeholder=placeholder) for i in range(count)]


def mean_tokens(
    weighted: Sequence[tuple[LearnedToken, float]], *, placeholder: str
) -> LearnedToken:
    """Weighted mean of tokens; weights are > 0 and need not sum to 1.

    Per encoder and per vector: the direction is the Frechet mean, the magnitude the weighted mean.
    The mean of two tokens with weights 1 - t and t is `slerp_tokens` at t, to rounding.

    Raises: ConfigurationError if there is no token or a weight is not positive;
        ArtifactMismatchError if the tokens differ in encoders or shapes; AntipodalError if
        directions fit in no open hemisphere.
    Source: paper, section 4.5, from two tokens to several.
    """
    tokens = [token for token, _ in weighted]
    weights = torch.tensor([weight for _, weight in weighted])
    if not tokens or not bool(((weights > 0) & weights.isfinite()).all()):
        raise ConfigurationError(
            f"a mean needs tokens with finite weights > 0, got weights {weights.tolist()}"
        )
    _require_same_shapes(tokens)
    shares = weights / weights.sum()
    directions = [token.directions() for token in tokens]
    magnitudes = [token.magnitudes() for token in tokens]
    blended: dict[str, Tensor] = {}
    for name in tokens[0].embeddings:
        points = torch.stack([each[name] for each in directions], dim=-2)  # (n, tokens, d)
        magnitude = torch.stack([each[name] for each in magnitudes], dim=-1) @ shares  # (n,)
        blended[name] = magnitude.unsqueeze(-1) * sphere.mean_direction(points, shares)
    return LearnedToken(placeholder, blended)


def _require_same_shapes(tokens: Sequence[LearnedToken]) -> None:
    shapes = [
        {name: tuple(rows.shape) for name, rows in token.embeddings.items()} for token in tokens
    ]
    for token, shape in zip(tokens, shapes, strict=True):
        if shape != shapes[0]:
            raise ArtifactMismatchError(
                f"only tokens of the same encoders, vector counts and dimensions blend: "
                f"{tokens[0].placeholder} has {shapes[0]}, {token.placeholder} has {shape}"
            )


@dataclass(frozen=True, eq=False)
class EncoderInput:
    """Prompts as one text encoder reads them.

    ids: (B, S) int64, all in the vocabulary. row: (B, S) int64, -1 where the vocabulary speaks,
    else the index of the learned row that replaces the embedding there.
    """

    ids: Tensor
    row: Tensor

    def to(self, device: torch.device | str) -> "EncoderInput":
        return EncoderInput(self.ids.to(device), self.row.to(device))

    def select(self, samples: Tensor) -> "EncoderInput":
        """The samples with these indices; samples: (N,) int64."""
        return EncoderInput(self.ids[samples], self.row[samples])


@dataclass(frozen=True, eq=False)
class PromptBatch:
    """The same B prompts for every text encoder of a backbone: encoder name -> `EncoderInput`."""

    inputs: Mapping[str, EncoderInput]

    def to(self, device: torch.device | str) -> "PromptBatch":
        return PromptBatch({name: each.to(device) for name, each in self.inputs.items()})

    def select(self, samples: Tensor) -> "PromptBatch":
        """The samples with these indices; samples: (N,) int64."""
        return PromptBatch({name: each.select(samples) for name, each in self.inputs.items()})

    @staticmethod
    def concat(batches: Sequence["PromptBatch"]) -> "PromptBatch":
        """One batch of all their samples, in order."""
        joined: dict[str, EncoderInput] = {}
        for name in batches[0].inputs:
            parts = [batch.inputs[name] for batch in batches]
            joined[name] = EncoderInput(
                torch.cat([p.ids for p in parts]), torch.cat([p.row for p in parts])
            )
        return PromptBatch(joined)


def inject(embedded: Tensor, row: Tensor, rows: Tensor) -> Tensor:
    """Put learned rows where `row` names one, and leave the vocabulary's embeddings elsewhere.

    The one place where learned rows enter a model. Differentiable in rows, and cast to the
    encoder's dtype only here. Branchless in the values of `row`, so that it can be captured in a
    CUDA graph; a non-finite row or gradient of one sample reaches no other.

    Shapes: embedded (B, S, d), row (B, S) int64, rows (R, d) -> (B, S, d).
    """
    if not len(rows):
        return embedded
    learned = rows.to(embedded.dtype)[row.clamp(min=0)]
    return torch.where(row.unsqueeze(-1) >= 0, learned, embedded)


def tokenize(
    prompts: Sequence[str], encoders: Mapping[str, TextEncoder], spans: Sequence[Spans]
) -> PromptBatch:
    """Spell prompts for every encoder, with learned rows at their placeholders.

    spans[b] says for sample b alone which rows stand at which placeholder, so two samples may use
    one placeholder for different tokens. A placeholder may occur several times in a prompt.

    Raises: TokenError if a prompt uses a placeholder that is not bound, or is too long to hold one
        entirely.
    """
    inputs: dict[str, EncoderInput] = {}
    for name, encoder in encoders.items():
        marked = torch.tensor(
            [_marked_ids(*each, encoder) for each in zip(prompts, spans, strict=True)]
        )
        is_row = marked < 0
        inputs[name] = EncoderInput(
            ids=marked.masked_fill(is_row, encoder.stand_in_id),
            row=(-1 - marked).masked_fill(~is_row, -1),
        )
    return PromptBatch(inputs)


def _marked_ids(prompt: str, spans: Spans, encoder: TextEncoder) -> list[int]:
    """The wrapped ids of one prompt, in which -1 - r marks learned row r."""
    ids: list[int] = []
    owners: list[str] = []  # the placeholder of each mark, in order
    for index, piece in enumerate(_MENTION.split(prompt)):
        if index % 2 == 0:
            ids += encoder.segment_ids(piece) if piece else []
            continue
        if piece not in spans:
            raise TokenError(
                f"prompt {prompt!r} uses {piece}, which stands for nothing here; bound are: "
                f"{', '.join(sorted(spans)) or 'none'}. Bind it to a token, or write no < and >"
            )
        marks = [-1 - row for row in spans[piece][encoder.name]]
        ids += marks
        owners += [piece] * len(marks)
    wrapped = encoder.wrap_ids(ids)
    num_kept = sum(i < 0 for i in wrapped)
    if num_kept < len(owners):
        raise TokenError(
            f"prompt {prompt!r} is too long: {owners[num_kept]} would be cut off, for "
            f"{encoder.name} reads {encoder.max_length} positions, begin and end included; "
            f"bound are: {', '.join(sorted(spans))}. Shorten the text before it"
        )
    return wrapped


def bind(
    prompts: Sequence[str],
    tokens: Sequence[Mapping[str, LearnedToken]],
    encoders: Mapping[str, TextEncoder],
) -> tuple[PromptBatch, Rows]:
    """Prompts and the tokens they name, ready for a backbone: `tokenize` and the table of rows.

    tokens[b] maps the placeholders of prompt b to tokens; a placeholder need not be the token's
    own, and a token need not occur. Each distinct token takes its rows once, however many prompts
    share it.

    Raises: ArtifactMismatchError if a token was made for other encoders or dimensions; TokenError
        as `tokenize`.
    """
    spans: dict[LearnedToken, dict[str, range]] = {}
    starts = dict.fromkeys(encoders, 0)
    for token in dict.fromkeys(token for sample in tokens for token in sample.values()):
        _require_fit(token, encoders)
        ends = {name: start + token.num_vectors(name) for name, start in starts.items()}
        spans[token] = {name: range(starts[name], ends[name]) for name in encoders}
        starts = ends
    rows = {
        name: torch.cat([torch.empty(0, encoder.dim), *(token.embeddings[name] for token in spans)])
        for name, encoder in encoders.items()
    }
    samples = [{name: spans[token] for name, token in sample.items()} for sample in tokens]
    return tokenize(prompts, encoders, samples), rows


def _require_fit(token: LearnedToken, encoders: Mapping[str, TextEncoder]) -> None:
    made_for = {name: rows.shape[-1] for name, rows in token.embeddings.items()}
    wanted = {name: encoder.dim for name, encoder in encoders.items()}
    if made_for != wanted:
        raise ArtifactMismatchError(
            f"{token.placeholder} was made for encoders of dimension {made_for}, this backbone has "
            f"{wanted}; use the backbone that it was trained on"
        )


def initial_rows(encoder: TextEncoder, initializer: str) -> Tensor:
    """Vocabulary rows of a word or phrase, one per piece: (n, d) fp32, where learning starts.

    The words are looked up as they stand inside a sentence: some vocabularies tell " dog" from
    "dog".

    Raises: TokenError if the initializer is empty, cannot be spelled, or has a piece whose row is
        zero.
    """
    ids = encoder.segment_ids(f" {initializer.strip()}") if initializer.strip() else []
    rows = encoder.vocabulary()[ids].float()
    if not ids or not bool(rows.any(dim=-1).all()):
        raise TokenError(
            f"initializer {initializer!r} has no usable rows in the vocabulary of {encoder.name}; "
            "give a common word for the subject, such as 'dog'"
        )
    return rows


def vocabulary_magnitude(encoder: TextEncoder) -> float:
    """Mean length of the non-zero vocabulary rows: the m* that keeps a learned token in-vocabulary.

    Source: paper, section 3.1; zero rows are words that were never trained.
    """
    norms = torch.linalg.vector_norm(encoder.vocabulary().float(), dim=-1)
    return float(norms[norms > 0].double().mean())
