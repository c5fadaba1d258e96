"""Everything the service can be asked for, one method each."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from heapq import merge
from typing import Any, Self, TypeVar

from services.client import uploads
from services.client.config import ServerConfig
from services.client.errors import BrokenServerError, GoneError, NoSuchThingError
from services.client.http import HttpConnection
from services.client.images import ImageUpdate, generate
from services.client.schemas import (
    GenerationDraft,
    Item,
    ItemPage,
    Job,
    JobPage,
    Page,
    Retried,
    Token,
    TokenPage,
    TrainingDraft,
)
from services.client.uploads import UploadContent
from services.client.watch import Update, watch

P = TypeVar("P", bound=Page)

D = TypeVar("D", TrainingDraft, GenerationDraft)

_PAGE = 200

KINDS = ("training", "generation")
"""Of jobs. Each has paths of its own."""


class Client:
    """All methods raise ClientError; `services.client.errors` says which. Safe to share between
    threads.
    """

    def __init__(self, connection: HttpConnection) -> None:
        self._connection = connection
        self._kinds: dict[str, str] = {}
        """Of jobs that were heard of."""

    @classmethod
    def at(cls, access: ServerConfig, **how: Any) -> Self:
        """how: as of Connection."""
        return cls(HttpConnection(access, **how))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._connection.close()

    def missing(self, parcels: Sequence[UploadContent]) -> list[UploadContent]:
        """Those of them that were not uploaded yet."""
        return uploads.missing(self._connection, parcels)

    def upload(
        self,
        parcels: Sequence[UploadContent],
        *,
        on_sent: Callable[[UploadContent], None] = lambda parcel: None,
    ) -> None:
        """Upload those that were not yet; `on_sent` hears of each that is there, in any thread."""
        uploads.upload(self._connection, parcels, on_sent=on_sent)

    def draft(self, order: Mapping[str, Any]) -> TrainingDraft:
        """What would be made of an order of subjects; nothing is."""
        return self._draft(TrainingDraft, "training", order)

    def draft_images(self, order: Mapping[str, Any]) -> GenerationDraft:
        """The same of an order of images."""
        return self._draft(GenerationDraft, "generation", order)

    def submit(self, order: Mapping[str, Any], key: str) -> Job:
        """The job of these subjects: made now, or by an earlier call with the same key."""
        return self._submit("training", order, key)

    def submit_images(self, order: Mapping[str, Any], key: str) -> Job:
        """The same of images."""
        return self._submit("generation", order, key)

    def jobs(self) -> Iterator[Job]:
        """Of all kinds, the newest first, as their ids sort."""
        for job in merge(*map(self._jobs_of, KINDS), key=lambda job: job.job):
            self._kinds[job.job] = job.kind
            yield job

    def job(self, job: str) -> Job:
        """Of whatever kind it is."""
        kinds = [self._kinds[job]] if job in self._kinds else KINDS
        for kind in kinds:
            try:
                found = self._connection.ask(Job, "GET", f"{_path(kind)}/{job}")
            except NoSuchThingError as error:
                if kind == kinds[-1] or isinstance(error, GoneError):
                    raise
            else:
                self._kinds[job] = kind
                return found
        raise AssertionError

    def items(self, job: str, *, state: str | None = None, start: int = 0) -> Iterator[Item]:
        """In order, from index `start` on; those in one state, if that is given."""
        params = {"cursor": str(start)} if start else {}
        for page in self._pages(
            ItemPage, f"{self._place(job)}/items", params | ({"state": state} if state else {})
        ):
            yield from page.items

    def watch(self, job: str) -> Iterator[Update]:
        """What happens to the job, until it has ended."""
        return watch(self._connection, self._place(job))

    def cancel(self, job: str) -> Job:
        return self._connection.ask(Job, "POST", f"{self._place(job)}/cancel")

    def retry(self, job: str) -> Retried:
        """Let its failed items be tried again."""
        return self._connection.ask(Retried, "POST", f"{self._place(job)}/retry")

    def delete_job(self, job: str) -> None:
        """With its tokens, or images, for good."""
        self._connection.request("DELETE", self._place(job))

    def image(self, job: str, index: int) -> bytes:
        """The PNG that an item of a job has made, whole.

        Raises: BrokenServerError, too, if it is not what the service says that it is.
        """
        path = f"{_path('generation')}/{job}/items/{index}/image"
        return self._whole(path, f"image {index} of job {job}")

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
        return self._whole(f"v1/tokens/{token}/file", f"token {token}")

    def delete_token(self, token: str) -> None:
        """For good."""
        self._connection.request("DELETE", f"v1/tokens/{token}")

    def generate(self, order: Mapping[str, Any], seeds: Sequence[int]) -> Iterator[ImageUpdate]:
        """An image of each seed as it comes about; the order says all else, as
        /v1/images/generations has it.
        """
        return generate(self._connection, order, seeds)

    def _draft(self, model: type[D], kind: str, order: Mapping[str, Any]) -> D:
        # A key is required, and remembered of no draft.
        headers = {"Idempotency-Key": "draft"}
        body = {**order, "dry_run": True}
        return self._connection.ask(model, "POST", _path(kind), headers=headers, json=body)

    def _submit(self, kind: str, order: Mapping[str, Any], key: str) -> Job:
        headers = {"Idempotency-Key": key}
        job = self._connection.ask(Job, "POST", _path(kind), headers=headers, json=order)
        self._kinds[job.job] = kind
        return job

    def _jobs_of(self, kind: str) -> Iterator[Job]:
        for page in self._pages(JobPage, _path(kind), {}):
            yield from page.jobs

    def _place(self, job: str) -> str:
        """The path of a job, whose kind is asked for once."""
        kind = self._kinds.get(job) or self.job(job).kind
        return f"{_path(kind)}/{job}"

    def _whole(self, path: str, what: str) -> bytes:
        """A file whose ETag is its SHA-256."""
        answer = self._connection.request("GET", path)
        digest = hashlib.sha256(answer.content).hexdigest()
        if answer.headers.get("etag", "").strip('"') != digest:
            raise BrokenServerError(f"{what} was damaged on its way: fetch it again")
        return answer.content

    def _pages(self, model: type[P], path: str, params: Mapping[str, str]) -> Iterator[P]:
        """A list to its end."""
        cursor: str | None = ""
        while cursor is not None:
            asked = {"limit": str(_PAGE), **params, **({"cursor": cursor} if cursor else {})}
            page = self._connection.ask(model, "GET", path, params=asked)
            yield page
            cursor = page.next


def _path(kind: str) -> str:
    return f"v1/{kind}-jobs"
