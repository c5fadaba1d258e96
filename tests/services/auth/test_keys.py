"""API keys are shown once, stored as digests, and end by rotation or revocation."""

import json
import re
from datetime import timedelta
from typing import Any

import pytest

from services.auth.keys import (
    Credential,
    create_key,
    list_keys,
    remove_tenant,
    revoke_key,
    rotate_key,
)
from services.auth.tenants import read_tenant
from services.errors import (
    ConflictError,
    DamagedRecordError,
    DeletedError,
    InvalidIdError,
    UnknownKeyError,
)
from services.ledger.deletion import delete_tenant
from services.ledger.ledger import Ledger

_DAY = timedelta(days=1)


def _objects(place: Any) -> dict[str, bytes]:
    return {head.key: place.inner.read(head.key).body for head in place.inner.list().objects}


def test_a_credential_has_256_secret_bits_that_are_stored_nowhere(place: Any) -> None:
    new = create_key(place, "acme", "laptop")
    assert re.fullmatch(r"dti_[a-z2-7]{16}_[a-z2-7]{52}", new.credential)
    parsed = Credential.parse(new.credential)
    assert parsed
    assert parsed.key == new.id
    assert parsed.text == new.credential
    secret = parsed.secret.encode()
    assert not [key for key, body in _objects(place).items() if secret in body]
    assert set(_objects(place)) == {f"keys/{new.id}", "tenants/acme"}
    for shown in (new, parsed):
        assert parsed.secret not in repr(shown)


def test_credentials_are_unique(place: Any) -> None:
    keys = [Credential.parse(create_key(place, "acme").credential) for _ in range(50)]
    assert len({key.key for key in keys if key}) == len({key.secret for key in keys if key}) == 50


@pytest.mark.parametrize(
    "text",
    [
        "",
        "dti_",
        f"dti_{'a' * 16}",
        f"dti_{'a' * 16}_{'a' * 51}",
        f"dti_{'A' * 16}_{'a' * 52}",
        f"dti_{'a' * 16}_{'a' * 52}\n",
        f"dti_../../t/acme_{'a' * 52}",
        f"dti_{'1' * 16}_{'a' * 52}",
    ],
)
def test_a_malformed_credential_parses_to_none(text: str) -> None:
    assert Credential.parse(text) is None


def test_keys_are_listed_by_tenant_oldest_first(place: Any) -> None:
    created = []
    for tenant, name in (("b", "1"), ("a", "2"), ("a", "3"), ("b", "4")):
        created.append(create_key(place, tenant, name).id)
        place.seconds += 1
    assert [view.name for view in list_keys(place)] == ["2", "3", "1", "4"]
    assert [(view.id, view.name) for view in list_keys(place, "b")] == [
        (created[0], "1"),
        (created[3], "4"),
    ]
    assert list_keys(place, "c") == []
    first = list_keys(place, "b")[0]
    assert first.created == place.now() - timedelta(seconds=4)
    assert (first.tenant, first.expires, first.revoked) == ("b", None, None)


def test_a_rotated_key_expires_after_its_grace_and_its_successor_does_not(place: Any) -> None:
    old = create_key(place, "acme", "laptop")
    new = rotate_key(place, old.id, _DAY)
    assert new.id != old.id
    views = {view.id: view for view in list_keys(place)}
    assert views[old.id].expires == place.now() + _DAY
    assert (views[new.id].tenant, views[new.id].name) == ("acme", "laptop")
    assert views[new.id].expires is None
    place.seconds += 3600
    assert views[old.id].is_valid(place.now())
    rotate_key(place, old.id, 30 * _DAY)  # again: it lives no longer for it
    assert {view.id: view for view in list_keys(place)}[old.id].expires == views[old.id].expires
    place.seconds += 23 * 3600
    assert not views[old.id].is_valid(place.now())


def test_a_revoked_key_stays_revoked_and_has_no_successor(place: Any) -> None:
    key = create_key(place, "acme").id
    revoke_key(place, key)
    (first,) = list_keys(place)
    assert first.revoked == place.now()
    place.seconds += 5
    revoke_key(place, key)
    assert list_keys(place) == [first]
    with pytest.raises(ConflictError, match=f"key {key} was revoked: create a new one"):
        rotate_key(place, key, _DAY)
    assert list_keys(place) == [first]


def test_a_revocation_during_a_rotation_also_revokes_the_successor(place: Any) -> None:
    key = create_key(place, "acme").id

    def revoke(name: str, _: str) -> None:
        if name == "replace":
            place.before = None
            revoke_key(place, key)

    place.before = revoke
    with pytest.raises(ConflictError, match="was revoked"):
        rotate_key(place, key, _DAY)
    assert len(list_keys(place)) == 2
    assert all(view.revoked for view in list_keys(place))


def test_concurrent_changes_of_a_key_are_both_kept(place: Any) -> None:
    key = create_key(place, "acme").id

    def rotate(name: str, _: str) -> None:
        if name == "replace":
            place.before = None
            rotate_key(place, key, _DAY)

    place.before = rotate
    revoke_key(place, key)
    view = next(view for view in list_keys(place) if view.id == key)
    assert view.revoked == place.now()
    assert view.expires == place.now() + _DAY


@pytest.mark.parametrize("key", ["", "x", "a" * 16, "../tenants/acme", "A" * 16])
def test_an_unknown_key_is_named(place: Any, key: str) -> None:
    create_key(place, "acme")
    for change in (revoke_key, lambda store, key: rotate_key(store, key, _DAY)):
        with pytest.raises(UnknownKeyError, match=re.escape(repr(key))):
            change(place, key)


def test_invalid_arguments_change_nothing(place: Any) -> None:
    key = create_key(place, "acme").id
    before = _objects(place)
    with pytest.raises(InvalidIdError, match="not a tenant's name"):
        create_key(place, "A/B")
    for name in ("x" * 201, "a\nb"):
        with pytest.raises(ConflictError, match=f"has {len(name)} characters"):
            create_key(place, "acme", name)
    with pytest.raises(ConflictError, match="give 0 or more"):
        rotate_key(place, key, -_DAY)
    assert _objects(place) == before


def test_a_deleted_tenant_leaves_its_name_and_the_ids_of_its_keys(place: Any) -> None:
    key = create_key(place, "acme", "of Mr. Canary")
    secret = read_tenant(place, "acme").webhook_secret
    remove_tenant(Ledger.open(place), "acme")
    with pytest.raises(DeletedError):
        read_tenant(place, "acme")
    assert set(_objects(place)) == {f"keys/{key.id}", "t/acme/deleted"}
    left = b"".join(_objects(place).values())
    assert b"Canary" not in left
    assert secret.encode() not in left


def test_a_deleted_tenant_gets_no_key(place: Any) -> None:
    key = create_key(place, "acme").id
    delete_tenant(Ledger.open(place), "acme")
    for make in (lambda: create_key(place, "acme"), lambda: rotate_key(place, key, _DAY)):
        with pytest.raises(DeletedError, match="tenant acme was deleted"):
            make()
    assert [view.id for view in list_keys(place)] == [key]


def test_a_tenant_is_removed_with_its_keys(place: Any) -> None:
    deleted, other = create_key(place, "acme"), create_key(place, "other")
    remove_tenant(Ledger.open(place), "acme")
    first = {view.id: view.revoked for view in list_keys(place)}
    assert first[deleted.id]
    assert first[other.id] is None
    remove_tenant(Ledger.open(place), "acme")
    assert {view.id: view.revoked for view in list_keys(place)} == first
    with pytest.raises(InvalidIdError):
        remove_tenant(Ledger.open(place), "A/B")


def test_foreign_objects_are_skipped_and_damaged_keys_are_named(place: Any) -> None:
    key = create_key(place, "acme").id
    place.inner.put("keys/notes.txt", b"x")
    assert [view.id for view in list_keys(place)] == [key]
    place.inner.put(f"keys/{key}", b"x")
    with pytest.raises(DamagedRecordError, match=f"keys/{key}"):
        list_keys(place)


def test_fields_of_a_later_version_are_ignored(place: Any) -> None:
    key = create_key(place, "acme").id
    record = json.loads(place.inner.read(f"keys/{key}").body)
    place.inner.put(f"keys/{key}", json.dumps(record | {"scope": "all"}).encode() + b"\n")
    assert [view.id for view in list_keys(place)] == [key]
