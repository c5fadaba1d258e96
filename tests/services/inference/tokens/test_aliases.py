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


def test_an_alias_in_use_costs_a_read_and_a_listing_every_five_seconds(in_memory: Any) -> None:
    in_memory.learn()
    cache = in_memory.cache()
    for _ in range(10):
        cache.get("acme", "rex")
    assert in_memory.reads() == ["read", "list", "read"]
    in_memory.seconds += 5
    cache.get("acme", "rex")
    assert in_memory.reads() == ["read", "list", "read", "read", "list"]


def test_index_entries_without_a_token_are_skipped(in_memory: Any) -> None:
    remaining, deleted = in_memory.learn(), in_memory.learn()
    delete_token(in_memory.elsewhere, "acme", deleted)
    aliases.add(in_memory.elsewhere.store, "acme", "rex", token_id(in_memory.submit(), 0, 0))
    aliases.add(in_memory.elsewhere.store, "acme", "rex", "0 no token")
    assert in_memory.cache().get("acme", "rex").token == remaining


def test_after_a_deletion_the_alias_stands_for_the_token_before(
    in_memory: Any, eventually: Any
) -> None:
    old, new, cache = in_memory.learn(), in_memory.learn(), in_memory.cache()
    assert cache.get("acme", "rex").token == new
    in_memory.seconds += 12
    assert cache.get("acme", "rex").token == new
    delete_token(in_memory.elsewhere, "acme", new)
    in_memory.seconds += 4
    assert cache.get("acme", "rex").token == new  # The store is asked meanwhile.
    eventually(lambda: cache.is_known_bad("acme", new))
    assert cache.get("acme", "rex").token == old
    delete_token(in_memory.elsewhere, "acme", old)
    in_memory.seconds += 30
    with pytest.raises(UnknownJobError, match="acme has no token of a subject 'rex'"):
        cache.get("acme", "rex")


def test_aliases_belong_to_one_tenant(in_memory: Any) -> None:
    own, other_token = in_memory.learn(), in_memory.learn(tenant="other")
    cache = in_memory.cache()
    assert cache.get("acme", "rex").token == own
    assert cache.get("other", "rex").token == other_token
    for name in ("bo", "../other", "other/rex", "tok_x"):
        with pytest.raises(UnknownJobError):
            cache.get("acme", name)


def test_an_alias_stands_for_the_newest_token_of_this_model(in_memory: Any) -> None:
    foreign = in_memory.artifact(fingerprint="f" * 64).to_bytes()
    own = in_memory.learn()
    in_memory.learn(payload=foreign)
    cache = in_memory.cache()
    assert cache.get("acme", "rex").token == own
    other = in_memory.learn("bo", payload=foreign)
    with pytest.raises(ArtifactMismatchError, match=f"{other} was made with"):
        cache.get("acme", "bo")


def test_a_damaged_newest_token_is_an_error(in_memory: Any) -> None:
    in_memory.learn()
    new, cache = in_memory.learn(), in_memory.cache()
    in_memory.store.inner.put(in_memory.result_key(new), b"damaged")
    with pytest.raises(DamagedRecordError, match=f"token {new}"):
        cache.get("acme", "rex")


def test_aliases_are_served_stale_for_a_minute_while_the_store_is_unavailable(
    in_memory: Any,
) -> None:
    token, cache = in_memory.learn(), in_memory.cache()
    cache.get("acme", "rex")
    in_memory.make_unavailable()
    in_memory.seconds += 59
    assert cache.get("acme", "rex").token == token
    with pytest.raises(UnavailableError, match="tokens of 'bo' cannot be looked up") as caught:
        cache.get("acme", "bo")
    assert "t/acme" not in str(caught.value)
    in_memory.seconds += 2
    with pytest.raises(UnavailableError):
        cache.get("acme", "rex")
