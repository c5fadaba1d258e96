"""Prompts read for painting: each once, in batches of one shape, the latest kept."""

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

from dti_engine.backbones.interface import Backbone, Conditioning
from dti_engine.errors import ConfigurationError
from dti_engine.prompts import bind
from dti_engine.tokens import LearnedToken

_NONE: Mapping[str, LearnedToken] = {}


@dataclass(frozen=True)
class Wording:
    """A prompt with all that decides how it is read. Equal ones are read once."""

    prompt: str
    tokens: tuple[tuple[str, LearnedToken], ...] = ()  # those it mentions, in order of binding
    instruction: bool = False

    @classmethod
    def of(
        cls, prompt: str, tokens: Mapping[str, LearnedToken] = _NONE, *, instruction: bool = False
    ) -> Self:
        """tokens may hold others than those that the prompt mentions."""
        mentioned = tuple(each for each in tokens.items() if each[0] in prompt)
        return cls(prompt, mentioned, instruction)


@dataclass(eq=False)
class PromptReader:
    """Reads prompts for one backbone, and remembers the last `capacity` of them.

    Prompts are read `batch_size` at a time, blank ones added, so that what becomes of a prompt does
    not depend on how many others were asked for, or on which were known; but for rounding, where a
    model's batches are as long as their longest prompt.
    """

    backbone: Backbone
    capacity: int = 256
    batch_size: int = 4
    _known: OrderedDict[Wording, Conditioning] = field(
        default_factory=OrderedDict[Wording, Conditioning]
    )

    def __post_init__(self) -> None:
        if self.capacity < 0 or self.batch_size < 1:
            raise ConfigurationError(
                "capacity must be >= 0 and batch_size >= 1, "
                f"got {self.capacity} and {self.batch_size}"
            )

    @torch.inference_mode()
    def read(self, wordings: Sequence[Wording]) -> Conditioning:
        """All of them as one batch: `read_each`, joined."""
        return join(self.read_each(wordings))

    @torch.inference_mode()
    def read_each(self, wordings: Sequence[Wording]) -> list[Conditioning]:
        """A batch of one for each, in order, in the dtype of the denoiser; without framing. Made
        for inference: no gradient can ever go through them.

        Raises: as `bind`.
        """
        found = {each: self._known[each] for each in wordings if each in self._known}
        missing = [each for each in dict.fromkeys(wordings) if each not in found]
        for start in range(0, len(missing), self.batch_size):
            chunk = missing[start : start + self.batch_size]
            found |= zip(chunk, self._read(chunk), strict=True)
        for each in dict.fromkeys(wordings):
            self._known[each] = found[each]
            self._known.move_to_end(each)
        while len(self._known) > self.capacity:
            self._known.popitem(last=False)
        return [found[each] for each in wordings]

    def _read(self, wordings: Sequence[Wording]) -> Iterator[Conditioning]:
        """One batch of at most `batch_size`; each as a batch of one."""
        blanks = [Wording("")] * (self.batch_size - len(wordings))
        batch = [*wordings, *blanks]
        bound = bind(
            [each.prompt for each in batch],
            [dict(each.tokens) for each in batch],
            self.backbone.text_encoders,
            [each.instruction for each in batch],
        )
        read, dtype = self.backbone.encode_prompts(*bound), self.backbone.dtype
        for i in range(len(wordings)):
            one = slice(i, i + 1)
            yield Conditioning(
                # Copies: a view would keep all of the batch for one of it.
                hidden=read.hidden[one].to(dtype, copy=True),
                pooled=None if read.pooled is None else read.pooled[one].to(dtype, copy=True),
                mask=None if read.mask is None else read.mask[one].clone(),
            )


def join(parts: Sequence[Conditioning]) -> Conditioning:
    """One batch of them. Those of masked models may differ in length; they are padded."""
    longest = max(each.hidden.shape[1] for each in parts)
    pooled = [each.pooled for each in parts if each.pooled is not None]
    masks = [_padded(each.mask, longest) for each in parts if each.mask is not None]
    framings = [each.framing for each in parts if each.framing is not None]
    return Conditioning(
        hidden=torch.cat([_padded(each.hidden, longest) for each in parts]),
        pooled=torch.cat(pooled) if pooled else None,
        mask=torch.cat(masks) if masks else None,
        framing=torch.cat(framings) if framings else None,
    )


def _padded(values: Tensor, length: int) -> Tensor:
    """(1, S, ...) -> (1, length, ...), with zeros."""
    missing = length - values.shape[1]
    return torch.cat([values, values.new_zeros(1, missing, *values.shape[2:])], dim=1)
