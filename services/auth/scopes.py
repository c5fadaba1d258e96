"""Scopes: what the requests of an API key may do."""

from typing import Literal, get_args

Scope = Literal["all", "read", "generate"]
"""`read` only reads. `generate` makes images and generation jobs, and deletes nothing."""

SCOPES: tuple[Scope, ...] = get_args(Scope)

_GENERATION = ("/v1/images", "/v1/generation-jobs")
_MODELS = "/v1/models"


def find_scope(name: str) -> Scope | None:
    """Return the scope with a name; None if there is none."""
    return next((scope for scope in SCOPES if scope == name), None)


def permits(scope: Scope, method: str, path: str) -> bool:
    """Return whether a key with this scope may make a request below /v1."""
    reads = method in ("GET", "HEAD")
    if scope == "all":
        return True
    if scope == "read":
        return reads
    if _is_below(path, _MODELS):
        return reads
    return (reads or method == "POST") and any(_is_below(path, each) for each in _GENERATION)


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")
