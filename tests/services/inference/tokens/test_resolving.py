"""The resolver of an image's placeholders."""

import threading
from typing import Any

import pytest

from dti_engine.errors import ConfigurationError
from services.contracts.generation import BlendPart, ImageSpec
from services.errors import UnknownJobError
from services.inference.tokens.blends import BlendCache, PlaceholderResolver


def _resolver(cache: Any) -> PlaceholderResolver:
    return PlaceholderResolver(cache, BlendCache(cache))


def _image(**how: Any) -> ImageSpec:
    return ImageSpec(prompt="a photo", seed=0, **how)


def test_tokens_and_blends_are_resolved_with_their_origins(in_memory: Any) -> None:
    one, two, cache = in_memory.learn("one"), in_memory.learn("two"), in_memory.cache()
    resolver = _resolver(cache)
    image = _image(
        tokens={"<a>": one, "<b>": "two", "<c>": "one"},
        blends={"<mix>": (BlendPart(token="one", weight=1), BlendPart(token=two, weight=3))},
    )
    found, again = resolver.resolve("acme", image), resolver.resolve("acme", image)
    assert list(found.tokens) == list(found.origins) == ["<a>", "<b>", "<c>", "<mix>"]
    assert found.tokens["<a>"] is found.tokens["<c>"] is cache.get("acme", one).learned
    assert found.origins["<b>"] == cache.get("acme", two).origin
    origins = [cache.get("acme", name).origin for name in (one, two)]
    shared = [o | {"share": s} for o, s in zip(origins, (0.25, 0.75), strict=True)]
    assert found.origins["<mix>"] == {"blend_of": shared}
    assert all(again.tokens[name] is token for name, token in found.tokens.items())
    assert _resolver(cache).resolve("acme", _image()).tokens == {}


def test_cold_tokens_of_an_image_are_fetched_at_the_same_time(in_memory: Any) -> None:
    names = [in_memory.learn(f"s{i}") for i in range(6)]
    together = threading.Barrier(6, timeout=20)
    in_memory.store.before = lambda name, key: together.wait()
    blends = {"<mix>": tuple(BlendPart(token=name, weight=1) for name in names[3:])}
    tokens = {f"<{i}>": name for i, name in enumerate(names[:3])}
    resolver = _resolver(in_memory.cache())
    assert len(resolver.resolve("acme", _image(tokens=tokens, blends=blends)).tokens) == 4


def test_the_first_error_is_raised(in_memory: Any) -> None:
    one = in_memory.learn("one")
    resolver = _resolver(in_memory.cache())
    with pytest.raises(UnknownJobError, match="'two'"):
        resolver.resolve("acme", _image(tokens={"<a>": one, "<b>": "two", "<c>": "three"}))
    parts = (BlendPart(token=one, weight=1), BlendPart(token="four", weight=1))
    with pytest.raises(UnknownJobError, match="'four'"):
        resolver.resolve("acme", _image(blends={"<a>": parts}))


def test_a_placeholder_stands_for_one_thing(in_memory: Any) -> None:
    one = in_memory.learn("one")
    parts = (BlendPart(token=one, weight=1), BlendPart(token=one, weight=1))
    with pytest.raises(ConfigurationError, match="<a> is given as a token and as a blend"):
        _resolver(in_memory.cache()).resolve(
            "acme", _image(tokens={"<a>": one}, blends={"<a>": parts})
        )


def test_tokens_are_resolved_for_their_own_tenant_alone(in_memory: Any) -> None:
    """Two tenants use one name; neither reaches the other's token by name, id or blend."""
    ids = {tenant: in_memory.learn("rex", tenant) for tenant in ("acme", "globex")}
    cache = in_memory.cache()
    resolver = _resolver(cache)
    for _ in range(2):  # cold, and from the cache
        for tenant, other in (("acme", "globex"), ("globex", "acme")):
            own = BlendPart(token=ids[tenant], weight=1)
            foreign = BlendPart(token=ids[other], weight=1)
            image = _image(tokens={"<a>": "rex", "<b>": ids[tenant]}, blends={"<c>": (own, own)})
            found = resolver.resolve(tenant, image)
            expected = cache.get(tenant, ids[tenant])
            assert found.tokens["<a>"] is found.tokens["<b>"] is expected.learned
            for crossing in (
                _image(tokens={"<a>": ids[other]}),
                _image(blends={"<a>": (own, foreign)}),
                _image(blends={"<a>": (foreign, own)}),
            ):
                with pytest.raises(UnknownJobError):
                    resolver.resolve(tenant, crossing)
