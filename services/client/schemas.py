"""What the API answers. Fields that later versions add are kept unread, so that `--json` shows
them; those of which earlier ones know nothing have defaults.
"""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

ENDED = frozenset({"succeeded", "partially_succeeded", "failed", "cancelled"})
"""States of a job that has ended. States that are not known here go on."""


class Response(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")


class Counts(Response):
    """How many items of a job are in each state."""

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
        """Those that this program knows."""
        return [(name, getattr(self, name)) for name in type(self).model_fields]


class Job(Response):
    """How a job stands."""

    job: str
    kind: str = "training"
    pool: str = ""
    model: str = ""
    state: str
    count: int
    counts: Counts
    tags: dict[str, str] = {}
    submitted: datetime
    created: bool | None = Field(default=None, description="None: no answer to a submission")
    warning: str | None = Field(default=None, description="why it does not go on, and what to do")

    @property
    def ended(self) -> bool:
        return self.state in ENDED


class Progress(Response):
    """How far an item is."""

    step: int = 0
    steps: int = 0
    loss: float | None = None
    phase: str = ""


class Item(Response):
    """How an item stands."""

    index: int
    id: str
    state: str
    reason: str = ""
    attempt: int = 0
    token: str | None = None
    url: str | None = Field(default=None, description="of an image: for anyone, for a while")
    sha256: str | None = Field(default=None, description="of an image")
    report: dict[str, Any] | None = None
    progress: Progress | None = None


class Token(Response):
    """A learned token that the service keeps."""

    token: str
    alias: str = ""
    sha256: str = ""
    created: datetime | None = None
    tags: dict[str, str] = {}
    manifest: dict[str, Any] | None = None
    report: dict[str, Any] | None = None


class Page(Response):
    next: str | None = None


class JobPage(Page):
    jobs: tuple[Job, ...]


class ItemPage(Page):
    items: tuple[Item, ...]


class TokenPage(Page):
    tokens: tuple[Token, ...]


class UploadForm(Response):
    """Where and how bytes are uploaded."""

    method: str
    url: str
    fields: dict[str, str] = {}


class Upload(Response):
    """What the service says of bytes that were announced."""

    sha256: str
    present: bool
    upload: UploadForm | None = None


class Uploads(Response):
    files: tuple[Upload, ...]


class Retried(Response):
    """How many failed items are tried again."""

    retried: int = 0


class GenerationDraft(Response):
    """The job of images that would be made of an order."""

    count: int
    model: str
    prompts: int
    variants: int
    seeds: int
    steps: int = Field(description="of all images together")
    missing_tokens: tuple[str, ...] = ()


class TrainingDraft(Response):
    """The job that would be made of an order."""

    count: int
    model: str
    recipe: str
    config: dict[str, Any]
    steps: int = Field(description="of all subjects together, at most")
