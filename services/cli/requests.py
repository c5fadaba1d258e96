"""Requests to the service, built from options, and bundles checked before they are sent."""

import hashlib
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.markup import escape

from dti_engine.cli.config_options import parse_pairs
from dti_engine.cli.console import print_json, results, say, warn
from dti_engine.cli.progress import ProgressBar
from dti_engine.cli.subjects import SubjectPlan
from dti_engine.errors import ConfigurationError, DTIError, SubjectError
from services.cli.display import facts_table, job_words
from services.cli.options import refuse_output_without_wait
from services.client.schemas import Job

if TYPE_CHECKING:
    from services.client.client import Client
    from services.client.uploader import UploadContent

_MAX_WARNINGS = 20  # that are printed one by one
_MAX_CHECKS = min(4, os.cpu_count() or 1)  # at a time; each runs a process that decodes images
_MAX_INLINE = 500  # subjects in the request itself; more are uploaded as a manifest


@dataclass(frozen=True, slots=True)
class JobOptions:
    """Options that jobs of both kinds have."""

    tags: Sequence[str]
    webhook: str | None
    idempotency_key: str | None
    again: bool
    dry_run: bool
    wait: bool
    output: Path | None

    def __post_init__(self) -> None:
        """Raise ConfigurationError if options contradict each other."""
        if self.idempotency_key and self.again:
            raise ConfigurationError(
                "--idempotency-key may name an existing job and --again makes a new one: drop one"
            )
        refuse_output_without_wait(self.output, wait=self.wait)
        if self.dry_run and self.wait:
            raise ConfigurationError("--dry-run makes no job that --wait could wait for: drop one")

    def body(self) -> dict[str, Any]:
        """Return the fields that they set; None leaves a field out of the request."""
        return {
            "tags": parse_tags(self.tags) or None,
            "webhook": {"url": self.webhook} if self.webhook else None,
        }


@dataclass(frozen=True, slots=True)
class SubmitRequest:
    """The body of a submission, and the manifest that it names, if it does."""

    body: Mapping[str, Any]
    manifest: "UploadContent | None" = None

    def key(self, options: JobOptions) -> str:
        """Return the idempotency key: given, random with --again, or a digest of the body."""
        if options.idempotency_key:
            return options.idempotency_key
        # By default the same command finds the same job again, also after a lost connection.
        key = f"dti-{hashlib.sha256(_canonical_json(self.body)).hexdigest()}"
        return f"{key}-{secrets.token_hex(8)}" if options.again else key


@dataclass(frozen=True, slots=True)
class CheckedBundle:
    """A bundle that the service will accept."""

    plan: SubjectPlan
    kind: str | None
    """The kind in bundle.json."""
    content: "UploadContent"
    warnings: Sequence[str]
    has_photographs: bool = False


def request_of(fields: Mapping[str, Any]) -> SubmitRequest:
    """Return a request with the fields that are not None."""
    return SubmitRequest({name: value for name, value in fields.items() if value is not None})


def training_request(
    bundles: Sequence[CheckedBundle],
    *,
    kind: str | None,
    consent: Mapping[str, Any] | None,
    fields: Mapping[str, Any],
) -> SubmitRequest:
    """Return the request that trains the bundles.

    Args:
        bundles: the subjects.
        kind: replaces the kind in each bundle.json.
        consent: the record for persons.
        fields: fields of the whole job; None leaves one to the service.

    Raises: ConfigurationError if there is a person without consent.
    """
    from services.client.uploader import content_of

    subjects = [_subject(bundle, kind or bundle.kind, consent) for bundle in bundles]
    body = request_of(fields).body
    if len(subjects) <= _MAX_INLINE:
        return SubmitRequest({**body, "subjects": subjects})
    manifest = content_of(b"".join(_canonical_json(subject) + b"\n" for subject in subjects))
    return SubmitRequest({**body, "manifest": manifest.sha256}, manifest)


def _subject(
    bundle: CheckedBundle, kind: str | None, consent: Mapping[str, Any] | None
) -> dict[str, Any]:
    if kind == "person" and consent is None:
        raise ConfigurationError(
            f"{bundle.plan.name} is a person, who has to consent: say who attests it and on what "
            'basis, such as --consent-by "Studio Nine" --consent-basis "signed form of 2 May"'
        )
    subject = {
        "id": bundle.plan.name,
        "bundle": bundle.content.sha256,
        "placeholder": bundle.plan.placeholder,
        "initializer": bundle.plan.initializer,
        "kind": kind,
        "consent": consent if kind == "person" else None,
    }
    return {name: value for name, value in subject.items() if value is not None}


def check_bundles(
    plans: Sequence[SubjectPlan],
) -> tuple[list[CheckedBundle], dict[str, DTIError]]:
    """Check bundles as the service will; return the good ones, and the errors of others by name."""
    checked, refused = list[CheckedBundle](), dict[str, DTIError]()
    pool = ThreadPoolExecutor(_MAX_CHECKS)
    try:
        with ProgressBar("checking", len(plans)) as progress:
            for plan, result in zip(plans, pool.map(_check_bundle, plans), strict=True):
                progress.advance()
                if isinstance(result, CheckedBundle):
                    checked.append(result)
                else:
                    refused[plan.name] = result
    finally:
        pool.shutdown(cancel_futures=True)
    warnings = [f"{each.plan.name}: {line}" for each in checked for line in each.warnings]
    for line in warnings[:_MAX_WARNINGS]:
        warn(line)
    if len(warnings) > _MAX_WARNINGS:
        warn(f"{len(warnings) - _MAX_WARNINGS} more warnings; `dti bundle check` lists them all")
    return checked, refused


def _check_bundle(plan: SubjectPlan) -> CheckedBundle | DTIError:
    from dti_engine.images.bundles.bundle import load_bundle
    from services.client.uploader import bundle_content

    try:
        bundle = load_bundle(plan.path, words=plan.words)
        content = bundle_content(plan.path)
    except SubjectError as error:
        return error.bare()  # its traceback would keep the images in memory
    warnings = [str(warning) for warning in bundle.warnings]
    return CheckedBundle(plan, bundle.description.kind, content, warnings, bundle.shows_photographs)


def finish_submission(
    client: "Client", job: Job, options: JobOptions, *, as_json: bool, names: Sequence[str] = ()
) -> None:
    """Wait for a submitted job if requested, or print its id.

    `names` are those of its items, by index, as far as they are known.
    """
    for warning in job.warnings:
        warn(warning)
    if not job.created:
        say("the same request made this job before; --again makes another")
    if options.wait:
        from services.cli.wait import wait_for_job

        wait_for_job(client, job, output=options.output, as_json=as_json, names=names)
    elif as_json:
        print_json(job.model_dump(mode="json"))
    else:
        typer.echo(job.job)
        say(
            f"{job.count} {job_words(job.kind).item}s submitted; "
            f"`dti job {job.job} --wait` shows progress and downloads the results"
        )


def print_draft(document: Mapping[str, Any], facts: Mapping[str, str], *, as_json: bool) -> None:
    """Print what a dry run has found out: the document, or the facts as a table."""
    if as_json:
        print_json(document)
        return
    results.print(facts_table({name: escape(value) for name, value in facts.items()}))
    say("nothing was submitted")


def consent_record(
    by: str | None, basis: str | None, until: datetime | None
) -> dict[str, Any] | None:
    """Return the consent record of persons, or None. Raises: ConfigurationError if incomplete."""
    if by is None and basis is None and until is None:
        return None
    if by is None or basis is None:
        raise ConfigurationError(
            "consent takes both: --consent-by, who attests it, and --consent-basis, such as "
            '"signed form of 2 May"'
        )
    record = {"attested_by": by, "basis": basis}
    if until:
        record["expires_at"] = until.replace(tzinfo=UTC).isoformat()
    return record


def parse_tags(pairs: Sequence[str]) -> dict[str, str]:
    """Return tags by name: `batch=may` -> {"batch": "may"}. Raises: ConfigurationError."""
    return parse_pairs("--tag", pairs, example="customer=7")


def _canonical_json(document: object) -> bytes:
    """Return JSON that is the same for the same document, for digests."""
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
