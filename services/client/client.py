"""The client of the service: one method per request."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from heapq import merge
from typing import Any, Self, TypeVar

from services.client import uploader
from services.client.config import ServerConfig
from services.client.errors import BrokenServerError, GoneError, ResourceNotFoundError
from services.client.http import HttpConnection
from services.client.images import ImageUpdate, generate
from services.client.schemas import (
    Erasure,
    ErasurePage,
    GenerationDraft,
    Item,
    ItemPage,
    Job,
    JobPage,
    Page,
    Retried,
    StoredUpload,
    StoredUploadPage,
    Token,
    TokenPage,
    TrainingDraft,
)
from services.client.uploader import UploadContent
from services.client.watch import Update, watch

P = TypeVar("P", bound=Page)

D = TypeVar("D", TrainingDraft, GenerationDraft)

_PAGE_SIZE = 200

KINDS = ("training", "generation")
"""Kinds of jobs; each has paths of its own."""


class Client:
    """A client of the service. Thread-safe.

    All methods raise subclasses of ClientError, which `services.client.errors` lists.
    """

    def __init__(self, connection: HttpConnection) -> None:
        self._connection = connection
        self._kinds: dict[str, str] = {}
        """The kinds of known jobs by id: the kind is part of a job's path."""

    @classmethod
    def at(cls, server: ServerConfig, **options: Any) -> Self:
        """Open a client of this server, with options of HttpConnection."""
        return cls(HttpConnection(server, **options))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._connection.close()

    def missing(self, contents: Sequence[UploadContent]) -> list[UploadContent]:
        """Return those contents that the service does not store yet."""
        return uploader.missing(self._connection, contents)

    def upload(
        self,
        contents: Sequence[UploadContent],
        *,
        on_sent: Callable[[UploadContent], None] = lambda content: None,
    ) -> None:
        """Upload what the service does not store; `on_sent` is called in any thread, once each."""
        uploader.upload(self._connection, contents, on_sent=on_sent)

    def draft(self, body: Mapping[str, Any]) -> TrainingDraft:
        """Return the training job that a request would make, without making it."""
        return self._draft(TrainingDraft, "training", body)

    def draft_images(self, body: Mapping[str, Any]) -> GenerationDraft:
        """Return the generation job that a request would make, without making it."""
        return self._draft(GenerationDraft, "generation", body)

    def submit(self, body: Mapping[str, Any], idempotency_key: str) -> Job:
        """Return the training job of this key, which an earlier call may have made."""
        return self._submit("training", body, idempotency_key)

    def submit_images(self, body: Mapping[str, Any], idempotency_key: str) -> Job:
        """Return the generation job of this key, which an earlier call may have made."""
        return self._submit("generation", body, idempotency_key)

    def jobs(self) -> Iterator[Job]:
        """Yield jobs of all kinds, the newest first: ids sort by age."""
        for job in merge(*map(self._jobs_of, KINDS), key=lambda job: job.job):
            self._kinds[job.job] = job.kind
            yield job

    def job(self, job: str) -> Job:
        """Return a job of whichever kind."""
        # An id does not tell its kind: both paths are tried, once for each job.
        kinds = [self._kinds[job]] if job in self._kinds else KINDS
        for kind in kinds:
            try:
                found = self._connection.fetch(Job, "GET", f"{_jobs_path(kind)}/{job}")
            except ResourceNotFoundError as error:
                if kind == kinds[-1] or isinstance(error, GoneError):
                    raise
            else:
                self._kinds[job] = kind
                return found
        raise AssertionError("unreachable: the last kind returns or raises")

    def items(self, job: str, *, state: str | None = None, start: int = 0) -> Iterator[Item]:
        """Yield items in order from index `start` on, of one state if that is given."""
        params = {"cursor": str(start)} if start else {}
        for page in self._pages(
            ItemPage, f"{self._path(job)}/items", params | ({"state": state} if state else {})
        ):
            yield from page.items

    def watch(self, job: str) -> Iterator[Update]:
        """Yield updates of a job until it has ended."""
        return watch(self._connection, self._path(job))

    def cancel(self, job: str) -> Job:
        """Cancel a job: its results stay, running items stop, queued ones do not start."""
        return self._connection.fetch(Job, "POST", f"{self._path(job)}/cancel")

    def retry(self, job: str) -> Retried:
        """Retry the failed items of a job."""
        return self._connection.fetch(Retried, "POST", f"{self._path(job)}/retry")

    def delete_job(self, job: str) -> None:
        """Delete a job with its tokens or images, for good."""
        self._connection.request("DELETE", self._path(job))

    def image(self, job: str, index: int) -> bytes:
        """Return the PNG of an item of a generation job.

        Raises: BrokenServerError if its digest is not the one that the service names.
        """
        path = f"{_jobs_path('generation')}/{job}/items/{index}/image"
        return self._download(path, f"image {index} of job {job}")

    def tokens(self, *, alias: str | None = None, tag: str | None = None) -> Iterator[Token]:
        """Yield the tokens of a subject, or of jobs with a tag (key:value), or all of them."""
        params = {name: value for name, value in (("alias", alias), ("tag", tag)) if value}
        for page in self._pages(TokenPage, "v1/tokens", params):
            yield from page.tokens

    def token(self, token: str) -> Token:
        """Return a token, without its file."""
        return self._connection.fetch(Token, "GET", f"v1/tokens/{token}")

    def token_file(self, token: str) -> bytes:
        """Return the file of a token; `dti export` converts it for other programs.

        Raises: BrokenServerError if its digest is not the one that the service names.
        """
        return self._download(f"v1/tokens/{token}/file", f"token {token}")

    def delete_token(self, token: str) -> None:
        """Delete a token for good."""
        self._connection.request("DELETE", f"v1/tokens/{token}")

    def uploads(self) -> Iterator[StoredUpload]:
        """Yield all uploads, by their digests."""
        for page in self._pages(StoredUploadPage, "v1/uploads", {}):
            yield from page.uploads

    def erase(self, what: str, name: str) -> Erasure:
        """Erase a subject, a tag (key:value) or a job, for good, and return the receipt."""
        return self._connection.fetch(Erasure, "POST", "v1/erasures", json={what: name})

    def erasures(self) -> Iterator[Erasure]:
        """Yield the receipts of all erasures."""
        for page in self._pages(ErasurePage, "v1/erasures", {}):
            yield from page.erasures

    def generate(self, body: Mapping[str, Any], seeds: Sequence[int]) -> Iterator[ImageUpdate]:
        """Generate an image per seed; `body` is a request to /v1/images/generations."""
        return generate(self._connection, body, seeds)

    def _draft(self, model: type[D], kind: str, body: Mapping[str, Any]) -> D:
        # The API requires a key, but does not store those of drafts.
        headers = {"Idempotency-Key": "draft"}
        draft = {**body, "dry_run": True}
        return self._connection.fetch(model, "POST", _jobs_path(kind), headers=headers, json=draft)

    def _submit(self, kind: str, body: Mapping[str, Any], idempotency_key: str) -> Job:
        headers = {"Idempotency-Key": idempotency_key}
        job = self._connection.fetch(Job, "POST", _jobs_path(kind), headers=headers, json=body)
        self._kinds[job.job] = kind
        return job

    def _jobs_of(self, kind: str) -> Iterator[Job]:
        for page in self._pages(JobPage, _jobs_path(kind), {}):
            yield from page.jobs

    def _path(self, job: str) -> str:
        """Return the path of a job; an unknown kind is requested once."""
        kind = self._kinds.get(job) or self.job(job).kind
        return f"{_jobs_path(kind)}/{job}"

    def _download(self, path: str, name: str) -> bytes:
        """Return a file whose ETag is its SHA-256. Raises: BrokenServerError if they differ."""
        response = self._connection.request("GET", path)
        digest = hashlib.sha256(response.content).hexdigest()
        if response.headers.get("etag", "").strip('"') != digest:
            raise BrokenServerError(f"{name} was damaged on its way: fetch it again")
        return response.content

    def _pages(self, model: type[P], path: str, params: Mapping[str, str]) -> Iterator[P]:
        """Yield the pages of a list."""
        cursor: str | None = ""
        while cursor is not None:
            query = {"limit": str(_PAGE_SIZE), **params, **({"cursor": cursor} if cursor else {})}
            page = self._connection.fetch(model, "GET", path, params=query)
            yield page
            cursor = page.next


def _jobs_path(kind: str) -> str:
    return f"v1/{kind}-jobs"
