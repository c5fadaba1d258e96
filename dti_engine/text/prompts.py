"""The one way in which learned tokens enter a prompt.

A placeholder such as `<rex>` is a name in a prompt, never a word of a tokenizer. Training and
serving both spell a prompt as vocabulary ids plus row numbers (`tokenize`), and put the learned
rows in by number (`encoder_inputs.inject`). Tokenizers and embedding tables are only ever read, so
any tenants' tokens can share one batch.

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

# <Rex> matches as well and is never bound: as plain text it would silently show something else.
_MENTION = re.compile(f"({PLACEHOLDER.pattern})", re.IGNORECASE)

Spans: TypeAlias = Mapping[str, Mapping[str, range]]
"""Placeholder -> encoder name -> the rows that stand at that placeholder in one sample."""


@dataclass(frozen=True, slots=True)
class PromptEncoding:
    """How a prompt is read by models that know more than one way; others read all alike."""

    pooling: Pooling = "eos"
    instruction: bool = False  # whether the model's own instruction stands before it

    @classmethod
    def of(cls, config: TrainConfig) -> Self:
        """That of captions in training."""
        return cls(config.pooling, config.instruction)


def tokenize(
    prompts: Sequence[str],
    encoders: Mapping[str, TextEncoder],
    spans: Sequence[Spans],
    encodings: Sequence[PromptEncoding] | None = None,
) -> PromptBatch:
    """Spell prompts for every encoder, with learned rows at their placeholders.

    spans[b] says for sample b alone which rows stand at which placeholder, so two samples may use
    one placeholder for different tokens. A placeholder may occur several times in a prompt.
    encodings[b] says how sample b is read; None: all by the defaults.

    Raises: TokenError if a prompt uses a placeholder that is not bound, or is too long to hold one
        entirely.
    """
    encodings = [PromptEncoding()] * len(prompts) if encodings is None else encodings
    has_instruction = torch.tensor([encoding.instruction for encoding in encodings])
    inputs: dict[str, EncoderInput] = {}
    for name, encoder in encoders.items():
        wrapped = [
            _marked_ids(*each, encoder) for each in zip(prompts, spans, encodings, strict=True)
        ]
        summaries = [
            _last_mark(ids, of_sample, name) if encoding.pooling == "legacy" else len(ids) - 1
            for ids, of_sample, encoding in zip(wrapped, spans, encodings, strict=True)
        ]
        positions = encoder.padded_length(max(map(len, wrapped)))
        padding = [[encoder.pad_id] * (positions - len(ids)) for ids in wrapped]
        marked = torch.tensor([[*ids, *pads] for ids, pads in zip(wrapped, padding, strict=True)])
        is_row = marked < 0
        inputs[name] = EncoderInput(
            ids=marked.masked_fill(is_row, encoder.stand_in_id),
            row=(-1 - marked).masked_fill(~is_row, -1),
            length=torch.tensor([len(ids) for ids in wrapped]),
            pooled_index=torch.tensor(summaries),
            has_instruction=has_instruction,
        )
    return PromptBatch(inputs)


def _last_mark(wrapped: Sequence[int], spans: Spans, encoder: str) -> int:
    """Where programs that add learned tokens to a vocabulary find the highest id.

    They give ids in the order of binding, and look for the first of the highest; it is the end if
    there is no learned token. Source: transformers, CLIPTextModel, where `eos_token_id` is 2.
    """
    for rows in reversed([each[encoder] for each in spans.values()]):
        if -1 - rows[-1] in wrapped:
            return wrapped.index(-1 - rows[-1])
    return len(wrapped) - 1


def _marked_ids(
    prompt: str, spans: Spans, encoding: PromptEncoding, encoder: TextEncoder
) -> list[int]:
    """The wrapped ids of one prompt, in which -1 - r marks learned row r.

    Words take the blank before them along, for vocabularies that tell " dog" from "dog": so do
    learned rows, and so does the first word if an instruction stands before it.
    """
    ids: list[int] = []
    owners: list[str] = []  # the placeholder of each mark, in order
    pieces = _MENTION.split(" " * encoding.instruction + prompt.strip())
    for index, piece in enumerate(pieces):
        if index % 2 == 0:
            text = piece if index == len(pieces) - 1 else piece.rstrip()
            ids += encoder.segment_ids(text) if text else []
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
    instructions: Sequence[bool] | None = None,
) -> tuple[PromptBatch, Rows]:
    """Prompts and the tokens they name, ready for a backbone: `tokenize` and the table of rows.

    tokens[b] maps the placeholders of prompt b to tokens; a placeholder need not be the token's
    own, and a token need not occur. Each distinct token takes its rows once, however many prompts
    share it. A prompt is read as the tokens that it mentions were (`common_pooling`), and with the
    model's instruction where instructions[b] says so; None: nowhere.

    Raises: ArtifactMismatchError if a token was made for other encoders or dimensions; TokenError
        as `tokenize`, or if a name is no placeholder, so that no prompt could mention it.
    """
    for name in {name for sample in tokens for name in sample}:
        require_placeholder(name)
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
    asked = [False] * len(prompts) if instructions is None else instructions
    encodings = [
        PromptEncoding(
            common_pooling(token for name, token in sample.items() if name in prompt), wanted
        )
        for prompt, sample, wanted in zip(prompts, tokens, asked, strict=True)
    ]
    return tokenize(prompts, encoders, samples, encodings), rows


def truncated_pieces(
    prompt: str, tokens: Mapping[str, LearnedToken], encoders: Mapping[str, TextEncoder]
) -> dict[str, int]:
    """Encoder name -> how many word pieces at the end of a prompt it has no room for, where there
    are any. Learned rows are never among them: see `tokenize`.
    """
    unread: dict[str, int] = {}
    for name, encoder in encoders.items():
        given = sum(
            tokens[piece].num_vectors(name) if index % 2 else len(encoder.segment_ids(piece))
            for index, piece in enumerate(_MENTION.split(prompt.strip()))
            if piece.strip()
        )
        room = encoder.max_length - len(encoder.wrap_ids([]))
        if given > room:
            unread[name] = given - room
    return unread


def _require_fit(token: LearnedToken, encoders: Mapping[str, TextEncoder]) -> None:
    made_for = {name: rows.shape[-1] for name, rows in token.embeddings.items()}
    wanted = {name: encoder.dim for name, encoder in encoders.items()}
    if made_for != wanted:
        raise ArtifactMismatchError(
            f"{token.placeholder} was made for encoders of dimension {made_for}, this backbone has "
            f"{wanted}; use the backbone that it was trained on"
        )
