"""Selection of what is erased: items of all jobs that learn a subject, or make images of it.

Every job of the tenant is read: no index tells which jobs name a subject, since jobs may name it in
their specs alone.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import JsonValue

from services.api.erasures.receipts import What
from services.contracts.jobs import Kind
from services.contracts.training import upload_digests
from services.errors import DamagedRecordError, DeletedError, UnknownJobError
from services.ledger.ids import is_job_id, token_id
from services.ledger.jobs import JobSpec, read_commands, read_job, read_spec
from services.ledger.keys import JobKeys, jobs_folder
from services.ledger.ledger import Ledger

_GONE = (DamagedRecordError, DeletedError, UnknownJobError)


@dataclass(frozen=True, slots=True)
class Target:
    """A target of an erasure: a subject by its id, a tag as KEY:VALUE, or a job by its id."""

    what: What
    name: str

    def matches_job(self, job: str, tags: Mapping[str, str]) -> bool:
        """Return whether a whole job is to be erased."""
        key, _, value = self.name.partition(":")
        if self.what == "tag":
            return tags.get(key) == value
        return self.what == "job" and job == self.name


@dataclass(frozen=True, slots=True)
class SelectedJob:
    """The items of one job that are to be erased."""

    keys: JobKeys
    kind: Kind
    count: int
    indices: frozenset[int]
    is_whole: bool
    """Whether the job is deleted as a whole."""
    token_ids: frozenset[str] = frozenset()
    """The ids of the tokens that these items have learned, or may have."""


@dataclass(slots=True)
class Selection:
    """Everything that is to be erased."""

    jobs: list[SelectedJob] = field(default_factory=list[SelectedJob])
    names: set[str] = field(default_factory=set[str])
    """The token ids and aliases by which images name what is erased."""
    uploads: set[str] = field(default_factory=set[str])
    """The digests of the uploads that nothing else names."""


@dataclass(frozen=True, slots=True)
class _TrainingJob:
    """A training job with the uploads that it names, split into erased ones and the rest."""

    selected: SelectedJob
    names: frozenset[str]
    other_names: frozenset[str]
    uploads: frozenset[str]
    other_uploads: frozenset[str]


def select(ledger: Ledger, tenant: str, target: Target) -> Selection:
    """Return what is to be erased."""
    jobs = [job for job in ledger.folders(jobs_folder(tenant)) if is_job_id(job)]
    found = ledger.gather(lambda job: _read_training(ledger, tenant, job, target), jobs)
    trained = [each for each in found if each]
    selection = Selection()
    selection.jobs = [each.selected for each in trained if _is_selected(each.selected)]
    selection.names = {name for each in selection.jobs for name in each.token_ids}
    others = {name for each in trained for name in each.other_names}
    # An alias that another job has trained, too, stands for a subject that stays.
    selection.names |= {name for each in trained for name in each.names} - others
    if target.what == "subject":
        selection.names.add(target.name)
    kept = {sha256 for each in trained for sha256 in each.other_uploads}
    selection.uploads = {sha256 for each in trained for sha256 in each.uploads} - kept
    names = selection.names
    generated = ledger.gather(
        lambda job: _read_generation(ledger, tenant, job, target, names), jobs
    )
    selection.jobs += [each for each in generated if each and _is_selected(each)]
    return selection


def redact_generation(
    items: Sequence[Any], shared: Mapping[str, JsonValue], names: Collection[str]
) -> dict[str, JsonValue]:
    """Return the `shared` part of a generation job without the names of what is erased."""
    content: Any = shared
    prompts, variants = _naming(content, names)
    redacted: Any = {
        **content,
        "prompts": [
            {"prompt": "erased", "tokens": {}} if index in prompts else prompt
            for index, prompt in enumerate(content["prompts"])
        ],
        "variants": [
            {"tokens": {}, "blends": {}} if index in variants else variant
            for index, variant in enumerate(content["variants"])
        ],
    }
    return redacted


def _is_selected(job: SelectedJob) -> bool:
    return job.is_whole or bool(job.indices)


def _read_training(ledger: Ledger, tenant: str, job: str, target: Target) -> _TrainingJob | None:
    keys = JobKeys(tenant, job)
    try:
        if read_job(ledger, keys)[1].kind != "training":
            return None
        spec, commands = read_spec(ledger, keys), read_commands(ledger, keys)
    except _GONE:
        return None
    count = spec.record.count
    if target.matches_job(job, spec.record.tags):
        matching = frozenset(range(count))
    elif target.what == "subject":
        matching = frozenset(i for i in range(count) if _name(spec, i) == target.name)
    else:
        matching = frozenset[int]()
    others = [i for i in range(count) if i not in matching and i not in commands.deleted_items]
    manifest = spec.shared.get("manifest")
    manifests = {manifest} if matching and isinstance(manifest, str) else set[str]()
    return _TrainingJob(
        selected=SelectedJob(
            keys,
            "training",
            count,
            matching,
            is_whole=bool(matching) and not others,
            token_ids=frozenset(
                token_id(job, round_, index) for round_ in commands.rounds for index in matching
            ),
        ),
        names=frozenset(_name(spec, index) for index in matching),
        other_names=frozenset(_name(spec, index) for index in others),
        uploads=frozenset(manifests | {sha for i in matching for sha in _uploads(spec, i)}),
        other_uploads=frozenset(sha for index in others for sha in _uploads(spec, index)),
    )


def _read_generation(
    ledger: Ledger, tenant: str, job: str, target: Target, names: Collection[str]
) -> SelectedJob | None:
    keys = JobKeys(tenant, job)
    try:
        record = read_job(ledger, keys)[1]
        if record.kind != "generation":
            return None
        if target.matches_job(job, record.tags):
            everything = frozenset(range(record.count))
            return SelectedJob(keys, "generation", record.count, everything, is_whole=True)
        spec = read_spec(ledger, keys) if names else None
    except _GONE:
        return None
    if spec is None:
        return None
    prompts, variants = _naming(spec.shared, names)
    matching = frozenset(
        index
        for index, item in enumerate(spec.items)
        if item["work"].get("prompt") in prompts or item["work"].get("variant") in variants
    )
    is_whole = len(matching) == record.count
    return SelectedJob(keys, "generation", record.count, matching, is_whole=is_whole)


def _naming(shared: Any, names: Collection[str]) -> tuple[set[int], set[int]]:
    """Return the prompts and the variants of a generation job that name what is erased."""
    # All prompts have the negative prompt beside them.
    in_all = any(name in names for name in shared.get("negative_tokens", {}).values())
    prompts = {
        index
        for index, prompt in enumerate(shared["prompts"])
        if in_all or any(name in names for name in prompt["tokens"].values())
    }
    variants = {
        index
        for index, variant in enumerate(shared["variants"])
        if any(name in names for name in _bound(variant))
    }
    return prompts, variants


def _bound(variant: Any) -> Iterator[str]:
    yield from variant["tokens"].values()
    for blend in variant["blends"].values():
        yield from (part["token"] for part in blend)


def _name(spec: JobSpec, index: int) -> str:
    return spec.items[index]["name"]


def _uploads(spec: JobSpec, index: int) -> Iterator[str]:
    return upload_digests(spec.items[index]["work"])
