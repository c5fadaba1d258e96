"""What the layers of a CLIP text encoder add to a hidden state, watched while it reads."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dti_engine.backbones.interface import Backbone
from dti_engine.errors import ConfigurationError
from dti_engine.prompts import PromptBatch, Rows
from dti_engine.vocabulary import TextEncoder


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


def clip_model(encoder: TextEncoder) -> Any:
    """The modules behind a text encoder, which are to be looked at only.

    Raises: ConfigurationError if it is not of CLIP's kind.
    """
    model: Any = getattr(encoder, "_model", None)
    if not (hasattr(model, "encoder") and hasattr(model, "embeddings")):
        raise ConfigurationError(
            f"text encoder {encoder.name!r} is not of CLIP's kind, which alone can be looked into"
        )
    return model


@torch.no_grad()
def residuals(
    backbone: Backbone, encoder: TextEncoder, prompts: PromptBatch, rows: Rows
) -> Residuals:
    """Read prompts, each with a learned row, by one of the backbone's text encoders.

    Raises: ConfigurationError if the encoder is not of CLIP's kind.
    """
    layers = clip_model(encoder).encoder.layers
    is_learned = prompts.inputs[encoder.name].row >= 0  # (N, S)
    samples, positions = torch.arange(len(is_learned)), is_learned.int().argmax(dim=1)
    starts: list[Tensor] = []
    updates: list[Tensor] = []

    def note_start(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        starts.append(arguments[0][samples, positions])

    def note_update(module: nn.Module, arguments: object, output: Any) -> None:
        added = output[0] if isinstance(output, tuple) else output  # attention gives weights too
        updates.append(added[samples, positions])

    with _removed_after() as hooks:
        hooks.append(layers[0].layer_norm1.register_forward_pre_hook(note_start))
        for layer in layers:
            hooks.append(layer.self_attn.register_forward_hook(note_update))
            hooks.append(layer.mlp.register_forward_hook(note_update))
        backbone.encode_prompts(prompts, rows)
    return Residuals(starts[0], torch.stack(updates, dim=1))


@contextmanager
def _removed_after() -> Generator[list[Any]]:
    hooks: list[Any] = []
    try:
        yield hooks
    finally:
        for hook in hooks:
            hook.remove()
