"""The blend cache: correct blends, kept, and dropped with any of their tokens."""

import threading
from typing import Any

import pytest
import torch

from dti_engine.backbones.interface import Backbone
from dti_engine.errors import AntipodalError, ArtifactMismatchError
from dti_engine.generation.prompt_cache import PromptCache, PromptKey
from dti_engine.text.tokens import LearnedToken, mean_tokens, slerp_tokens
from services.errors import DeletedError, UnknownJobError
from services.inference.tokens.blends import BlendCache
from services.inference.tokens.loader import ModelSignature, num_bytes_of
from services.ledger.deletion import delete_token


def _rows(token: Any) -> torch.Tensor:
    return token.embeddings["text_encoder"]


def _count(blends: BlendCache) -> int:
    assert bool(blends._entries) == bool(blends._blends_of)  # pyright: ignore[reportPrivateUsage]
    return len(blends._entries)  # pyright: ignore[reportPrivateUsage]


def test_two_tokens_are_blended_by_slerp_and_more_by_their_mean(in_memory: Any) -> None:
    cache = in_memory.cache()
    blends = BlendCache(cache)
    names = [in_memory.learn(f"s{i}") for i in range(3)]
    a, b, c = (cache.get("acme", name).learned for name in names)
    two = blends.blend("acme", [(names[0], 3), (names[1], 1)])
    expected = slerp_tokens(a, b, 0.25, placeholder="<x>")
    assert torch.equal(_rows(two.learned), _rows(expected))
    assert two.origin == {
        "blend_of": [
            cache.get("acme", names[0]).origin | {"share": 0.75},
            cache.get("acme", names[1]).origin | {"share": 0.25},
        ]
    }
    three = blends.blend("acme", [(names[0], 1), (names[1], 1), (names[2], 2)])
    expected = mean_tokens([(a, 1), (b, 1), (c, 2)], placeholder="<x>")
    assert torch.allclose(_rows(three.learned), _rows(expected))


def test_a_blend_is_made_once_and_is_the_same_object(in_memory: Any, at_once: Any) -> None:
    one, two, cache = in_memory.learn("one"), in_memory.learn("two"), in_memory.cache()
    blends = BlendCache(cache)
    got = at_once(30, lambda: blends.blend("acme", [("one", 1), (two, 3)]).learned)
    assert len({id(learned) for learned in got}) == 1
    assert blends.blend("acme", [(one, 2), ("two", 6)]).learned is got[0]
    assert blends.blend("acme", [(one, 3), (two, 1)]).learned is not got[0]
    assert blends.blend("acme", [(two, 3), (one, 1)]).learned is not got[0]
    assert _count(blends) == 3


@pytest.mark.parametrize("end", [0, 1])
def test_both_ends_must_be_the_tenants_own(in_memory: Any, end: int) -> None:
    one, second = in_memory.learn("one"), in_memory.learn("two")
    other_token, cache = in_memory.learn(tenant="other"), in_memory.cache()
    blends = BlendCache(cache)
    cache.get("other", other_token)
    blends.blend("acme", [(one, 1), (second, 1)])
    parts = [(one, 1), (second, 1)]
    parts[end] = (other_token, 1)
    with pytest.raises(UnknownJobError, match="acme has no token"):
        blends.blend("acme", parts)
    with pytest.raises(UnknownJobError, match="other has no token"):
        blends.blend("other", [(one, 1), (second, 1)])


@pytest.mark.parametrize("end", [0, 1])
def test_a_blend_is_dropped_with_either_of_its_tokens(anywhere: Any, end: int) -> None:
    names, cache = [anywhere.learn("one"), anywhere.learn("two")], anywhere.cache()
    other = anywhere.learn("three")
    blends = BlendCache(cache)
    parts = [(name, 1) for name in names]
    blends.blend("acme", parts)
    mixed = blends.blend("acme", [(names[1 - end], 1), (other, 1)]).learned
    assert _count(blends) == 2
    delete_token(anywhere.elsewhere, "acme", names[end])
    anywhere.seconds += 30
    with pytest.raises(DeletedError, match=f"token {names[end]} was deleted"):
        blends.blend("acme", parts)
    assert _count(blends) == 1
    assert blends.blend("acme", [(names[1 - end], 1), (other, 1)]).learned is mixed


def test_prompt_encodings_with_a_deleted_token_are_dropped(
    in_memory: Any, tiny_backbone: Backbone
) -> None:
    names = [
        in_memory.learn(name, payload=in_memory.artifact(dim=32).to_bytes())
        for name in ("one", "two")
    ]
    cache = in_memory.cache(signature=ModelSignature({"text_encoder": 32}, "0" * 64))
    blends, prompt_cache = BlendCache(cache), PromptCache(tiny_backbone)

    def encode(*learned: LearnedToken) -> None:
        prompt_cache.encode([PromptKey.of("a photo of a <x>", {"<x>": each}) for each in learned])

    encode(
        *(cache.get("acme", name).learned for name in names),
        blends.blend("acme", [(name, 1) for name in names]).learned,
    )
    assert len(prompt_cache._cache) == 3  # pyright: ignore[reportPrivateUsage]
    delete_token(in_memory.elsewhere, "acme", names[0])
    in_memory.seconds += 30
    with pytest.raises(DeletedError):
        cache.get("acme", names[0])
    assert len(prompt_cache._cache) == 1  # pyright: ignore[reportPrivateUsage]


def test_a_blend_is_dropped_with_a_token_that_was_evicted_before(in_memory: Any) -> None:
    one, two = in_memory.learn("one"), in_memory.learn("two")
    cache = in_memory.cache(capacity_bytes=1)
    blends = BlendCache(cache)
    blends.blend("acme", [(one, 1), (two, 1)])
    assert _count(blends) == 1
    delete_token(in_memory.elsewhere, "acme", one)
    with pytest.raises(DeletedError):
        cache.get("acme", one)
    assert _count(blends) == 0


def test_a_blend_is_not_kept_if_a_token_is_deleted_meanwhile(
    in_memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, cache = in_memory.learn("one"), in_memory.learn("two"), in_memory.cache()
    blends = BlendCache(cache)
    making, deleted = threading.Event(), threading.Event()

    def be_slow(*arguments: Any, **how: Any) -> Any:
        making.set()
        assert deleted.wait(20)
        return slerp_tokens(*arguments, **how)

    monkeypatch.setattr("services.inference.tokens.blends.slerp_tokens", be_slow)
    thread = threading.Thread(target=lambda: blends.blend("acme", [(one, 1), (two, 1)]))
    thread.start()
    assert making.wait(20)
    delete_token(in_memory.elsewhere, "acme", two)
    in_memory.seconds += 30
    with pytest.raises(DeletedError):
        cache.get("acme", two)
    deleted.set()
    thread.join(20)
    assert _count(blends) == 0


def test_blends_have_a_bound_of_their_own(in_memory: Any, recorded: Any) -> None:
    one, two, cache = in_memory.learn("one"), in_memory.learn("two"), in_memory.cache()
    size = num_bytes_of(cache.get("acme", one).learned)
    blends = BlendCache(cache, capacity_bytes=2 * size)
    first = blends.blend("acme", [(one, 1), (two, 1)]).learned
    for weight in range(2, 20):
        blends.blend("acme", [(one, 1), (two, weight)])
    assert _count(blends) == 2
    assert recorded.gauges["dti_token_cache_entries", "blend"] == 2
    assert recorded.gauges["dti_token_cache_bytes", "blend"] == 2 * size
    assert blends.blend("acme", [(one, 1), (two, 1)]).learned is not first
    delete_token(in_memory.elsewhere, "acme", one)
    in_memory.seconds += 30
    with pytest.raises(DeletedError):
        cache.get("acme", one)
    assert _count(blends) == 0


def test_tokens_that_cannot_be_blended_are_an_error(in_memory: Any) -> None:
    row = torch.ones(1, 8)
    there, back, longer = (
        in_memory.learn(payload=in_memory.artifact(rows=rows).to_bytes())
        for rows in (row, -row, torch.ones(2, 8))
    )
    blends = BlendCache(in_memory.cache())
    with pytest.raises(AntipodalError):
        blends.blend("acme", [(there, 1), (back, 1)])
    with pytest.raises(ArtifactMismatchError):
        blends.blend("acme", [(there, 1), (longer, 1)])
    assert _count(blends) == 0


def test_a_blend_of_a_token_with_itself_is_that_token(in_memory: Any) -> None:
    token, cache = in_memory.learn(), in_memory.cache()
    blended = BlendCache(cache).blend("acme", [(token, 1), ("rex", 2)]).learned
    assert torch.allclose(_rows(blended), _rows(cache.get("acme", token).learned), atol=1e-6)
