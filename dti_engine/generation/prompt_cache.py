"""Prompts read for generating: each once, in batches of one shape, the latest kept."""

import threading
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self, TypeAlias
from weakref import ref

import torch
from torch import Tensor

from dti_engine.backbones.interface import Backbone, Conditioning
from dti_engine.errors import ConfigurationError
from dti_engine.text.prompts import bind
from dti_engine.text.tokens import LearnedToken

_NONE: Mapping[str, LearnedToken] = {}


@dataclass(frozen=True)
class PromptKey:
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


_Key: TypeAlias = tuple[str, tuple[tuple[str, "ref[LearnedToken]"], ...], bool]
"""A wording that keeps none of its tokens alive."""


class _PromptEncodings:
    """What wordings were read as, the last used at the end.

    A reading goes as soon as one of its tokens is nobody's any more: it could not be asked for
    again, and of a token that was deleted nothing is to stay. Tokens go in any thread, in the midst
    of anything, so what has gone is noted, and swept out by whoever has the lock next.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._kept = OrderedDict[_Key, Conditioning]()
        self._with = dict["ref[LearnedToken]", set[_Key]]()
        self._gone = deque["ref[LearnedToken]"]()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, wording: PromptKey) -> Conditioning | None:
        return self._kept.get(_key(wording))

    def put(self, wording: PromptKey, reading: Conditioning) -> None:
        """Keep it as the last used, in place of what has not been used for longest."""
        key = _key(wording)
        with self._lock:
            self._kept[key] = reading
            self._kept.move_to_end(key)
            for _, token in wording.tokens:
                self._with.setdefault(ref(token, self._lose), set()).add(key)
            while len(self._kept) > self._capacity:
                self._drop(next(iter(self._kept)))
        self._sweep()

    def _lose(self, token: "ref[LearnedToken]") -> None:
        self._gone.append(token)
        self._sweep()

    def _sweep(self) -> None:
        # Never waits: this thread may be the one that has the lock.
        while self._gone and self._lock.acquire(blocking=False):
            try:
                while self._gone:
                    for key in self._with.pop(self._gone.popleft(), set[_Key]()):
                        self._drop(key)
            finally:
                self._lock.release()

    def _drop(self, key: _Key) -> None:
        del self._kept[key]
        for _, token in key[1]:
            if keys := self._with.get(token):
                keys.discard(key)
                if not keys:
                    del self._with[token]


def _key(wording: PromptKey) -> _Key:
    tokens = tuple((name, ref(token)) for name, token in wording.tokens)
    return wording.prompt, tokens, wording.instruction


@dataclass(eq=False)
class PromptCache:
    """Reads prompts for one backbone, and remembers the last `capacity` of them, each for as long
    as somebody has its tokens.

    Prompts are read `batch_size` at a time, blank ones added, so that what becomes of a prompt does
    not depend on how many others were asked for, or on which were known; but for rounding, where a
    model's batches are as long as their longest prompt.
    """

    backbone: Backbone
    capacity: int = 256
    batch_size: int = 4
    _known: _PromptEncodings = field(init=False)

    def __post_init__(self) -> None:
        if self.capacity < 0 or self.batch_size < 1:
            raise ConfigurationError(
                "capacity must be >= 0 and batch_size >= 1, "
                f"got {self.capacity} and {self.batch_size}"
            )
        self._known = _PromptEncodings(self.capacity)

    @torch.inference_mode()
    def read(self, wordings: Sequence[PromptKey]) -> Conditioning:
        """All of them as one batch: `read_each`, joined."""
        return join(self.read_each(wordings))

    @torch.inference_mode()
    def read_each(self, wordings: Sequence[PromptKey]) -> list[Conditioning]:
        """Return one batch of one per prompt, in the denoiser's dtype, without micro-conditioning.

        They are inference tensors: no gradient can flow through them.

        Raises: as `bind`.
        """
        wanted = dict.fromkeys(wordings)
        known = {each: self._known.get(each) for each in wanted}
        found = {each: reading for each, reading in known.items() if reading is not None}
        missing = [each for each in wanted if each not in found]
        for start in range(0, len(missing), self.batch_size):
            chunk = missing[start : start + self.batch_size]
            found |= zip(chunk, self._read(chunk), strict=True)
        for each in wanted:
            self._known.put(each, found[each])
        return [found[each] for each in wordings]

    def _read(self, wordings: Sequence[PromptKey]) -> Iterator[Conditioning]:
        """One batch of at most `batch_size`; each as a batch of one."""
        blanks = [PromptKey("")] * (self.batch_size - len(wordings))
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
    micro_conditionings = [
        each.micro_conditioning for each in parts if each.micro_conditioning is not None
    ]
    return Conditioning(
        hidden=torch.cat([_padded(each.hidden, longest) for each in parts]),
        pooled=torch.cat(pooled) if pooled else None,
        mask=torch.cat(masks) if masks else None,
        micro_conditioning=torch.cat(micro_conditionings) if micro_conditionings else None,
    )


def _padded(values: Tensor, length: int) -> Tensor:
    """(1, S, ...) -> (1, length, ...), with zeros."""
    missing = length - values.shape[1]
    return torch.cat([values, values.new_zeros(1, missing, *values.shape[2:])], dim=1)
