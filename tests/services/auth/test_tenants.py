"""Limits are changed one by one, and a tenant's secret is its own."""

import base64
import json
from typing import Any

import pytest

from services.auth.keys import create_key
from services.auth.tenants import Limits, add_tenant, read_tenant, set_limits
from services.errors import (
    DamagedRecordError,
    DeletedError,
    InvalidIdError,
    SettingsError,
    UnknownTenantError,
)
from services.ledger.deletion import delete_tenant
from services.ledger.ledger import Ledger


def test_a_tenant_has_the_default_limits_and_a_secret_of_its_own(place: Any) -> None:
    for tenant in ("acme", "other"):
        add_tenant(place, tenant)
    first, second = (read_tenant(place, tenant) for tenant in ("acme", "other"))
    assert first.limits == Limits()
    assert len(base64.b64decode(first.webhook_secret.removeprefix("whsec_"), validate=True)) == 32
    assert first.webhook_secret != second.webhook_secret
    assert first.webhook_secret not in repr(first)


def test_another_key_keeps_limits_and_secret(place: Any) -> None:
    create_key(place, "acme")
    set_limits(place, "acme", {"burst": 7})
    before = read_tenant(place, "acme")
    create_key(place, "acme")
    assert read_tenant(place, "acme") == before
    assert before.limits.burst == 7


def test_concurrent_changes_of_limits_are_both_kept(place: Any) -> None:
    add_tenant(place, "acme")

    def change(name: str, _: str) -> None:
        if name == "replace":
            place.before = None
            set_limits(place, "acme", {"burst": 5})

    place.before = change
    changed = set_limits(place, "acme", {"open_items": 10})
    assert changed == Limits(burst=5, open_items=10) == read_tenant(place, "acme").limits


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"requests_per_second": 0}, "requests_per_second is 0: .*greater than 0"),
        ({"requests_per_second": float("nan")}, "requests_per_second is nan"),
        ({"burst": 0.5}, "burst is 0.5"),
        ({"burts": 3}, "burts is 3: .*limits are requests_per_second, burst, open_items, upload"),
    ],
)
def test_invalid_limits_are_refused(place: Any, changes: Any, says: str) -> None:
    add_tenant(place, "acme")
    with pytest.raises(SettingsError, match=says):
        set_limits(place, "acme", {"open_items": 3} | changes)
    assert read_tenant(place, "acme").limits == Limits()


def test_limits_of_a_later_version_survive_a_change(place: Any) -> None:
    add_tenant(place, "acme")
    record = json.loads(place.inner.read("tenants/acme").body)
    later = json.dumps(record | {"limits": {"moons": 3, "burst": 4}}).encode() + b"\n"
    place.inner.put("tenants/acme", later)
    assert set_limits(place, "acme", {"open_items": 9}) == Limits(burst=4, open_items=9)
    stored = json.loads(place.inner.read("tenants/acme").body)["limits"]
    assert stored == {"moons": 3, "burst": 4, "open_items": 9}


def test_unknown_tenants_are_named(place: Any) -> None:
    for read in (read_tenant, lambda store, tenant: set_limits(store, tenant, {})):
        with pytest.raises(UnknownTenantError, match=r"no tenant acme: .*dti keys create acme"):
            read(place, "acme")
        with pytest.raises(InvalidIdError):
            read(place, "../keys")
    add_tenant(place, "acme")
    delete_tenant(Ledger.open(place), "acme")
    with pytest.raises(DeletedError, match="tenant acme was deleted"):
        read_tenant(place, "acme")


def test_a_damaged_tenant_is_named(place: Any) -> None:
    place.inner.put("tenants/acme", b"x")
    with pytest.raises(DamagedRecordError, match="tenants/acme"):
        read_tenant(place, "acme")
    place.inner.put(
        "tenants/acme", b'{"nonce": "1", "webhook_secret": "x", "limits": {"burst": -1}}\n'
    )
    with pytest.raises(DamagedRecordError, match="'burst': -1"):
        read_tenant(place, "acme")
