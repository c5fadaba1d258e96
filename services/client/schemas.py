"""Responses of the API.

Unknown fields of later versions are kept, so that `--json` prints them; fields that earlier
versions lack have defaults.
"""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

ENDED = frozenset({"succeeded", "partially_succeeded", "failed", "cancelled"})
"""States of a job that has ended; an unknown state is taken for one that goes on."""


class Response(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")


class Counts(Response):
    """The number of a job's items in each state."""

    queued: int = 0
    running: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    deleted: int = 0

    @property
    def ended(self) -> int:
        return self.succeeded + self.failed + self.cancelled + self.deleted

    def by_name(self) -> list[tuple[str, int]]:
        """Return the counts of the states that this program knows."""
        return [(name, getattr(self, name)) for name in type(self).model_fields]


class Job(Response):
    """The state of a job."""

    job: str
    kind: str = "training"
    pool: str = ""
    model: str = ""
    state: str
    count: int
    counts: Counts
    tags: dict[str, str] = {}
    submitted: datetime
    created: bool | None = Field(default=None, description="None: not the response to a submission")
    warning: str | None = Field(
        default=None, description="why the job makes no progress, and what to do"
    )
    warnings: tuple[str, ...] = Field(
        default=(), description="of a submission: what of the request has no effect"
    )

    @property
    def ended(self) -> bool:
        return self.state in ENDED


class Progress(Response):
    """The progress of an item."""

    step: int = 0
    steps: int = 0
    loss: float | None = None
    phase: str = ""


class Item(Response):
    """The state of an item."""

    index: int
    id: str
    state: str
    reason: str = ""
    attempt: int = 0
    token: str | None = None
    url: str | None = Field(default=None, description="of an image: signed, valid for a while")
    sha256: str | None = Field(default=None, description="of an image")
    report: dict[str, Any] | None = None
    progress: Progress | None = None


class Token(Response):
    """A learned token that the service stores."""

    token: str
    alias: str = ""
    sha256: str = ""
    created: datetime | None = None
    tags: dict[str, str] = {}
    manifest: dict[str, Any] | None = None
    report: dict[str, Any] | None = None


class Page(Response):
    """A page of a list."""

    next: str | None = None


class JobPage(Page):
    jobs: tuple[Job, ...]


class ItemPage(Page):
    items: tuple[Item, ...]


class TokenPage(Page):
    tokens: tuple[Token, ...]


class UploadForm(Response):
    """The request that uploads a file."""

    method: str
    url: str
    fields: dict[str, str] = {}


class Upload(Response):
    """The state of an upload: stored already, or the way to upload it."""

    sha256: str
    present: bool
    upload: UploadForm | None = None


class Uploads(Response):
    files: tuple[Upload, ...]


class StoredUpload(Response):
    """A file that was uploaded."""

    sha256: str
    size: int = 0
    uploaded: datetime | None = None


class StoredUploadPage(Page):
    uploads: tuple[StoredUpload, ...]


class Erasure(Response):
    """The receipt of an erasure."""

    id: str
    what: str = ""
    by: str = ""
    started: datetime | None = None
    finished: datetime | None = None
    counts: dict[str, int] = {}


class ErasurePage(Page):
    erasures: tuple[Erasure, ...]


class Retried(Response):
    """The number of failed items that are retried."""

    retried: int = 0


class GenerationDraft(Response):
    """The generation job that a request would make."""

    count: int
    model: str
    prompts: int
    variants: int
    seeds: int
    steps: int = Field(description="denoising steps of all images together")
    missing_tokens: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class TrainingDraft(Response):
    """The training job that a request would make."""

    count: int
    model: str
    recipe: str
    config: dict[str, Any]
    steps: int = Field(description="training steps of all subjects together, at most")
    learns_photographs: bool = True
