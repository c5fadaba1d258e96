"""A CLIP text encoder that takes learned rows as an argument, for families that read with it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer
from transformers.models.clip.modeling_clip import CLIPEncoderLayer

from dti_engine.backbones.checkpoint import Checkpoint
from dti_engine.errors import BackboneLoadError, TokenError
from dti_engine.prompts import EncoderInput, inject


class ClipTextEncoder:
    """One CLIP model and its tokenizer, which no call changes. Implements `TextEncoder`."""

    def __init__(self, name: str, model: CLIPTextModel, tokenizer: CLIPTokenizer) -> None:
        """The model must attend by "sdpa", to which `hidden_states` leaves the causal mask.

        Raises: BackboneLoadError if model and tokenizer have different vocabularies.
        """
        # Nested in transformers 4, and in the class with a projection.
        self._model: Any = getattr(model, "text_model", model)
        self._tokenizer: Any = tokenizer
        self._table: Tensor = self._model.embeddings.token_embedding.weight
        if len(tokenizer) != len(self._table):
            raise BackboneLoadError(
                f"the tokenizer of {name!r} knows {len(tokenizer)} tokens and its model "
                f"{len(self._table)}; they do not belong together"
            )
        self._begin: int = self._tokenizer.bos_token_id
        self._end: int = self._tokenizer.eos_token_id
        self._marks = {self._begin, self._end, self._tokenizer.unk_token_id}
        self.name = name
        self.dim: int = self._table.shape[1]
        self.max_length: int = self._model.config.max_position_embeddings
        self.stand_in_id = self._begin

    @property
    def positions(self) -> Tensor:
        """(max_length, d) position embeddings, detached."""
        return self._model.embeddings.position_embedding.weight.detach()

    @property
    def layers(self) -> Sequence[CLIPEncoderLayer]:
        """To be watched at work."""
        return list(self._model.encoder.layers)

    def vocabulary(self) -> Tensor:
        return self._table.detach()

    def words(self) -> list[str]:
        """Whole words as they are; a piece that something must follow ends in "-"."""
        pieces: list[str] = self._tokenizer.convert_ids_to_tokens(list(range(len(self._table))))
        whole = ("</w>", "|>")
        return [p.removesuffix("</w>") if p.endswith(whole) else f"{p}-" for p in pieces]

    def segment_ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        if not self._marks.isdisjoint(ids):
            raise TokenError(
                f"{text!r} holds a character or mark that {self.name!r} cannot read as text; "
                "leave out <|startoftext|>, <|endoftext|> and unusual characters"
            )
        return ids

    def wrap_ids(self, ids: list[int]) -> list[int]:
        wrapped = [self._begin, *ids[: self.max_length - 2], self._end]
        return wrapped + [self._tokenizer.pad_token_id] * (self.max_length - len(wrapped))

    def hidden_states(self, prompts: EncoderInput, rows: Tensor) -> Tensor:
        """Last hidden states after the final layer norm; differentiable in rows.

        The model is run by its own modules, because its `forward` takes only ids. Without learned
        rows the result is that of `forward`, bit for bit.

        Shapes: prompts (B, S), rows (R, d) -> (B, S, d).
        """
        model = self._model
        embedded = inject(model.embeddings.token_embedding(prompts.ids), prompts.row, rows)
        hidden = model.embeddings(inputs_embeds=embedded)
        hidden = model.encoder(inputs_embeds=hidden, attention_mask=None, is_causal=True)
        return model.final_layer_norm(hidden.last_hidden_state)


def load_clip(
    checkpoint: Checkpoint, part: str, tokenizer_part: str, *, device: torch.device
) -> ClipTextEncoder:
    """Always in float32: it is small beside a denoiser, and learned rows pass through it.

    Raises: BackboneLoadError if a part is missing, damaged or does not fit.
    """
    return ClipTextEncoder(
        part,
        checkpoint.model(
            CLIPTextModel, part, device=device, dtype=torch.float32, attn_implementation="sdpa"
        ),
        checkpoint.read(tokenizer_part, CLIPTokenizer.from_pretrained),
    )
