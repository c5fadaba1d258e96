"""The layers of Gemma 2, and keys and values of what stands before every prompt, read once.

A decoder looks back only, so that a prefix has the same states whatever comes behind it.

Shapes: B samples, S positions, P positions of the prefix, K = P + S of keys, d coordinates.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import Gemma2Model


class PrefixedDecoder:
    """Reads inputs behind the prefix, or behind its first position alone, both in one batch.

    `first` is the last hidden state of the prefix's first position, (1, 1, d): that of all samples,
    as it sees nothing but itself. The layers are run by themselves, because the model's `forward`
    takes neither masks for such a mixture nor a cache that is only read.
    """

    def __init__(self, model: Gemma2Model, prefix: Tensor) -> None:
        """prefix: (1, P, d), embedded. The model lies on the device where it will stay, and attends
        by "eager": in some versions of transformers, "sdpa" leaves out the cap on logits.
        """
        self._model: Any = model
        self._length = prefix.shape[1]
        positions = torch.arange(self._length, device=prefix.device)[None]
        visible = torch.ones_like(positions, dtype=torch.bool)
        recording = _Recording()
        with torch.no_grad():
            masks = self._masks(positions, positions, visible)
            self.first = self._through(prefix, positions, masks, recording)[:, :1].clone()
        self._stored = _Stored(recording.layers)

    def states(self, embedded: Tensor, whole: Tensor) -> Tensor:
        """Last hidden states of inputs (B, S, d) after the final norm; differentiable in them.

        whole: (B,) bool, whether all of the prefix stands before a sample, or its first position.
        """
        size, length = embedded.shape[:2]
        device = embedded.device
        before = torch.arange(self._length, device=device).expand(size, -1)
        start = torch.where(whole, self._length, 1)
        positions = start[:, None] + torch.arange(length, device=device)
        visible = torch.cat(
            [whole[:, None] | (before == 0), torch.ones_like(positions, dtype=torch.bool)], dim=1
        )
        masks = self._masks(positions, torch.cat([before, positions], dim=1), visible)
        return self._through(embedded, positions, masks, self._stored)

    def _masks(self, queries: Tensor, keys: Tensor, visible: Tensor) -> Mapping[str, Tensor]:
        """Kind of layer -> (B, 1, S, K), added to the logits of attention.

        Shapes: positions of queries (B, S) and keys (B, K), visible (B, K) bool.
        """
        distance = queries[:, :, None] - keys[:, None, :]
        seen = {"full_attention": (distance >= 0) & visible[:, None, :]}
        if window := self._model.config.sliding_window:
            seen["sliding_attention"] = seen["full_attention"] & (distance < window)
        dtype = self._model.norm.weight.dtype
        nothing = torch.zeros((), dtype=dtype, device=queries.device)
        return {
            kind: torch.where(each, nothing, torch.finfo(dtype).min)[:, None]
            for kind, each in seen.items()
        }

    def _through(
        self,
        hidden: Tensor,
        positions: Tensor,
        masks: Mapping[str, Tensor],
        keys: "_Recording | _Stored",
    ) -> Tensor:
        rotations = self._model.rotary_emb(hidden, positions)
        kinds: list[str] = self._model.config.layer_types
        for layer, kind in zip(self._model.layers, kinds, strict=True):
            hidden = layer(
                hidden,
                attention_mask=masks[kind],
                position_embeddings=rotations,
                position_ids=positions,
                past_key_values=keys,
            )
        return self._model.norm(hidden)


# What layers take for a cache is anything with this method, by which they add keys and values,
# (B, heads, S, d of a head) each, and get those that they shall attend to.


class _Recording:
    """Keeps those of every layer."""

    def __init__(self) -> None:
        self.layers: list[tuple[Tensor, Tensor]] = []

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any) -> tuple[Tensor, Tensor]:
        self.layers.append((keys, values))
        return keys, values


class _Stored:
    """Puts stored ones, of one sample, before those of every sample, and keeps nothing."""

    def __init__(self, layers: list[tuple[Tensor, Tensor]]) -> None:
        self._layers = tuple(layers)

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any) -> tuple[Tensor, Tensor]:
        before_keys, before_values = (
            each.expand(len(keys), -1, -1, -1) for each in self._layers[layer]
        )
        return torch.cat([before_keys, keys], dim=2), torch.cat([before_values, values], dim=2)
