"""A CLIP text encoder that takes learned rows as an argument."""

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
    """A `TextEncoder` of one CLIP model and its tokenizer, neither of which is ever modified.

    The modules of the model are called one by one, because its `forward` takes only ids. Without
    learned rows the results are those of `forward`, bit for bit. Embeddings are summed in the dtype
    of their table, and results have that dtype too, whatever dtype the layers compute in.
    """

    def __init__(
        self,
        name: str,
        model: CLIPTextModel | CLIPTextModelWithProjection,
        tokenizer: CLIPTokenizer,
    ) -> None:
        """Wrap a model whose attention is "sdpa", which applies the causal mask itself.

        Raises:
            ModelLoadError: The tokenizer has more tokens than the model.
        """
        # Nested in transformers 4, and in the class with a projection in every version.
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
        """Return the position embeddings (max_length, d), detached."""
        return self._model.embeddings.position_embedding.weight.detach()

    @property
    def layers(self) -> Sequence[CLIPEncoderLayer]:
        """Return the layers, so that hooks can record their outputs."""
        return list(self._model.encoder.layers)

    @property
    def summary_dim(self) -> int | None:
        """Return the dimension of the pooled summaries, or None without a projection."""
        return None if self._projection is None else self._projection.out_features

    def vocabulary(self) -> Tensor:
        # Tables are padded to round sizes. The rows behind the last word are no words, and would
        # change m* and the fingerprint.
        return self._table.detach()[: self._num_words]

    def words(self) -> list[str]:
        """Return the vocabulary for people; a piece that cannot end a word ends in "-"."""
        pieces: list[str] = self._tokenizer.convert_ids_to_tokens(list(range(self._num_words)))
        whole = ("</w>", "|>")
        return [p.removesuffix("</w>") if p.endswith(whole) else f"{p}-" for p in pieces]

    def segment_ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        # The tokenizer takes such text for the marks themselves, and an end inside of a prompt
        # would be taken for its end. CLIP's unknown token is its end mark, too.
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
        """Return all positions: models attend to padding, and were trained with it."""
        return self.max_length

    def hidden_states(self, prompts: EncoderInput, rows: Tensor) -> Tensor:
        """Return the last hidden states after the final layer norm; differentiable in rows.

        Shapes: prompts (B, S), rows (R, d) -> (B, S, d).
        """
        hidden = self._through(self._embedded(prompts, rows), self._model.encoder.layers)
        return self._model.final_layer_norm(hidden).to(self._table.dtype)

    def penultimate(self, prompts: EncoderInput, rows: Tensor) -> Tensor:
        """Return the states before the last layer, without layer norm; differentiable in rows.

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
        # A product with a mask, not an index: on CUDA the backward pass of an index adds up in an
        # undefined order, and training must be deterministic.
        at_summary = (
            torch.arange(last.shape[1], device=last.device) == prompts.pooled_index[:, None]
        )
        summaries = self._projection((last * at_summary[..., None]).sum(dim=1))
        return hidden.to(self._table.dtype), summaries.to(self._table.dtype)

    def _embedded(self, prompts: EncoderInput, rows: Tensor) -> Tensor:
        model = self._model
        # Positions are added after the injection, and rounding to the layers' dtype comes last: a
        # learned row passes through everything that the row of a word passes through.
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
    """Load a CLIP model and its tokenizer.

    Embeddings are always float32, since learned rows are injected among them. Layers are bfloat16
    if dtype is, else float32, since some CLIP models overflow in float16.

    Raises:
        ModelLoadError: A part is missing, damaged or does not fit.
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
