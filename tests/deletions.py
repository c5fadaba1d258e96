"""Deletions of an item, a job or a tenant, and a job whose bytes they must remove."""

from collections.abc import Callable
from typing import Any

from services.ledger.deletion import delete_item, delete_job, delete_tenant


def submit_secrets(harness: Any, tenant: str = "acme") -> str:
    """Return a job of two items that have made secrets, one by way of a checkpoint."""
    job = harness.submit(2, tenant)
    for attempt in harness.claim(2):
        attempt.checkpoint(1, f"secret checkpoint of {tenant}".encode())
        attempt.succeed(f"secret {attempt.item_ref.index} of {tenant}".encode(), {"why": "secret"})
    return job


def token_of(job: str, index: int = 0) -> str:
    """Return the id of the token of an item."""
    return f"tok_{job}00{index:05d}"


def delete_the_job(harness: Any, job: str) -> None:
    delete_job(harness.ledger, "acme", job)


def delete_its_first_item(harness: Any, job: str) -> None:
    delete_item(harness.ledger, "acme", job, 0)


def delete_its_tenant(harness: Any, _: str) -> None:
    delete_tenant(harness.ledger, "acme")


Deletion = Callable[[Any, str], None]
DELETIONS: list[Deletion] = [delete_its_first_item, delete_the_job, delete_its_tenant]
