"""Mutants of the engine, the API and the webhooks."""

from mutants.mutant import Mutant

_TOKENS = "services/inference/tokens/blends.py"
_ENGINE = "services/inference/engine.py"
_TEST_ENGINE = "tests/services/inference/test_engine.py"
_TEST_RESOLVING = "tests/services/inference/tokens/test_resolving.py"
_TEST_CACHE = "tests/services/inference/tokens/test_cache.py"

ENGINE = (
    Mutant(
        "one-tenant-for-all-tokens",
        _TOKENS,
        "return self._tokens.get(tenant, name)\n\n        found",
        'return self._tokens.get("acme", name)\n\n        found',
        (f"{_TEST_RESOLVING}::test_tokens_are_resolved_for_their_own_tenant_alone",),
    ),
    Mutant(
        "one-tenant-for-all-requests",
        _ENGINE,
        "self._tokens.resolve(tenant, spec)",
        'self._tokens.resolve("ann", spec)',
        (f"{_TEST_ENGINE}::test_two_tenants_with_one_name_each_get_their_own_token",),
    ),
    Mutant(
        "one-tenant-for-all-cached-tokens",
        "services/inference/tokens/cache.py",
        "outcome, entry = self._look_up((tenant, token))",
        'outcome, entry = self._look_up(("acme", token))',
        (f"{_TEST_CACHE}::test_a_cached_token_of_another_tenant_is_unknown",),
    ),
    Mutant(
        "token-of-another-model",
        "services/inference/tokens/loader.py",
        "            artifact.check_compatibility(\n                self.signature.dims, "
        "self.signature.fingerprint, same_weights=True\n            )",
        "            pass",
        (f"{_TEST_CACHE}::test_a_token_of_another_model_is_an_error",),
    ),
    Mutant(
        "changed-token-used",
        "services/ledger/queries.py",
        "if hashlib.sha256(payload).hexdigest() != record.sha256:",
        "if False:",
        (f"{_TEST_CACHE}::test_changed_bytes_are_an_error_when_loaded_and_when_revalidated",),
    ),
    Mutant(
        "engine-without-secret",
        "services/inference/http.py",
        'if scheme.lower() != "bearer" or not any(matches):',
        "if False:",
        (f"{_TEST_ENGINE}::test_a_request_without_the_secret_is_rejected",),
    ),
    Mutant(
        "unsafe-image-sent",
        _ENGINE,
        '        if reason:\n            raise UnsafeImageError(f"this image may not',
        '        if False:\n            raise UnsafeImageError(f"this image may not',
        (f"{_TEST_ENGINE}::test_an_unsafe_or_unchecked_image_is_not_sent",),
    ),
    Mutant(
        "unchecked-image-sent",
        _ENGINE,
        '            raise UnsafeImageError("this image could not be checked, so it is not shown") '
        "from error",
        '            reason = ""',
        (f"{_TEST_ENGINE}::test_an_unsafe_or_unchecked_image_is_not_sent",),
    ),
)

_AUTHENTICATOR = "services/auth/authenticator.py"
_AUTH = "services/api/middleware/auth.py"
_IMAGES = "services/api/images/store.py"
_SENDER = "services/webhooks/sender.py"
_TARGETS = "services/webhooks/targets.py"
_TEST_AUTHENTICATOR = "tests/services/auth/test_authenticator.py"
_TEST_MIDDLEWARE = "tests/services/api/test_middleware.py"
_TEST_IMAGES = "tests/services/api/test_stored_images.py"
_TEST_SENDER = "tests/services/webhooks/test_sender.py"
_TEST_TARGETS = "tests/services/webhooks/test_targets.py"

API = (
    Mutant(
        "any-secret-of-a-known-key",
        _AUTHENTICATOR,
        "if not (key and matches and self._is_valid(key, entry)):",
        "if not (key and self._is_valid(key, entry)):",
        (f"{_TEST_AUTHENTICATOR}::test_a_wrong_secret_and_an_unknown_key_are_indistinguishable",),
    ),
    Mutant(
        "revoked-key-accepted",
        _AUTHENTICATOR,
        "if key.record.revoked:",
        "if False:",
        (f"{_TEST_AUTHENTICATOR}::test_the_end_of_a_key_takes_effect_within_30_seconds",),
    ),
    Mutant(
        "expired-key-accepted",
        _AUTHENTICATOR,
        "return key.record.expires is None or now < key.record.expires",
        "return True or now",
        (f"{_TEST_AUTHENTICATOR}::test_a_cached_key_expires_on_time",),
    ),
    Mutant(
        "scope-of-a-key-ignored",
        _AUTH,
        'if not permits(principal.scope, request.method, request.scope["path"]):',
        "if False:",
        ("tests/services/api/test_rotation.py",),
    ),
    Mutant(
        "rate-not-limited",
        _AUTH,
        "        if wait_s:\n",
        "        if False:\n",
        (f"{_TEST_MIDDLEWARE}::test_too_many_requests_get_retry_after",),
    ),
    Mutant(
        "body-of-any-size",
        _AUTH,
        "if self._received > self._max_bytes:",
        "if False:",
        (f"{_TEST_MIDDLEWARE}::test_large_bodies_are_refused_with_and_without_content_length",),
    ),
    Mutant(
        "paths-without-a-key",
        _AUTH,
        'return scope["path"] == GUARDED or scope["path"].startswith(f"{GUARDED}/")',
        'return scope["path"] == GUARDED',
        (f"{_TEST_MIDDLEWARE}::test_unknown_paths_require_a_key",),
    ),
    Mutant(
        "link-without-signature",
        _IMAGES,
        "if not is_valid or self._clock() >= expires:",
        "if self._clock() >= expires:",
        (f"{_TEST_IMAGES}::test_changed_links_are_refused",),
    ),
    Mutant(
        "link-that-never-expires",
        _IMAGES,
        "if not is_valid or self._clock() >= expires:",
        "if not is_valid:",
        (f"{_TEST_IMAGES}::test_links_expire",),
    ),
    Mutant(
        "image-of-a-deleted-tenant-kept",
        _IMAGES,
        "if is_deleted(self.ledger.store, tenant):",
        "if False:",
        (f"{_TEST_IMAGES}::test_a_tenant_deleted_during_a_request_stores_nothing",),
    ),
    Mutant(
        "webhook-peer-not-checked",
        _SENDER,
        "                self._target.check_addresses([str(peer[0])], self._settings)\n",
        "                str(peer[0])\n",
        (f"{_TEST_SENDER}::test_the_peer_address_is_checked_before_a_byte_is_sent",),
    ),
    Mutant(
        "webhook-names-not-checked",
        _SENDER,
        "        self._target.check_addresses(addresses, self._settings)\n",
        "",
        (_TEST_SENDER,),
    ),
    Mutant(
        "webhook-embedded-addresses",
        _TARGETS,
        "if address in _NAT64:",
        "if False:",
        (_TEST_TARGETS,),
    ),
    Mutant(
        "webhook-denied-networks",
        _TARGETS,
        "is_public(address) and not is_in_networks(address, settings.denied_networks)",
        "is_public(address)",
        (f"{_TEST_TARGETS}::test_denied_networks_are_refused_in_every_notation",),
    ),
)
