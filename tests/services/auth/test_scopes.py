"""A key with a scope does what the scope allows, and nothing else."""

import pytest

from services.auth.scopes import Scope, permits


@pytest.mark.parametrize(
    ("scope", "method", "path", "allowed"),
    [
        ("all", "DELETE", "/v1/tokens/tok", True),
        ("read", "GET", "/v1/tokens", True),
        ("read", "HEAD", "/v1/uploads/x", True),
        ("read", "POST", "/v1/uploads", False),
        ("read", "POST", "/v1/images/generations", False),
        ("read", "DELETE", "/v1/images/x", False),
        ("generate", "POST", "/v1/images/generations", True),
        ("generate", "GET", "/v1/images/x", True),
        ("generate", "POST", "/v1/generation-jobs", True),
        ("generate", "POST", "/v1/generation-jobs/x/cancel", True),
        ("generate", "GET", "/v1/models", True),
        ("generate", "DELETE", "/v1/images/x", False),
        ("generate", "DELETE", "/v1/generation-jobs/x", False),
        ("generate", "GET", "/v1/tokens", False),
        ("generate", "GET", "/v1/imagesx", False),
        ("generate", "POST", "/v1/training-jobs", False),
        ("generate", "PUT", "/v1/uploads/x", False),
    ],
)
def test_a_scope_permits_its_requests_alone(
    scope: Scope, method: str, path: str, allowed: bool
) -> None:
    assert permits(scope, method, path) is allowed
