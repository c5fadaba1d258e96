"""Tokenization of prompts that mention learned tokens, for training and for serving.

A placeholder such as `<rex>` is a name in a prompt, never a word of a tokenizer. A prompt becomes
vocabulary ids plus row indices (`tokenize`), and the learned rows replace embeddings by index
(`inputs.inject`). Tokenizers and embedding tables are never changed, so tokens of any tenants can
share one batch.

Shapes: B samples, S positions, R rows of a batch.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self, TypeAlias

import torch

from dti_engine.config import PLACEHOLDER, Pooling, TrainConfig
from dti_engine.errors import ArtifactMismatchError, TokenError
from dti_engine.text.encoder import TextEncoder
from dti_engine.text.inputs import EncoderInput, PromptBatch, Rows
from dti_engine.text.tokens import LearnedToken, common_pooling, require_placeholder

# <Rex> matches too, and is then rejected as unbound: as plain text it would mean something else.
_MENTION = re.compile(f"({PLACEHOLDER.pattern})", re.IGNORECASE)

Spans: TypeAlias = Mapping[str, Mapping[str, range]]
"""Placeholder -> encoder name -> the learned rows that replace it in one sample."""


@dataclass(frozen=True, slots=True)
class PromptEncoding:
    """Options of prompt encoding; a model ignores those that it does not have."""

    pooling: Pooling = "eos"
    instruction: bool = False  # prefix the model's own instruction

    @classmethod
    def of(cls, config: TrainConfig) -> Self:
        """Return the encoding of training captions."""
        return cls(config.pooling, config.instruction)


def tokenize(
    prompts: Sequence[str],
    encoders: Mapping[str, TextEncoder],
    spans: Sequence[Spans],
    encodings: Sequence[PromptEncoding] | None = None,
) -> PromptBatch:
    """Tokenize prompts for every encoder, with learned rows at their placeholders.

    spans[b] binds placeholders of sample b alone, so two samples may use one placeholder for
    different tokens. A placeholder may occur several times in a prompt. encodings[b] has the
    options of sample b; None: the defaults.

    Raises: TokenError if a prompt uses an unbound placeholder, or would truncate a bound one.
    """
    encodings = [PromptEncoding()] * len(prompts) if encodings is None else encodings
    has_instruction = torch.tensor([encoding.instruction for encoding in encodings])
    inputs: dict[str, EncoderInput] = {}
    for name, encoder in encoders.items():
        wrapped = [
            _marked_ids(prompt, bound, encoding, encoder)
            for prompt, bound, encoding in zip(prompts, spans, encodings, strict=True)
        ]
        pooled = [
            _legacy_pooled_index(ids, bound, name) if encoding.pooling == "legacy" else len(ids) - 1
            for ids, bound, encoding in zip(wrapped, spans, encodings, strict=True)
        ]
        positions = encoder.padded_length(max(map(len, wrapped)))
        padding = [[encoder.pad_id] * (positions - len(ids)) for ids in wrapped]
        marked = torch.tensor([[*ids, *pads] for ids, pads in zip(wrapped, padding, strict=True)])
        # A stand-in id keeps the lookup of embeddings valid where a learned row will replace it.
        is_row = marked < 0
        inputs[name] = EncoderInput(
            ids=marked.masked_fill(is_row, encoder.stand_in_id),
            row=(-1 - marked).masked_fill(~is_row, -1),
            length=torch.tensor([len(ids) for ids in wrapped]),
            pooled_index=torch.tensor(pooled),
            has_instruction=has_instruction,
        )
    return PromptBatch(inputs)


def _legacy_pooled_index(wrapped: Sequence[int], spans: Spans, encoder: str) -> int:
    """Return the position of the highest id, as in programs that add tokens to a vocabulary.

    They assign ids in the order of binding and pool at the first occurrence of the highest one;
    without learned tokens, that is the end.

    Source: transformers, CLIPTextModel with `eos_token_id` 2.
    """
    for rows_by_encoder in reversed(list(spans.values())):
        # The last vector of a token has the highest of its ids.
        mark = -1 - rows_by_encoder[encoder][-1]
        if mark in wrapped:
            return wrapped.index(mark)
    return len(wrapped) - 1


def _marked_ids(
    prompt: str, spans: Spans, encoding: PromptEncoding, encoder: TextEncoder
) -> list[int]:
    """Return the wrapped ids of one prompt, in which -1 - r marks learned row r.

    A word includes the space before it, for vocabularies that distinguish " dog" from "dog". So do
    learned rows, and so does the first word after an instruction.
    """
    ids: list[int] = []
    owners: list[str] = []  # the placeholder of each mark, in order
    # Splitting by a group puts text at even indices and placeholders at odd ones.
    pieces = _MENTION.split(" " * encoding.instruction + prompt.strip())
    for index, piece in enumerate(pieces):
        if index % 2 == 0:
            # The blank before a placeholder belongs to the learned rows, as it does to a word. Only
            # the last piece keeps its end, since no placeholder follows it.
            text = piece if index == len(pieces) - 1 else piece.rstrip()
            ids += encoder.segment_ids(text) if text else []
            continue
        if piece not in spans:
            raise TokenError(
                f"prompt {prompt!r} uses {piece}, which is not bound to a token; bound are: "
                f"{', '.join(sorted(spans)) or 'none'}. Bind it, or leave out < and >"
            )
        # No id is negative, so a negative number stays a mark through wrapping and truncation.
        marks = [-1 - row for row in spans[piece][encoder.name]]
        ids += marks
        owners += [piece] * len(marks)
    wrapped = encoder.wrap_ids(ids)
    # Truncation removes the end, so the first missing mark belongs to the first lost token.
    num_kept = sum(i < 0 for i in wrapped)
    if num_kept < len(owners):
        raise TokenError(
            f"prompt {prompt!r} is too long: {owners[num_kept]} would be truncated, as "
            f"{encoder.name} reads {encoder.max_length} positions, begin and end included; "
            f"bound are: {', '.join(sorted(spans))}. Shorten the text before it"
        )
    return wrapped


def bind(
    prompts: Sequence[str],
    tokens: Sequence[Mapping[str, LearnedToken]],
    encoders: Mapping[str, TextEncoder],
    instructions: Sequence[bool] | None = None,
) -> tuple[PromptBatch, Rows]:
    """Tokenize prompts and collect the rows of the tokens that they mention.

    tokens[b] maps the placeholders of prompt b to tokens; a placeholder need not be the token's
    own, and a token need not occur. Each distinct token has its rows in the table once, however
    many prompts share it. A prompt is pooled as its tokens were in training (`common_pooling`), and
    has the model's instruction where instructions[b] is true; None: nowhere.

    Raises: ArtifactMismatchError if a token was made for other encoders or dimensions; TokenError
        as `tokenize`, or if a name is not a placeholder.
    """
    for name in {name for sample in tokens for name in sample}:
        require_placeholder(name)
    spans: dict[LearnedToken, dict[str, range]] = {}
    # Rows of distinct tokens, in order of first use; their number may differ by encoder.
    # By identity, as tokens compare: equal rows of two tenants stay two tokens.
    starts = dict.fromkeys(encoders, 0)
    for token in dict.fromkeys(token for sample in tokens for token in sample.values()):
        _require_fit(token, encoders)
        ends = {name: start + token.num_vectors(name) for name, start in starts.items()}
        spans[token] = {name: range(starts[name], ends[name]) for name in encoders}
        starts = ends
    # The empty table gives the right width where no prompt has a token.
    rows = {
        name: torch.cat([torch.empty(0, encoder.dim), *(token.embeddings[name] for token in spans)])
        for name, encoder in encoders.items()
    }
    samples = [{name: spans[token] for name, token in sample.items()} for sample in tokens]
    instructed = [False] * len(prompts) if instructions is None else instructions
    encodings = [
        PromptEncoding(
            # Only of tokens that the prompt mentions: one that is merely bound changes no image.
            common_pooling(token for name, token in sample.items() if name in prompt),
            instruction,
        )
        for prompt, sample, instruction in zip(prompts, tokens, instructed, strict=True)
    ]
    return tokenize(prompts, encoders, samples, encodings), rows


def _require_fit(token: LearnedToken, encoders: Mapping[str, TextEncoder]) -> None:
    token_dims = {name: rows.shape[-1] for name, rows in token.embeddings.items()}
    model_dims = {name: encoder.dim for name, encoder in encoders.items()}
    if token_dims != model_dims:
        raise ArtifactMismatchError(
            f"{token.placeholder} was made for encoders of dimension {token_dims}, this model has "
            f"{model_dims}; use the model that it was trained on"
        )
