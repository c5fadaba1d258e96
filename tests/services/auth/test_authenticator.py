"""Authentication: valid keys, the cache, and outages of the store."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from services.auth.keys import Credential, create_key, revoke_key, rotate_key
from services.auth.tenants import Limits, set_limits
from services.errors import DamagedRecordError, UnavailableError, UnknownKeyError
from services.ledger.deletion import delete_tenant
from services.ledger.ledger import Ledger


def _other_secret(credential: str) -> str:
    parsed = Credential.parse(credential)
    assert parsed
    return Credential(parsed.key, Credential.new().secret).text


def _refused(auth: Any, credential: str) -> str:
    with pytest.raises(UnknownKeyError) as caught:
        auth.authenticate(credential)
    return str(caught.value)


def test_a_key_determines_the_tenant_and_its_limits(place: Any) -> None:
    new = create_key(place, "acme")
    create_key(place, "other")
    set_limits(place, "acme", {"burst": 3})
    caller = place.authenticator().authenticate(new.credential)
    assert (caller.tenant, caller.key, caller.limits) == ("acme", new.id, Limits(burst=3))


def test_a_wrong_secret_and_an_unknown_key_are_indistinguishable(place: Any) -> None:
    new = create_key(place, "acme")
    wrong, unknown = _other_secret(new.credential), Credential.new().text
    auth, reasons, lookups = place.authenticator(), [], []
    for credential in (wrong, unknown):
        place.requests.clear()
        reasons += [_refused(auth, credential)]
        lookups += [[name for name, _ in place.requests]]
        _refused(auth, credential)
    assert reasons[0] == reasons[1]
    assert lookups == [["read"], ["read"]]
    assert len(place.requests) == 1
    auth.authenticate(new.credential)  # A wrong secret keeps the right one out of nothing.


def test_a_malformed_credential_causes_no_read(place: Any) -> None:
    assert _refused(place.authenticator(), "x" * 10_000) == _refused(
        place.authenticator(), Credential.new().text
    )
    assert len(place.requests) == 1


def test_a_key_is_read_once_in_30_seconds(place: Any) -> None:
    new, auth = create_key(place, "acme"), place.authenticator()
    place.requests.clear()
    for _ in range(29):
        auth.authenticate(new.credential)
        place.seconds += 1
    assert len(place.requests) == 3  # the key, its tenant, and whether that was deleted
    place.seconds += 1
    auth.authenticate(new.credential)
    assert len(place.requests) == 6


@pytest.mark.parametrize("end", ["revoked", "expired", "tenant deleted"])
def test_the_end_of_a_key_takes_effect_within_30_seconds(place: Any, end: str) -> None:
    new, auth = create_key(place, "acme"), place.authenticator()
    auth.authenticate(new.credential)
    if end == "revoked":
        revoke_key(place, new.id)
    elif end == "expired":
        rotate_key(place, new.id, timedelta(seconds=0))
    else:
        delete_tenant(Ledger.open(place), "acme")
    place.seconds += 30
    assert _refused(auth, new.credential) == _refused(auth, Credential.new().text)
    assert _refused(place.authenticator(), new.credential)


def test_a_cached_key_expires_on_time(place: Any) -> None:
    old, auth = create_key(place, "acme"), place.authenticator()
    new = rotate_key(place, old.id, timedelta(seconds=10))
    auth.authenticate(old.credential)
    place.seconds += 9
    place.requests.clear()
    auth.authenticate(old.credential)
    place.seconds += 1
    _refused(auth, old.credential)
    assert place.requests == []
    auth.authenticate(new.credential)


def test_new_limits_take_effect_within_30_seconds(place: Any) -> None:
    new, auth = create_key(place, "acme"), place.authenticator()
    assert auth.authenticate(new.credential).limits.burst == 100
    set_limits(place, "acme", {"burst": 2})
    place.seconds += 30
    assert auth.authenticate(new.credential).limits.burst == 2


def test_cached_keys_stay_valid_for_5_minutes_of_an_outage(place: Any) -> None:
    new, late, auth = (
        create_key(place, "acme"),
        create_key(place, "acme"),
        place.authenticator(),
    )
    auth.authenticate(new.credential)
    place.trouble = True
    for _ in range(299):
        place.seconds += 1
        assert auth.authenticate(new.credential).tenant == "acme"
        _refused(auth, _other_secret(new.credential))
    for unknown in (late.credential, Credential.new().text):
        with pytest.raises(UnavailableError):
            auth.authenticate(unknown)
    place.seconds += 1
    with pytest.raises(UnavailableError):
        auth.authenticate(new.credential)
    place.trouble = False
    assert auth.authenticate(new.credential).tenant == "acme"


def test_an_unavailable_store_is_read_every_5_seconds(
    place: Any,
) -> None:
    new, auth = create_key(place, "acme"), place.authenticator()
    auth.authenticate(new.credential)
    revoke_key(place, new.id)
    place.trouble = True
    place.seconds += 30
    place.requests.clear()
    for _ in range(10):
        auth.authenticate(new.credential)
        place.seconds += 1
    keys = [key for _, key in place.requests if key.startswith("keys/")]
    assert len(keys) == 2
    place.trouble = False
    _refused(auth, new.credential)


def test_a_refused_key_stays_refused_during_an_outage(place: Any) -> None:
    auth, unknown = place.authenticator(), Credential.new().text
    _refused(auth, unknown)
    place.trouble = True
    _refused(auth, unknown)
    place.seconds += 30
    with pytest.raises(UnavailableError):
        auth.authenticate(unknown)


def test_concurrent_requests_of_one_key_cause_one_read(place: Any) -> None:
    new, auth, come = create_key(place, "acme"), place.authenticator(), threading.Event()
    place.requests.clear()
    place.before = lambda name, key: come.wait(10) and None
    callers = 16
    with ThreadPoolExecutor(callers) as pool:
        ready = threading.Barrier(callers + 1)

        def ask() -> str:
            ready.wait(10)
            return auth.authenticate(new.credential).tenant

        answers = [pool.submit(ask) for _ in range(callers)]
        ready.wait(10)
        come.set()
        assert {answer.result(10) for answer in answers} == {"acme"}
    assert len(place.requests) == 3


def test_concurrent_requests_during_an_outage_are_all_refused(place: Any) -> None:
    new, auth = create_key(place, "acme"), place.authenticator()
    place.requests.clear()
    place.trouble = True
    come, callers = threading.Event(), 8
    place.before = lambda name, key: come.wait(10) and None
    with ThreadPoolExecutor(callers) as pool:
        lookups = threading.Semaphore(0)

        def ask() -> str:
            lookups.release()
            try:
                return auth.authenticate(new.credential).tenant
            except UnavailableError:
                return "unavailable"

        answers = [pool.submit(ask) for _ in range(callers)]
        for _ in range(callers):
            assert lookups.acquire(timeout=10)
        come.set()
        assert {answer.result(10) for answer in answers} == {"unavailable"}


def test_a_slow_read_during_an_outage_blocks_one_request_only(place: Any) -> None:
    new, auth = create_key(place, "acme"), place.authenticator()
    auth.authenticate(new.credential)
    place.trouble = True
    place.seconds += 30
    auth.authenticate(new.credential)  # Now it is known to be in trouble.
    place.seconds += 5
    stuck, come = threading.Event(), threading.Event()

    def stick(name: str, key: str) -> None:
        stuck.set()
        come.wait(10)

    place.before = stick
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(auth.authenticate, new.credential)
        assert stuck.wait(10)
        place.before = None
        assert auth.authenticate(new.credential).tenant == "acme"
        assert not first.done()
        come.set()
        assert first.result(10).tenant == "acme"


def test_the_cache_is_bounded_and_guesses_evict_no_key(place: Any) -> None:
    auth = place.authenticator(max_entries=5)
    issued = [create_key(place, "acme").credential for _ in range(6)]
    for credential in issued[:5]:
        auth.authenticate(credential)
    for _ in range(50):
        _refused(auth, Credential.new().text)
    place.requests.clear()
    for credential in issued[:5]:
        auth.authenticate(credential)
    assert place.requests == []
    auth.authenticate(issued[5])
    auth.authenticate(issued[0])  # the one that was asked for longest ago, so forgotten
    assert len(place.requests) == 2
    assert len(auth._keys._found) == len(auth._keys._unknown) == 5


def test_a_damaged_key_is_an_error_and_not_cached(place: Any) -> None:
    new, auth = create_key(place, "acme"), place.authenticator()
    body = place.inner.read(f"keys/{new.id}").body
    place.inner.put(f"keys/{new.id}", b"x")
    with pytest.raises(DamagedRecordError):
        auth.authenticate(new.credential)
    place.inner.put(f"keys/{new.id}", body)
    assert auth.authenticate(new.credential).tenant == "acme"


def test_many_threads_and_a_small_cache_return_the_right_tenants(place: Any) -> None:
    auth = place.authenticator(max_entries=3)
    issued = {create_key(place, f"t{i}").credential: f"t{i}" for i in range(8)}
    with ThreadPoolExecutor(8) as pool:
        lookups = list(issued) * 60
        assert list(pool.map(lambda c: auth.authenticate(c).tenant, lookups)) == [
            issued[c] for c in lookups
        ]
    assert auth._keys._flights._running == {}
