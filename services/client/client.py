"""Everything the service can be asked for, one method each."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self, TypeVar

from services.client import uploads
from services.client.access import Access
from services.client.answers import (
    Draft,
    Item,
    ItemPage,
    Job,
    JobPage,
    Page,
    Retried,
    Token,
    TokenPage,
)
from services.client.connection import Connection
from services.client.images import PictureUpdate, paint
from services.client.parcels import Parcel
from services.client.problems import BrokenServerError
from services.client.watching import Update, watch

P = TypeVar("P", bound=Page)

_PAGE = 200
_JOBS = "v1/training-jobs"


class Client:
    """All methods raise ClientError; `services.client.problems` says which. Safe to share between
    threads.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @classmethod
    def at(cls, access: Access, **how: Any) -> Self:
        """how: as of Connection."""
        return cls(Connection(access, **how))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._connection.close()

    def missing(self, parcels: Sequence[Parcel]) -> list[Parcel]:
        """Those of them that were not uploaded yet."""
        return uploads.missing(self._connection, parcels)

    def upload(
        self, parcels: Sequence[Parcel], *, on_sent: Callable[[Parcel], None] = lambda parcel: None
    ) -> None:
        """Upload those that were not yet; `on_sent` hears of each that is there, in any thread."""
        uploads.upload(self._connection, parcels, on_sent=on_sent)

    def draft(self, order: Mapping[str, Any]) -> Draft:
        """What would be made of the order; nothing is."""
        # A key is required, and remembered of no draft.
        headers = {"Idempotency-Key": "draft"}
        body = {**order, "dry_run": True}
        return self._connection.ask(Draft, "POST", _JOBS, headers=headers, json=body)

    def submit(self, order: Mapping[str, Any], key: str) -> Job:
        """The job of this order: made now, or by an earlier call with the same key."""
        headers = {"Idempotency-Key": key}
        return self._connection.ask(Job, "POST", _JOBS, headers=headers, json=order)

    def jobs(self) -> Iterator[Job]:
        """The newest first."""
        for page in self._pages(JobPage, _JOBS, {}):
            yield from page.jobs

    def job(self, job: str) -> Job:
        return self._connection.ask(Job, "GET", f"{_JOBS}/{job}")

    def items(self, job: str, *, state: str | None = None, start: int = 0) -> Iterator[Item]:
        """In order, from index `start` on; those in one state, if that is given."""
        params = {"cursor": str(start)} if start else {}
        for page in self._pages(
            ItemPage, f"{_JOBS}/{job}/items", params | ({"state": state} if state else {})
        ):
            yield from page.items

    def watch(self, job: str) -> Iterator[Update]:
        """What happens to the job, until it has ended."""
        return watch(self._connection, job)

    def cancel(self, job: str) -> Job:
        return self._connection.ask(Job, "POST", f"{_JOBS}/{job}/cancel")

    def retry(self, job: str) -> Retried:
        """Let its failed items be tried again."""
        return self._connection.ask(Retried, "POST", f"{_JOBS}/{job}/retry")

    def delete_job(self, job: str) -> None:
        """With its tokens, for good."""
        self._connection.request("DELETE", f"{_JOBS}/{job}")

    def tokens(self, *, alias: str | None = None, tag: str | None = None) -> Iterator[Token]:
        """Those of a subject, or of jobs with a tag (key:value), or all."""
        params = {name: value for name, value in (("alias", alias), ("tag", tag)) if value}
        for page in self._pages(TokenPage, "v1/tokens", params):
            yield from page.tokens

    def token(self, token: str) -> Token:
        return self._connection.ask(Token, "GET", f"v1/tokens/{token}")

    def token_file(self, token: str) -> bytes:
        """As it was learned, whole. `dti export` makes files of other programs of it.

        Raises: BrokenServerError, too, if it is not what the service says that it is.
        """
        answer = self._connection.request("GET", f"v1/tokens/{token}/file")
        digest = hashlib.sha256(answer.content).hexdigest()
        if answer.headers.get("etag", "").strip('"') != digest:
            raise BrokenServerError(f"token {token} was damaged on its way: fetch it again")
        return answer.content

    def delete_token(self, token: str) -> None:
        """For good."""
        self._connection.request("DELETE", f"v1/tokens/{token}")

    def paint(self, order: Mapping[str, Any], seeds: Sequence[int]) -> Iterator[PictureUpdate]:
        """A picture of each seed as it comes about; the order says all else, as
        /v1/images/generations has it.
        """
        return paint(self._connection, order, seeds)

    def _pages(self, model: type[P], path: str, params: Mapping[str, str]) -> Iterator[P]:
        """A list to its end."""
        cursor: str | None = ""
        while cursor is not None:
            asked = {"limit": str(_PAGE), **params, **({"cursor": cursor} if cursor else {})}
            page = self._connection.ask(model, "GET", path, params=asked)
            yield page
            cursor = page.next
