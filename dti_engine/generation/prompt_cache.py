"""The prompt cache: encodes prompts for generation once, in batches of one shape; LRU."""

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
    """A prompt with everything that decides its encoding; equal keys are encoded once."""

    prompt: str
    tokens: tuple[tuple[str, LearnedToken], ...] = ()  # those it mentions, in order of binding
    instruction: bool = False

    @classmethod
    def of(
        cls, prompt: str, tokens: Mapping[str, LearnedToken] = _NONE, *, instruction: bool = False
    ) -> Self:
        """Return the key of a prompt; tokens that it does not mention are left out."""
        mentioned = tuple(each for each in tokens.items() if each[0] in prompt)
        return cls(prompt, mentioned, instruction)


_WeakKey: TypeAlias = tuple[str, tuple[tuple[str, "ref[LearnedToken]"], ...], bool]
"""A `PromptKey` with weak references, so that the cache keeps no token alive."""


class _EncodingLRU:
    """An LRU cache of encodings, bounded by their number. Thread-safe.

    An entry is dropped as soon as one of its tokens is garbage collected: it cannot be requested
    again, and nothing derived from a deleted token may stay. Garbage collection happens in any
    thread at any point, possibly while that thread holds the lock. The callback of a weak reference
    therefore only queues the token, and the next owner of the lock drops its entries.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._entries = OrderedDict[_WeakKey, Conditioning]()
        self._keys_of = dict["ref[LearnedToken]", set[_WeakKey]]()
        self._collected = deque["ref[LearnedToken]"]()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: PromptKey) -> Conditioning | None:
        # Without the lock: under the GIL a lookup is atomic, and an encoding that is dropped
        # meanwhile stays valid. It refreshes nothing, as `encode_each` puts every key that it has
        # used.
        return self._entries.get(_weak(key))

    def put(self, key: PromptKey, encoding: Conditioning) -> None:
        """Insert or refresh an entry, and evict the least recently used beyond the capacity."""
        weak_key = _weak(key)
        with self._lock:
            self._entries[weak_key] = encoding
            self._entries.move_to_end(weak_key)
            for _, token in key.tokens:
                self._keys_of.setdefault(ref(token, self._on_collected), set()).add(weak_key)
            while len(self._entries) > self._capacity:
                self._drop(next(iter(self._entries)))
        self._sweep()

    def _on_collected(self, token: "ref[LearnedToken]") -> None:
        self._collected.append(token)
        self._sweep()

    def _sweep(self) -> None:
        # Never blocks: this thread may already hold the lock, and would wait for itself. The loop
        # repeats since a token may be queued between the last check and the release.
        while self._collected and self._lock.acquire(blocking=False):
            try:
                while self._collected:
                    for key in self._keys_of.pop(self._collected.popleft(), set[_WeakKey]()):
                        self._drop(key)
            finally:
                self._lock.release()

    def _drop(self, key: _WeakKey) -> None:
        # The key may hold a dead reference. It was hashed while its token lived and keeps that
        # hash, and it still equals itself, which is enough to find it.
        del self._entries[key]
        for _, token in key[1]:
            if keys := self._keys_of.get(token):
                keys.discard(key)
                if not keys:
                    del self._keys_of[token]


def _weak(key: PromptKey) -> _WeakKey:
    tokens = tuple((name, ref(token)) for name, token in key.tokens)
    return key.prompt, tokens, key.instruction


@dataclass(eq=False)
class PromptCache:
    """Encodes prompts for one backbone, with an LRU cache of the last `capacity` encodings.

    Prompts are encoded `batch_size` at a time, padded with blank ones, so that the encoding of a
    prompt does not depend on how many others are requested, or on which are cached. For models
    whose batches are as long as their longest prompt, this holds up to rounding.
    """

    backbone: Backbone
    capacity: int = 256
    batch_size: int = 4
    _cache: _EncodingLRU = field(init=False)

    def __post_init__(self) -> None:
        if self.capacity < 0 or self.batch_size < 1:
            raise ConfigurationError(
                "capacity must be >= 0 and batch_size >= 1, "
                f"got {self.capacity} and {self.batch_size}"
            )
        self._cache = _EncodingLRU(self.capacity)

    @torch.inference_mode()
    def encode(self, keys: Sequence[PromptKey]) -> Conditioning:
        """Return the encodings of all prompts as one batch."""
        return join(self.encode_each(keys))

    @torch.inference_mode()
    def encode_each(self, keys: Sequence[PromptKey]) -> list[Conditioning]:
        """Return a batch of one per prompt, in the denoiser's dtype, without micro-conditioning.

        They are inference tensors: no gradient can flow through them.

        Raises:
            TokenError: As `prompts.bind`.
            ArtifactMismatchError: As `prompts.bind`.
        """
        # In order of first use, so that chunks, and with them rounding, are reproducible.
        distinct = dict.fromkeys(keys)
        cached = {each: self._cache.get(each) for each in distinct}
        found = {each: encoding for each, encoding in cached.items() if encoding is not None}
        missing = [each for each in distinct if each not in found]
        for start in range(0, len(missing), self.batch_size):
            chunk = missing[start : start + self.batch_size]
            found |= zip(chunk, self._encode(chunk), strict=True)
        for each in distinct:
            self._cache.put(each, found[each])
        return [found[each] for each in keys]

    def _encode(self, keys: Sequence[PromptKey]) -> Iterator[Conditioning]:
        """Encode at most `batch_size` prompts in one call; yield each as a batch of one."""
        blanks = [PromptKey("")] * (self.batch_size - len(keys))
        batch = [*keys, *blanks]
        bound = bind(
            [each.prompt for each in batch],
            [dict(each.tokens) for each in batch],
            self.backbone.text_encoders,
            [each.instruction for each in batch],
        )
        encoded, dtype = self.backbone.encode_prompts(*bound), self.backbone.dtype
        for i in range(len(keys)):
            one = slice(i, i + 1)
            yield Conditioning(
                # Copies, since a view of one sample would keep the memory of the whole batch alive.
                hidden=encoded.hidden[one].to(dtype, copy=True),
                pooled=None if encoded.pooled is None else encoded.pooled[one].to(dtype, copy=True),
                mask=None if encoded.mask is None else encoded.mask[one].clone(),
            )


def join(parts: Sequence[Conditioning]) -> Conditioning:
    """Return one batch of all parts, padded to the longest; only masked models differ in length."""
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
    """Pad (1, S, ...) with zeros to (1, length, ...)."""
    missing = length - values.shape[1]
    return torch.cat([values, values.new_zeros(1, missing, *values.shape[2:])], dim=1)
