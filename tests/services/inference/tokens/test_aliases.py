"""Aliases: the newest token of a subject that fits the model, soon after it is trained."""

from typing import Any

import pytest

from dti_engine.errors import ArtifactMismatchError
from services.errors import DamagedRecordError, UnavailableError, UnknownJobError
from services.ledger import aliases
from services.ledger.deletion import delete_token
from services.ledger.ids import token_id


def test_an_alias_stands_for_a_new_token_after_five_seconds(anywhere: Any) -> None:
    old, cache = anywhere.learn(), anywhere.cache()
    assert cache.get("acme", "rex").token == old
    new = anywhere.learn()
    anywhere.seconds += 4
    assert cache.get("acme", "rex").token == old
    anywhere.seconds += 1
    assert cache.get("acme", "rex").token == new
    assert cache.get("acme", old).token == old


def test_an_alias_in_use_costs_a_listing_every_five_seconds(studio: Any) -> None:
    studio.learn()
    cache = studio.cache()
    for _ in range(10):
        cache.get("acme", "rex")
    assert studio.asked() == ["list", "read"]
    studio.seconds += 5
    cache.get("acme", "rex")
    assert studio.asked() == ["list", "read", "list"]


def test_index_entries_without_a_token_are_skipped(studio: Any) -> None:
    stands, gone = studio.learn(), studio.learn()
    delete_token(studio.elsewhere, "acme", gone)
    aliases.add(studio.elsewhere.store, "acme", "rex", token_id(studio.submit(), 0, 0))
    aliases.add(studio.elsewhere.store, "acme", "rex", "0 no token")
    assert studio.cache().get("acme", "rex").token == stands


def test_after_a_deletion_the_alias_stands_for_the_token_before(
    studio: Any, eventually: Any
) -> None:
    old, new, cache = studio.learn(), studio.learn(), studio.cache()
    assert cache.get("acme", "rex").token == new
    studio.seconds += 12
    assert cache.get("acme", "rex").token == new
    delete_token(studio.elsewhere, "acme", new)
    studio.seconds += 4
    assert cache.get("acme", "rex").token == new  # The store is asked meanwhile.
    eventually(lambda: cache.is_known_bad("acme", new))
    assert cache.get("acme", "rex").token == old
    delete_token(studio.elsewhere, "acme", old)
    studio.seconds += 30
    with pytest.raises(UnknownJobError, match="acme has no token of a subject 'rex'"):
        cache.get("acme", "rex")


def test_aliases_belong_to_one_tenant(studio: Any) -> None:
    ours, theirs = studio.learn(), studio.learn(tenant="other")
    cache = studio.cache()
    assert cache.get("acme", "rex").token == ours
    assert cache.get("other", "rex").token == theirs
    for name in ("bo", "../other", "other/rex", "tok_x"):
        with pytest.raises(UnknownJobError):
            cache.get("acme", name)


def test_an_alias_stands_for_the_newest_token_of_this_model(studio: Any) -> None:
    foreign = studio.artifact(fingerprint="f" * 64).to_bytes()
    ours = studio.learn()
    studio.learn(payload=foreign)
    cache = studio.cache()
    assert cache.get("acme", "rex").token == ours
    other = studio.learn("bo", payload=foreign)
    with pytest.raises(ArtifactMismatchError, match=f"{other} was made with"):
        cache.get("acme", "bo")


def test_a_damaged_newest_token_is_an_error(studio: Any) -> None:
    studio.learn()
    new, cache = studio.learn(), studio.cache()
    studio.store.inner.put(studio.result_key(new), b"damaged")
    with pytest.raises(DamagedRecordError, match=f"token {new}"):
        cache.get("acme", "rex")


def test_aliases_are_served_stale_for_a_minute_while_the_store_is_unavailable(studio: Any) -> None:
    token, cache = studio.learn(), studio.cache()
    cache.get("acme", "rex")
    studio.make_unavailable()
    studio.seconds += 59
    assert cache.get("acme", "rex").token == token
    with pytest.raises(UnavailableError, match="tokens of 'bo' cannot be looked up") as caught:
        cache.get("acme", "bo")
    assert "t/acme" not in str(caught.value)
    studio.seconds += 2
    with pytest.raises(UnavailableError):
        cache.get("acme", "rex")
