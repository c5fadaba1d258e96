"""The token cache: single flight, isolation of tenants, revalidation, eviction and errors."""

import threading
from typing import Any

import pytest
import torch

from dti_engine.artifacts.artifact import Artifact
from dti_engine.errors import ArtifactFormatError, ArtifactMismatchError
from services.errors import DamagedRecordError, DeletedError, UnavailableError, UnknownJobError
from services.inference.tokens.cache import TokenCache, TokenLifetimes
from services.inference.tokens.loader import ModelSignature, num_bytes_of
from services.ledger.deletion import delete_job, delete_tenant, delete_token
from services.ledger.ids import token_id


def _has(cache: TokenCache, token: str) -> bool:
    return ("acme", token) in cache._entries  # pyright: ignore[reportPrivateUsage]


def test_a_token_is_read_once_and_is_the_same_object(anywhere: Any) -> None:
    artifact = anywhere.artifact()
    token = anywhere.learn(payload=artifact.to_bytes())
    cache = anywhere.cache()
    known = cache.get("acme", token)
    assert (known.token, known.origin) == (token, artifact.origin())
    assert torch.equal(
        known.learned.embeddings["text_encoder"], artifact.token.embeddings["text_encoder"]
    )
    assert all(cache.get("acme", token).learned is known.learned for _ in range(3))
    assert anywhere.reads() == ["read"]


def test_a_hundred_threads_make_one_read(in_memory: Any, at_once: Any) -> None:
    token, cache = in_memory.learn(), in_memory.cache()
    waiting = threading.Semaphore(0)
    in_memory.store.before = lambda name, key: waiting.acquire(timeout=0.3)  # slow, for all to come
    got = at_once(100, lambda: cache.get("acme", token))
    assert len({id(known.learned) for known in got}) == 1
    assert in_memory.reads() == ["read"]


def test_each_waiting_thread_raises_an_error_of_its_own(in_memory: Any, at_once: Any) -> None:
    cache = in_memory.cache()
    in_memory.store.before = lambda name, key: threading.Event().wait(0.3)
    unknown = token_id(in_memory.submit(), 0, 0)
    got = at_once(20, lambda: cache.get("acme", unknown))
    assert all(isinstance(error, UnknownJobError) for error in got)
    assert len({id(error) for error in got}) == 20
    assert in_memory.reads() == ["read"]


def test_a_cached_token_of_another_tenant_is_unknown(anywhere: Any) -> None:
    token, cache = anywhere.learn(), anywhere.cache()
    cache.get("acme", token)
    for name in (token, "rex"):
        with pytest.raises(UnknownJobError, match="other has no token"):
            cache.get("other", name)
    cache.get("acme", token)


def test_equal_tokens_of_two_tenants_are_kept_apart(in_memory: Any) -> None:
    payload = in_memory.artifact().to_bytes()
    own, other_token = (
        in_memory.learn(payload=payload),
        in_memory.learn(tenant="other", payload=payload),
    )
    cache = in_memory.cache()
    assert cache.get("acme", own).learned is not cache.get("other", other_token).learned
    delete_token(in_memory.elsewhere, "acme", own)
    in_memory.seconds += 31
    with pytest.raises(DeletedError):
        cache.get("acme", own)
    cache.get("other", other_token)


def test_an_unknown_token_is_looked_up_again_after_two_seconds(in_memory: Any) -> None:
    cache, job = in_memory.cache(), in_memory.submit()
    token = token_id(job, 0, 0)
    for _ in range(5):
        with pytest.raises(UnknownJobError, match=f"acme has no token {token}"):
            cache.get("acme", token)
    assert in_memory.reads() == ["read"]
    in_memory.finish(job, "rex", "acme")
    in_memory.seconds += 2
    cache.get("acme", token)


def test_random_ids_evict_no_token(in_memory: Any) -> None:
    token, cache = in_memory.learn(), in_memory.cache()
    cache.get("acme", token)
    for index in range(1, 500):
        with pytest.raises(UnknownJobError):
            cache.get("acme", f"{token[:-5]}{index:05d}")
    before = len(in_memory.reads())
    cache.get("acme", token)
    assert len(in_memory.reads()) == before


@pytest.mark.parametrize("delete", ["token", "job", "tenant"])
def test_a_deletion_takes_effect_within_30_seconds(anywhere: Any, delete: str) -> None:
    token, cache = anywhere.learn(), anywhere.cache()
    cache.get("acme", token)
    if delete == "token":
        delete_token(anywhere.elsewhere, "acme", token)
    elif delete == "job":
        delete_job(anywhere.elsewhere, "acme", token[4:30])
    else:
        delete_tenant(anywhere.elsewhere, "acme")
    anywhere.seconds += 30
    for _ in range(3):
        with pytest.raises(DeletedError, match=f"token {token} was deleted"):
            cache.get("acme", token)
    assert anywhere.reads() == ["read", "head", "read"]
    assert not _has(cache, token)
    anywhere.seconds += 100
    with pytest.raises(DeletedError):
        cache.get("acme", token)


def test_a_token_in_use_costs_a_request_without_a_body_every_30_seconds(anywhere: Any) -> None:
    token, cache = anywhere.learn(), anywhere.cache()
    learned = cache.get("acme", token).learned
    for seconds in (14, 30, 200):  # from the first time; 30 and 200 since the last
        anywhere.seconds += seconds
        assert cache.get("acme", token).learned is learned
    assert anywhere.reads() == ["read", "head", "head"]


def test_a_token_in_use_is_revalidated_in_the_background(
    in_memory: Any, eventually: Any, recorded: Any
) -> None:
    token, cache = in_memory.learn(), in_memory.cache()
    cache.get("acme", token)
    held, deleted = threading.Event(), threading.Event()

    def hold(name: str, key: str) -> None:
        assert threading.current_thread() is not threading.main_thread()
        held.set()
        assert deleted.wait(20)

    in_memory.store.before = hold
    in_memory.seconds += 16
    for _ in range(10):
        cache.get("acme", token)  # though the store has not answered yet
    assert held.wait(20)
    deleted.set()
    eventually(lambda: recorded.gauges and not cache._flights._running)
    in_memory.seconds += 20
    cache.get("acme", token)  # 36 s after the first read, 20 s after it was confirmed
    assert in_memory.reads()[:2] == ["read", "head"]
    assert recorded.counts == {"miss": 1, "hit": 11}


def test_a_deletion_is_noticed_in_the_background(in_memory: Any, eventually: Any) -> None:
    token, cache = in_memory.learn(), in_memory.cache()
    cache.get("acme", token)
    delete_token(in_memory.elsewhere, "acme", token)
    in_memory.seconds += 15
    cache.get("acme", token)
    eventually(lambda: not _has(cache, token))
    with pytest.raises(DeletedError):
        cache.get("acme", token)


def test_a_token_is_served_stale_for_a_minute_while_the_store_is_unavailable(
    in_memory: Any, recorded: Any
) -> None:
    token, cache = in_memory.learn(), in_memory.cache()
    cache.get("acme", token)
    in_memory.make_unavailable()
    for seconds in (10, 25, 24.9):  # 59.9 in all
        in_memory.seconds += seconds
        cache.get("acme", token)
    in_memory.seconds += 0.2
    for _ in range(3):
        with pytest.raises(UnavailableError, match=f"{token}.*ask again later") as caught:
            cache.get("acme", token)
        assert "t/acme" not in str(caught.value)
    assert recorded.counts == {"miss": 1, "hit": 1, "stale": 2, "unavailable": 3}
    in_memory.make_available()
    in_memory.seconds += 5
    cache.get("acme", token)


@pytest.mark.parametrize("confirmed", [False, True])
def test_the_age_of_a_token_counts_from_the_request_to_the_store(
    in_memory: Any, confirmed: bool
) -> None:
    token, cache = in_memory.learn(), in_memory.cache()

    def be_slow(name: str, key: str) -> None:
        in_memory.seconds += 29

    in_memory.store.before = be_slow
    cache.get("acme", token)  # read at the beginning of these 29 seconds
    if confirmed:
        in_memory.seconds += 100
        cache.get("acme", token)
    in_memory.store.before = lambda name, key: None
    delete_token(in_memory.elsewhere, "acme", token)
    in_memory.seconds += 1
    with pytest.raises(DeletedError):
        cache.get("acme", token)


def test_an_unavailable_store_gets_one_request_in_five_seconds(in_memory: Any) -> None:
    tokens, cache = [in_memory.learn(f"s{i}") for i in range(20)], in_memory.cache()
    for token in tokens:
        cache.get("acme", token)
    in_memory.make_unavailable()
    in_memory.seconds += 31
    before = len(in_memory.reads())
    for _ in range(5):
        for token in tokens:
            cache.get("acme", token)
    assert len(in_memory.reads()) - before == 1
    in_memory.seconds += 5
    for token in tokens:
        cache.get("acme", token)
    assert len(in_memory.reads()) - before == 2


def test_a_store_that_hangs_delays_one_lookup_by_the_confirm_timeout(in_memory: Any) -> None:
    cache = in_memory.cache(lifetimes=TokenLifetimes(confirm_timeout_s=0.05))
    token, release = in_memory.learn(), threading.Event()
    cache.get("acme", token)
    in_memory.store.before = lambda name, key: release.wait(20)
    in_memory.seconds += 31
    try:
        for _ in range(50):
            cache.get("acme", token)
        assert in_memory.reads() == ["read", "head"]
    finally:
        release.set()


def test_an_engine_forgets_what_was_erased_although_nobody_asks_for_it(in_memory: Any) -> None:
    token, other, cache = in_memory.learn("canary"), in_memory.learn("bo"), in_memory.cache()
    dropped = list[tuple[str, str]]()
    cache.watch(dropped.append)
    cache.get("acme", "canary")
    delete_token(in_memory.elsewhere, "acme", token)
    for _ in range(6):
        in_memory.seconds += 60
        cache.get("acme", other)
        cache.forget_unused()
    assert not _has(cache, token)
    assert ("acme", token) in dropped
    # In use all the time.
    assert _has(cache, other)
    assert not cache._aliases._newest._found  # pyright: ignore[reportPrivateUsage]


def test_a_cache_forgets_by_itself_until_it_is_closed(
    in_memory: Any, eventually: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.inference.tokens.cache.FORGET_INTERVAL_S", 0.005)
    token, cache = in_memory.learn(), in_memory.cache()
    cache.forget_in_background()
    cache.get("acme", token)
    in_memory.seconds += 301
    eventually(lambda: cache.num_tokens == 0)
    cache.close()


@pytest.mark.parametrize("body", [b"", b"damaged", b'{"type":"result"}\nx'])
def test_a_damaged_record_is_named_without_the_stores_keys(in_memory: Any, body: bytes) -> None:
    token, cache = in_memory.learn(), in_memory.cache()
    in_memory.store.inner.put(in_memory.result_key(token), body)
    with pytest.raises(DamagedRecordError, match=f"token {token} .*train it again") as caught:
        cache.get("acme", token)
    assert "results/" not in str(caught.value)


def test_changed_bytes_are_an_error_when_loaded_and_when_revalidated(
    anywhere: Any, recorded: Any
) -> None:
    token, cache = anywhere.learn(), anywhere.cache()
    cache.get("acme", token)
    key = anywhere.result_key(token)
    body = anywhere.elsewhere.store.read(key).body
    anywhere.elsewhere.store.put(key, body[:-1] + bytes([body[-1] ^ 1]))
    for asking in (cache, anywhere.cache()):
        anywhere.seconds += 31
        with pytest.raises(DamagedRecordError, match=f"token {token} .*train it again"):
            asking.get("acme", token)
    assert recorded.counts == {"miss": 1, "damaged": 2}


def test_a_token_that_was_restored_is_used_again(in_memory: Any) -> None:
    token, cache = in_memory.learn(), in_memory.cache()
    learned = cache.get("acme", token).learned
    body = in_memory.store.inner.read(in_memory.result_key(token)).body
    in_memory.store.inner.put(in_memory.result_key(token), b"damaged")
    in_memory.seconds += 31
    with pytest.raises(DamagedRecordError):
        cache.get("acme", token)
    in_memory.store.inner.put(in_memory.result_key(token), body)
    in_memory.seconds += 30
    assert cache.get("acme", token).learned is learned  # it was in use here all the time


def test_a_file_that_is_no_artifact_is_an_error(in_memory: Any) -> None:
    token = in_memory.learn(payload=b"no safetensors")
    with pytest.raises(ArtifactFormatError, match=f"token {token} cannot be used: not a safet"):
        in_memory.cache().get("acme", token)


@pytest.mark.parametrize("how", [{"fingerprint": "f" * 64}, {"dim": 9}])
def test_a_token_of_another_model_is_an_error(in_memory: Any, how: Any, recorded: Any) -> None:
    token, cache = in_memory.learn(payload=in_memory.artifact(**how).to_bytes()), in_memory.cache()
    for _ in range(3):
        with pytest.raises(ArtifactMismatchError, match=f"{token} was made with 'tiny', whose"):
            cache.get("acme", token)
    assert in_memory.reads() == ["read"]
    assert recorded.counts == {"wrong_model": 3}


def test_the_least_recently_used_token_is_evicted(in_memory: Any, recorded: Any) -> None:
    size = num_bytes_of(in_memory.artifact().token)
    cache = in_memory.cache(capacity_bytes=3 * size + size // 2)
    tokens = [in_memory.learn(f"s{i}") for i in range(4)]
    for token in tokens[:3]:
        cache.get("acme", token)
    cache.get("acme", tokens[0])
    cache.get("acme", tokens[3])
    assert [_has(cache, token) for token in tokens] == [True, False, True, True]
    assert recorded.gauges == {
        ("dti_token_cache_entries", "token"): 3,
        ("dti_token_cache_bytes", "token"): 3 * size,
    }
    before = len(in_memory.reads())
    cache.get("acme", tokens[1])
    assert in_memory.reads(before) == ["read"]
    in_memory.seconds += 100
    for token in tokens[1:]:
        cache.get("acme", token)
    assert cache.num_tokens == 3
    assert recorded.gauges["dti_token_cache_bytes", "token"] == 3 * size


def test_a_token_evicted_while_in_use_comes_back_as_the_same_object(in_memory: Any) -> None:
    one, two = in_memory.learn("one"), in_memory.learn("two")
    cache = in_memory.cache(capacity_bytes=num_bytes_of(in_memory.artifact().token))
    learned = cache.get("acme", one).learned
    cache.get("acme", two)
    assert not _has(cache, one)
    assert cache.get("acme", one).learned is learned


def test_a_cache_without_room_still_returns_tokens(in_memory: Any) -> None:
    token, cache = in_memory.learn(), in_memory.cache(capacity_bytes=1)
    assert cache.get("acme", token).token == cache.get("acme", token).token == token
    assert not _has(cache, token)


def test_an_unavailable_store_is_no_error_of_the_token(in_memory: Any) -> None:
    token, cache = in_memory.learn(), in_memory.cache()
    in_memory.make_unavailable()
    with pytest.raises(UnavailableError, match=f"token {token} cannot be looked up"):
        cache.get("acme", token)
    in_memory.make_available()
    cache.get("acme", token)  # at once: this was nothing about the token


def test_a_closed_cache_still_returns_tokens(in_memory: Any) -> None:
    token, cache = in_memory.learn(), in_memory.cache()
    cache.get("acme", token)
    cache.close()
    in_memory.seconds += 31
    cache.get("acme", token)
    in_memory.seconds += 31
    cache.get("acme", token)  # asks by itself


def test_the_signature_of_a_model_is_read_from_it(tiny_backbone: Any) -> None:
    signature = ModelSignature.of(tiny_backbone)
    assert signature == ModelSignature({"text_encoder": 32}, tiny_backbone.fingerprint)


def test_threads_get_tokens_or_the_right_error_while_tokens_are_deleted(
    in_memory: Any, at_once: Any
) -> None:
    """Whatever comes between, nothing deleted is served half a minute later."""
    tokens = [in_memory.learn(f"s{i}") for i in range(8)]
    size = num_bytes_of(Artifact.from_bytes(in_memory.artifact().to_bytes()).token)
    cache = in_memory.cache(capacity_bytes=6 * size)

    def use() -> list[Exception]:
        errors = list[Exception]()
        for round_ in range(60):
            in_memory.seconds += 0.5
            if round_ == 10:
                delete_token(in_memory.elsewhere, "acme", tokens[0])
            for token in tokens:
                try:
                    cache.get("acme", token)
                except Exception as error:
                    errors.append(error)
        return errors

    errors = [error for each in at_once(8, use) for error in each]
    assert all(isinstance(error, DeletedError) and tokens[0] in str(error) for error in errors)
    in_memory.seconds += 31
    with pytest.raises(DeletedError):
        cache.get("acme", tokens[0])
    for token in tokens[1:]:
        assert cache.get("acme", token).token == token
