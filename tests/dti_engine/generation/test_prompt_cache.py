"""Prompts are read once, and come out the same whoever else is read."""

from queue import Queue
from threading import Thread
from typing import Any

import pytest
import torch

from dti_engine.backbones.interface import Backbone, Conditioning
from dti_engine.errors import ConfigurationError
from dti_engine.generation.prompt_cache import PromptCache, PromptKey
from dti_engine.text.inputs import PromptBatch, Rows
from dti_engine.text.prompts import bind
from dti_engine.text.tokens import LearnedToken


class Counting:
    """A backbone that notes how many prompts it is asked to read at once."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self.sizes: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)

    def encode_prompts(self, prompts: PromptBatch, rows: Rows) -> Conditioning:
        conditioning = self._backbone.encode_prompts(prompts, rows)
        self.sizes.append(len(conditioning.hidden))
        return conditioning


@pytest.fixture
def backbone(tiny_backbone: Backbone) -> Any:
    return Counting(tiny_backbone)


def token() -> LearnedToken:
    return LearnedToken("<rex>", {"text_encoder": torch.randn(1, 32)})


def test_a_cached_prompt_is_what_the_backbone_encodes(backbone: Any) -> None:
    rex, prompts = token(), ["a photo of <rex>", "a red dog"]
    read = PromptCache(backbone).encode([PromptKey.of(each, {"<rex>": rex}) for each in prompts])
    bound = bind(prompts, [{"<rex>": rex}] * 2, backbone.text_encoders)
    torch.testing.assert_close(
        read.hidden, backbone.encode_prompts(*bound).hidden, rtol=0, atol=1e-5
    )
    assert read.hidden.dtype == backbone.dtype
    assert read.micro_conditioning is None


def test_equal_prompts_are_read_once_and_known_ones_not_at_all(backbone: Any) -> None:
    cache, rex = PromptCache(backbone), token()
    keys = [PromptKey.of("a <rex>", {"<rex>": rex}), *[PromptKey("blurry")] * 9]
    first = cache.encode(keys)
    assert first.hidden.shape[0] == 10
    assert backbone.sizes == [4]
    assert torch.equal(cache.encode(keys).hidden, first.hidden)
    assert backbone.sizes == [4]


def test_a_token_of_the_same_name_or_another_instruction_is_another_prompt(backbone: Any) -> None:
    cache = PromptCache(backbone)
    one, other = (PromptKey.of("a <rex>", {"<rex>": token()}) for _ in "ab")
    read = cache.encode([one, other, PromptKey("a dog"), PromptKey("a dog", instruction=True)])
    assert not torch.equal(read.hidden[0], read.hidden[1])
    assert len(cache._cache) == 4


def test_a_cached_prompt_holds_only_its_own_part_of_a_batch(backbone: Any) -> None:
    cache = PromptCache(backbone)
    cache.encode([PromptKey("a dog")])
    (encoding,) = cache.encode_each([PromptKey("a dog")])
    assert backbone.sizes == [4]
    assert encoding.hidden.untyped_storage().nbytes() == encoding.hidden.nbytes


def test_tokens_that_a_prompt_does_not_mention_do_not_count(backbone: Any) -> None:
    keys = [PromptKey.of("blurry", {"<rex>": token()}) for _ in range(3)]
    assert len(set(keys)) == 1


def test_neighbours_and_cached_prompts_change_no_bit(backbone: Any) -> None:
    keys = [PromptKey(text) for text in ("a dog", "a cat", "a bird", "a bear", "a toy", "snow")]
    together = PromptCache(backbone).encode(keys).hidden
    cache = PromptCache(backbone)
    cache.encode(keys[3:5])
    assert torch.equal(cache.encode(keys).hidden, together)
    alone = torch.cat([PromptCache(backbone).encode([each]).hidden for each in keys])
    assert torch.equal(alone, together)


def test_the_latest_are_kept_and_a_batch_may_be_larger_than_the_memory(backbone: Any) -> None:
    cache = PromptCache(backbone, capacity=2, batch_size=1)
    cache.encode([PromptKey("a dog"), PromptKey("a cat")])
    cache.encode([PromptKey("a dog"), PromptKey("snow")])  # forgets the cat
    assert backbone.sizes == [1] * 3
    cache.encode([PromptKey("a dog")])
    assert backbone.sizes == [1] * 3
    assert (
        cache.encode([PromptKey(text) for text in ("a cat", "a bird", "sand")]).hidden.shape[0] == 3
    )
    assert len(cache._cache) == 2


def test_prompts_of_a_token_are_dropped_with_it(backbone: Any) -> None:
    cache, rex, tom = PromptCache(backbone), token(), token()
    texts = ("a <rex>", "a <rex> by <tom>", "a <tom>", "snow")
    cache.encode([PromptKey.of(text, {"<rex>": rex, "<tom>": tom}) for text in texts])
    assert len(cache._cache) == 4
    del rex
    assert len(cache._cache) == 2
    sizes = list(backbone.sizes)
    cache.encode([PromptKey.of("a <tom>", {"<tom>": tom}), PromptKey("snow")])
    assert backbone.sizes == sizes
    del tom
    assert len(cache._cache) == 1
    assert not cache._cache._keys_of


def test_tokens_that_are_dropped_in_other_threads_do_not_disturb_encoding(backbone: Any) -> None:
    cache, tokens = PromptCache(backbone, capacity=8), Queue[LearnedToken | None]()

    def lose() -> None:
        while tokens.get() is not None:
            pass

    thread = Thread(target=lose)
    thread.start()
    for number in range(200):
        rex = token()
        cache.encode([PromptKey.of(f"a {number % 3} <rex>", {"<rex>": rex}), PromptKey("snow")])
        tokens.put(rex)
        del rex
    tokens.put(None)
    thread.join(30)
    assert not thread.is_alive()
    assert len(cache._cache) == 1
    assert not cache._cache._keys_of


def test_masked_prompts_of_different_lengths_are_padded() -> None:
    class Masked:
        text_encoders: dict[str, Any] = {}  # noqa: RUF012
        dtype = torch.float32
        length = 2

        def encode_prompts(self, prompts: PromptBatch, rows: Rows) -> Conditioning:
            self.length += 1
            hidden = torch.ones(1, self.length, 5)
            return Conditioning(hidden, mask=torch.ones(1, self.length))

    cache: Any = PromptCache(Masked(), batch_size=1)  # type: ignore[arg-type]
    read = cache.encode([PromptKey("one"), PromptKey("two")])
    assert read.hidden.shape == (2, 4, 5)
    assert read.mask.tolist() == [[1, 1, 1, 0], [1] * 4]
    assert not bool(read.hidden[0, 3:].any())


@pytest.mark.parametrize(("capacity", "batch_size"), [(-1, 4), (4, 0)])
def test_impossible_sizes_are_refused(backbone: Any, capacity: int, batch_size: int) -> None:
    with pytest.raises(ConfigurationError, match=f"got {capacity} and {batch_size}"):
        PromptCache(backbone, capacity=capacity, batch_size=batch_size)
