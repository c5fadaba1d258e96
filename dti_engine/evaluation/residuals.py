"""What the layers of a CLIP text encoder add to a hidden state, watched while it reads."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dti_engine.backbones.clip import ClipTextEncoder
from dti_engine.backbones.interface import Backbone
from dti_engine.encoder_inputs import PromptBatch, Rows
from dti_engine.errors import ConfigurationError
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


def clip_encoder(encoder: TextEncoder) -> ClipTextEncoder:
    """The same encoder, which can be looked into.

    Raises: ConfigurationError if it is not of CLIP's kind.
    """
    if not isinstance(encoder, ClipTextEncoder):
        raise ConfigurationError(
            f"text encoder {encoder.name!r} is not of CLIP's kind, which alone can be looked into"
        )
    return encoder


@torch.no_grad()
def residuals(
    backbone: Backbone, encoder: ClipTextEncoder, prompts: PromptBatch, rows: Rows
) -> Residuals:
    """Read prompts, each with a learned row, by one of the backbone's text encoders."""
    is_learned = prompts.inputs[encoder.name].row >= 0  # (N, S)
    samples, positions = torch.arange(len(is_learned)), is_learned.int().argmax(dim=1)
    starts: list[Tensor] = []
    updates: list[Tensor] = []

    def note_start(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        starts.append(arguments[0][samples, positions])

    def note_update(
        module: nn.Module, arguments: object, output: Tensor | tuple[Tensor, ...]
    ) -> None:
        added = output[0] if isinstance(output, tuple) else output  # attention gives weights too
        updates.append(added[samples, positions])

    with _removed_after() as hooks:
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
