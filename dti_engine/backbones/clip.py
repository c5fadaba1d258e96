"""A CLIP text encoder that takes learned rows as an argument, for families that read with it."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
from transformers.models.clip.modeling_clip import CLIPEncoderLayer

from dti_engine.backbones.checkpoint import ModelFolder, require_rows
from dti_engine.errors import TokenError
from dti_engine.text.inputs import EncoderInput, inject


class ClipTextEncoder:
    """One CLIP model and its tokenizer, which no call changes. Implements `TextEncoder`.

    The model is run by its own modules, because its `forward` takes only ids. Without learned rows
    the results are those of `forward`, bit for bit. Embeddings are added up in the dtype of their
    table, and results have it too, whatever the layers compute in.
    """

    def __init__(
        self,
        name: str,
        model: CLIPTextModel | CLIPTextModelWithProjection,
        tokenizer: CLIPTokenizer,
    ) -> None:
        """The model must attend by "sdpa", to which the causal mask is left.

        Raises: ModelLoadError if the tokenizer knows more tokens than the model.
        """
        # Nested in transformers 4, and in the class with a projection.
        self._model: Any = getattr(model, "text_model", model)
        self._projection: Any = getattr(model, "text_projection", None)
        self._tokenizer: Any = tokenizer
        self._table: Tensor = self._model.embeddings.token_embedding.weight
        require_rows(name, tokenizer, self._table)
        self._num_words = len(tokenizer)
        self._begin: int = self._tokenizer.bos_token_id
        self._end: int = self._tokenizer.eos_token_id
        self._marks = {self._begin, self._end, self._tokenizer.unk_token_id}
        self.name = name
        self.dim: int = self._table.shape[1]
        self.max_length: int = self._model.config.max_position_embeddings
        self.stand_in_id = self._begin
        self.pad_id: int = self._tokenizer.pad_token_id

    @property
    def positions(self) -> Tensor:
        """(max_length, d) position embeddings, detached."""
        return self._model.embeddings.position_embedding.weight.detach()

    @property
    def layers(self) -> Sequence[CLIPEncoderLayer]:
        """To be watched at work."""
        return list(self._model.encoder.layers)

    @property
    def summary_dim(self) -> int | None:
        """Length of the summaries of `penultimate_and_summaries`; None without a projection."""
        return None if self._projection is None else self._projection.out_features

    def vocabulary(self) -> Tensor:
        return self._table.detach()[: self._num_words]

    def words(self) -> list[str]:
        """Whole words as they are; a piece that something must follow ends in "-"."""
        pieces: list[str] = self._tokenizer.convert_ids_to_tokens(list(range(self._num_words)))
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

    @torch.no_grad()
    def last_hidden_states(self, ids: list[int]) -> Tensor:
        wrapped = self.wrap_ids(ids)
        padding = [self.pad_id] * (self.max_length - len(wrapped))
        spelled = torch.tensor([[*wrapped, *padding]], device=self._table.device)
        prompt = EncoderInput.of_ids(spelled, len(wrapped))
        return self.hidden_states(prompt, self._table[:0])[0, 1 : 1 + len(ids)]

    def wrap_ids(self, ids: list[int]) -> list[int]:
        return [self._begin, *ids[: self.max_length - 2], self._end]

    def padded_length(self, longest: int) -> int:
        """All positions: the padding is read like words, and models were trained with it."""
        return self.max_length

    def hidden_states(self, prompts: EncoderInput, rows: Tensor) -> Tensor:
        """Last hidden states after the final layer norm; differentiable in rows.

        Shapes: prompts (B, S), rows (R, d) -> (B, S, d).
        """
        hidden = self._through(self._embedded(prompts, rows), self._model.encoder.layers)
        return self._model.final_layer_norm(hidden).to(self._table.dtype)

    def penultimate(self, prompts: EncoderInput, rows: Tensor) -> Tensor:
        """Hidden states before the last layer, without layer norm; differentiable in rows.

        Shapes: as `hidden_states`.
        """
        hidden = self._through(self._embedded(prompts, rows), self._model.encoder.layers[:-1])
        return hidden.to(self._table.dtype)

    def penultimate_and_summaries(
        self, prompts: EncoderInput, rows: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return `penultimate` (B, S, d) and the projected states at `pooled_index` (B, P)."""
        layers = self._model.encoder.layers
        hidden = self._through(self._embedded(prompts, rows), layers[:-1])
        last = self._model.final_layer_norm(self._through(hidden, layers[-1:]))
        # A product, not an index: the backward pass of an index adds up in no certain order.
        at_summary = (
            torch.arange(last.shape[1], device=last.device) == prompts.pooled_index[:, None]
        )
        summaries = self._projection((last * at_summary[..., None]).sum(dim=1))
        return hidden.to(self._table.dtype), summaries.to(self._table.dtype)

    def _embedded(self, prompts: EncoderInput, rows: Tensor) -> Tensor:
        model = self._model
        embedded = inject(model.embeddings.token_embedding(prompts.ids), prompts.row, rows)
        return model.embeddings(inputs_embeds=embedded).to(model.final_layer_norm.weight.dtype)

    def _through(self, hidden: Tensor, layers: Iterable[Any]) -> Tensor:
        for layer in layers:
            hidden = layer(hidden, attention_mask=None, is_causal=True)
        return hidden


def load_clip(
    checkpoint: ModelFolder,
    part: str,
    tokenizer_part: str,
    *,
    device: torch.device,
    dtype: torch.dtype,
    model_class: type[CLIPTextModel] | type[CLIPTextModelWithProjection] = CLIPTextModel,
) -> ClipTextEncoder:
    """Embeddings are in float32 always, as learned rows stand among them; layers in bfloat16 if
    dtype is that, else in float32: some CLIP models overflow in float16.

    Raises: ModelLoadError if a part is missing, damaged or does not fit.
    """
    options: dict[str, Any] = {"device": device, "dtype": torch.float32}
    model: Any = checkpoint.model(model_class, part, attn_implementation="sdpa", **options)
    if dtype == torch.bfloat16:
        text = getattr(model, "text_model", model)
        for module in (
            text.encoder,
            text.final_layer_norm,
            getattr(model, "text_projection", None),
        ):
            if module is not None:
                module.to(dtype)
    return ClipTextEncoder(
        part, model, checkpoint.read(tokenizer_part, CLIPTokenizer.from_pretrained)
    )
